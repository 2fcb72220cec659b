"""Quantiles of samples against those of test rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flowzoo import Metric, MetricValue, Trained


class QuantileDistance(Metric):
    """Mean absolute difference of the deciles of every coordinate.

    Args:
        num_samples: how many samples are drawn.
    """

    def __init__(self, *, num_samples: int = 1000) -> None:
        if num_samples < 1:
            raise ValueError(f"num_samples: expected >= 1, got {num_samples}")
        self.num_samples = num_samples

    def compute(self, trained: Trained) -> Sequence[MetricValue]:
        levels = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
        drawn = trained.sample(self.num_samples, trained.seed).to("cpu", torch.float64)
        test = trained.splits.test
        gap = torch.quantile(drawn, levels, dim=0) - torch.quantile(test, levels, dim=0)
        return [
            MetricValue("quantile_distance", float(gap.abs().mean()), direction="min", n=len(drawn))
        ]
