"""Spread flows: a base flow over a prior of the data's own dimension."""
