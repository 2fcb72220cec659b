"""Distances between two sets of feature vectors, and the network that makes them from images."""
