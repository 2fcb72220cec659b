"""Sinh-arcsinh flows, a partition, a mixture, a task and a metric for flowzoo."""
