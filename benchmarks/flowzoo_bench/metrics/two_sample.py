"""Distances between generated samples and held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan, sqrt

import torch
from torch import Tensor

from flowzoo.interfaces.metric import Metric, MetricValue, Trained
from flowzoo.validation import check_positive
from flowzoo_bench.tasks.coordinates import coordinates

_VALUES = 1 << 24  # distances, or projected values, worked on at once
_SEED = 0  # rows are chosen, and directions drawn, alike for all methods


class TwoSample(Metric):
    r"""How far samples are from held-out test rows, as two distances between distributions.

    * ``sliced_wasserstein``: root mean square over random directions of the exact Wasserstein-2
      distance between the projections (Bonneel et al. 2015).
    * ``energy_distance``: ``2 E|X - Y| - E|X - X'| - E|Y - Y'|``, unbiased, so that it may be below
      0 where nothing tells the two apart (Szekely & Rizzo 2013).

    n = ``num_samples`` samples, or fewer where there are fewer training or test rows, against as
    many test rows; ``reference`` is the same of as many training rows. The sliced distance of n
    rows is not 0 even where the distributions are equal: it wants to be like its reference.

    Lengths are in units of the test rows' spread, one number for all columns, the root of their
    mean variance: a sample with no spread at the mean of the data has a sliced distance of about 1.
    Columns are as the task has them, or scaled by training moments where models see them so. No
    values where there are fewer than two rows, or no spread; NaN if a sample is not finite.

    Args:
        num_samples: how many samples are drawn, at most.
        projections: how many directions.

    Raises:
        ValueError: an option is not a positive integer.
    """

    def __init__(self, *, num_samples: int = 2000, projections: int = 128) -> None:
        self.num_samples = check_positive("num_samples", num_samples)
        self.projections = check_positive("projections", projections)

    def compute(self, trained: Trained) -> Sequence[MetricValue]:
        """Draw samples and compare.

        Raises:
            ValueError: the model draws rows of another shape.
        """
        splits, task = trained.splits, trained.task
        n = min(self.num_samples, len(splits.train), len(splits.test))
        if n < 2:
            return []
        samples = trained.sample(n, trained.seed).to("cpu", torch.float64)
        if samples.shape != (n, task.features):
            raise ValueError(
                f"sample: expected shape ({n}, {task.features}), got {tuple(samples.shape)}"
            )
        test, train = _some(splits.test, n), _some(splits.train, n)
        if task.standardize:
            seen = coordinates(task, splits.train)
            test, train, samples = (seen.encode(x) for x in (test, train, samples))
        centre = test.mean(dim=0)
        spread = float((test - centre).square().mean().sqrt())
        if spread == 0.0:
            return []
        # centred: the matrix products of distances then round at the scale of the spread
        test, train, samples = ((x - centre) / spread for x in (test, train, samples))
        within = mean_distance(test)
        return [
            MetricValue(
                "sliced_wasserstein",
                sliced_wasserstein(samples, test, self.projections),
                "spreads",
                "min",
                n=n,
                reference=sliced_wasserstein(train, test, self.projections),
            ),
            MetricValue(
                "energy_distance",
                2 * mean_distance(samples, test) - mean_distance(samples) - within,
                "spreads",
                "min",
                n=n,
                reference=2 * mean_distance(train, test) - mean_distance(train) - within,
            ),
        ]


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int) -> float:
    """Root mean square over fixed random directions of W2 between the projections of x, y (N, D).

    Example:
        >>> x = torch.zeros(4, 1)
        >>> sliced_wasserstein(x, x + 2.0, 8)
        2.0
    """
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        return nan
    generator = torch.Generator().manual_seed(_SEED)
    total = 0.0
    for at in range(0, projections, step := max(1, _VALUES // len(x))):
        drawn = torch.randn(
            x.shape[1], min(step, projections - at), generator=generator, dtype=torch.float64
        )
        along = (drawn / torch.linalg.vector_norm(drawn, dim=0)).to(x.dtype)
        first, second = ((rows @ along).sort(dim=0).values for rows in (x, y))
        total += float((first - second).square().mean(dim=0).sum())
    return sqrt(total / projections)


def mean_distance(x: Tensor, y: Tensor | None = None) -> float:
    """Mean Euclidean distance of rows x (N, D) to rows y (M, D), or of x to its other rows.

    Example:
        >>> mean_distance(torch.tensor([[0.0], [1.0], [3.0]]))
        2.0
    """
    others = x if y is None else y
    if not bool(torch.isfinite(x).all() and torch.isfinite(others).all()):
        return nan
    total = 0.0
    for at in range(0, len(x), step := max(1, _VALUES // len(others))):
        distances = torch.cdist(x[at : at + step], others)
        if y is None:  # rounding leaves a row off itself
            distances.diagonal(at).zero_()
        total += float(distances.sum())
    return total / (len(x) * (len(others) - (y is None)))


def _some(x: Tensor, count: int) -> Tensor:
    """``count`` of the rows, the same for all methods."""
    generator = torch.Generator().manual_seed(_SEED)
    return x[torch.randperm(len(x), generator=generator)[:count]]
