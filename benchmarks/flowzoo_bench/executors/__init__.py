"""Executors: what carries packs to processors."""
