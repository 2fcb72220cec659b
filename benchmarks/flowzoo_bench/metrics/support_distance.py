"""How far generated samples are from where the data lives."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch

from flowzoo.interfaces.metric import Metric, MetricValue, Trained
from flowzoo.interfaces.task import Task
from flowzoo.validation import check_positive
from flowzoo_bench.metrics.rows import on_finite_rows, row_mean


class SupportDistance(Metric):
    """Mean distance of generated samples to the noiseless support, and bridge mass.

    * ``sample_distance``: mean distance, in the task's units.
    * ``bridge_mass``: share of samples farther than ``far`` noise standard deviations, or not
      finite; what a global flow leaves between parts of the support that it cannot separate. Only
      where the task has noise. Noise alone takes a row sqrt(D - d) of them from a support of d
      dimensions: where the task knows d, of a union the smallest, and D - d > 2, the limit is
      farther by sqrt(D - d) - sqrt(2). Where it does not, in many columns, data score near 1 too.

    Each has the same number of the held-out test rows as ``reference``. No values where the task
    does not know its support. A non-finite sample makes the mean distance NaN.

    Args:
        num_samples: how many samples are drawn.
        far: how many standard deviations are far.

    Raises:
        ValueError: ``num_samples`` is not a positive integer, or ``far`` is not positive.
    """

    def __init__(self, *, num_samples: int = 2500, far: float = 5.0) -> None:
        self.num_samples = check_positive("num_samples", num_samples)
        if not far > 0:
            raise ValueError(f"far: expected a positive number, got {far!r}")
        self.far = float(far)

    def compute(self, trained: Trained) -> Sequence[MetricValue]:
        """Draw samples and measure their distances."""
        task = trained.task
        if type(task).distance is Task.distance:
            return []
        samples = trained.sample(self.num_samples, trained.seed).to("cpu", torch.float64)
        distance = on_finite_rows(task.distance, samples)
        real = task.distance(trained.splits.test)
        mean = row_mean(distance)
        values = [
            MetricValue(
                "sample_distance",
                mean.mean,
                direction="min",
                n=mean.n,
                stderr=mean.stderr,
                reference=float(real.mean()),
            )
        ]
        if task.noise_scale is not None:
            limit = (self.far + _by_noise(task)) * task.noise_scale
            beyond = row_mean((~(distance <= limit)).to(torch.float64))  # NaN counts as beyond
            values.append(
                MetricValue(
                    "bridge_mass",
                    beyond.mean,
                    direction="min",
                    n=beyond.n,
                    stderr=beyond.stderr,
                    reference=float((real > limit).to(torch.float64).mean()),
                )
            )
        return values


def _by_noise(task: Task) -> float:
    """How many deviations farther noise takes a row than it does from a curve in space."""
    known = task.dimensions or (() if task.dimension is None else (task.dimension,))
    if not known:
        return 0.0
    return sqrt(max(2, task.features - min(known))) - sqrt(2)
