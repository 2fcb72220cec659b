"""Training-step timings against other flow libraries: ``python -m flowzoo_bench.speed``."""
