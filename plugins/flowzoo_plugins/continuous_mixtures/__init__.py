"""Localised generative flows and their relatives: mixtures of bijections over an index."""
