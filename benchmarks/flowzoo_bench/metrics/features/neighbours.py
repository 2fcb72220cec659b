"""Fidelity and diversity of samples by nearest neighbours among feature vectors."""

from __future__ import annotations

from math import nan
from typing import NamedTuple

import torch
from torch import Tensor

from flowzoo.validation import check_positive
from flowzoo_bench.metrics.features.checks import check_pair

_VALUES = 1 << 22  # distances worked on at once


class Neighbourhoods(NamedTuple):
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Attributes:
        precision: share of samples inside some real ball.
        recall: share of real rows inside some sample's ball.
        density: real balls a sample lies in, divided by k; may exceed 1.
        coverage: share of real balls that hold a sample.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(real: Tensor, samples: Tensor, *, k: int = 5) -> Neighbourhoods:
    """Precision, recall, density and coverage of samples; a ball reaches to its k-th neighbour.

    The ball of a row is open and as wide as the Euclidean distance to the k-th nearest *other* row
    of its own set. Cost O((N + M)² F), memory O(N + M).

    Args:
        real: (N, F) floating, N > k.
        samples: (M, F), M > k; both on one device, computed in float64.
        k: which neighbour.

    Returns:
        Four shares, all NaN where a row is not finite.

    Raises:
        ValueError: shapes that do not fit, or not more than k rows.

    Example:
        >>> x = torch.randn(50, 3)
        >>> neighbourhoods(x, x.clone()).coverage
        1.0
    """
    real, samples = check_pair(real, samples, check_positive("k", k) + 1)
    if not bool(torch.isfinite(real).all() and torch.isfinite(samples).all()):
        return Neighbourhoods(nan, nan, nan, nan)
    real_radii, sample_radii = _radii(real, k), _radii(samples, k)
    inside = torch.zeros(len(samples), dtype=torch.int64, device=real.device)
    recalled = covered = 0
    for part, radii in zip(_split(real, samples), _split(real_radii, samples), strict=True):
        distance = _distances(part, samples)
        inside += (distance < radii[:, None]).sum(dim=0)
        recalled += int((distance < sample_radii).any(dim=1).sum())
        covered += int((distance.amin(dim=1) < radii).sum())
    return Neighbourhoods(
        precision=int((inside > 0).sum()) / len(samples),
        recall=recalled / len(real),
        density=int(inside.sum()) / (k * len(samples)),
        coverage=covered / len(real),
    )


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance of each row to its k-th nearest other row, (N,)."""
    # itself, at distance 0, is the first
    return torch.cat([_distances(part, x).kthvalue(k + 1, dim=1).values for part in _split(x, x)])


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # exact, not by a matrix product: equal rows are at distance 0
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _split(x: Tensor, other: Tensor) -> tuple[Tensor, ...]:
    return torch.split(x, max(1, _VALUES // len(other)))
