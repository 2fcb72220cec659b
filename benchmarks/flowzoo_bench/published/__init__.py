"""Numbers papers report, and our tables beside them: ``python -m flowzoo_bench.published DIR``."""
