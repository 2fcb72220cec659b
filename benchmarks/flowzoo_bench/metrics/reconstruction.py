"""How far the data are from a model's manifold."""

from __future__ import annotations

from math import sqrt

import torch

from flowzoo.interfaces.metric import MetricValue, Trained
from flowzoo_bench.metrics.rows import row_mean


def reconstruction_error(trained: Trained) -> list[MetricValue]:
    r"""Root mean squared distance of the test rows to their reconstruction, in the task's units.

    .. math:: \sqrt{\tfrac1N \sum_n |x_n - c(c^\dagger(x_n))|^2}

    No value for a model that does not reconstruct. The standard error is that of the mean square,
    by the chain rule.
    """
    if trained.reconstruct is None:
        return []
    test = trained.splits.test
    point = trained.reconstruct(test).to("cpu", torch.float64)
    mean = row_mean((test - point).square().sum(dim=1))
    root = sqrt(mean.mean) if mean.mean >= 0.0 else mean.mean  # NaN stays
    stderr = None if mean.stderr is None or root == 0.0 else mean.stderr / (2.0 * root)
    return [MetricValue("reconstruction_error", root, direction="min", n=mean.n, stderr=stderr)]
