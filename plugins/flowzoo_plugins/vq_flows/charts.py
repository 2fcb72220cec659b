"""Which charts contain a point (section 4.2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ActiveCharts:
    """The charts U_k that contain each row, nearest first.

    Attributes:
        index: chart indices, (N, M) int64; M is fixed, so shapes do not depend on values.
        mask: which of them contain the row, (N, M) bool; None when all do. Column 0, the nearest
            chart, always does.
    """

    index: Tensor
    mask: Tensor | None

    @property
    def nearest(self) -> Tensor:
        """The nearest chart, (N,); ties go to the lowest index."""
        return self.index[:, 0]

    def present(self) -> Tensor:
        """``mask`` as a tensor, (N, M) bool."""
        if self.mask is None:
            return torch.ones_like(self.index, dtype=torch.bool)
        return self.mask

    def contains(self, chart: Tensor) -> Tensor:
        """Whether row n lies in chart ``chart[n]``, (N,) bool, for ``chart`` (N,)."""
        return ((self.index == chart[:, None]) & self.present()).any(dim=1)


def active_charts(
    distances: Tensor, overlap: int, margin: float = 0.0, max_active: int | None = None
) -> ActiveCharts:
    r"""The charts that contain each row.

    .. math:: U_k = \{x : d_k(x) \le (1 + \epsilon)\, \tilde d_m(x)\}

    with :math:`\tilde d_m` the m-th smallest distance. The paper prints "<", which for m = 1,
    epsilon = 0 leaves every chart empty. With epsilon = 0 a row has exactly m charts, exact ties
    beyond the m-th going to the lowest index, so m = 1 is a partition. With epsilon > 0 ties are
    all inside, and only the ``max_active`` nearest charts count.

    Source: Sidheekh et al. (2022), section 4.2.1, with the correction above.

    Args:
        distances: (N, K), non-negative.
        overlap: m, in 1..K.
        margin: epsilon, >= 0.
        max_active: cap on the charts of a row when epsilon > 0; None is K, no cap.

    Returns:
        M columns: m when epsilon = 0, else ``max_active``.

    Example:
        >>> active_charts(torch.tensor([[0.2, 0.1, 0.1]]), overlap=1).index
        tensor([[1]])
    """
    ordered, index = torch.sort(distances, dim=1, stable=True)
    if margin == 0.0:
        return ActiveCharts(index[:, :overlap], None)
    width = distances.shape[1] if max_active is None else max_active
    inside = ordered[:, :width] <= (1.0 + margin) * ordered[:, overlap - 1 : overlap]
    # a NaN distance compares false; the nearest chart is kept so that every row has one
    first = torch.arange(width, device=distances.device) == 0
    return ActiveCharts(index[:, :width], inside | first)


def choose(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Column j with probability proportional to ``probabilities[n, j]``, by inversion.

    A column of probability 0 is never chosen. Runs under vmap.

    Args:
        probabilities: (N, M), non-negative, some entry of each row positive.
        uniform: (N,), in [0, 1).

    Returns:
        (N,) int64.

    Example:
        >>> choose(torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([0.4]))
        tensor([1])
    """
    cumulative = probabilities.cumsum(dim=1)
    below = cumulative <= uniform[:, None] * cumulative[:, -1:]
    return below.sum(dim=1).clamp(max=probabilities.shape[1] - 1)


def uniform_from_normal(noise: Tensor) -> Tensor:
    """u = Phi(n), clamped below 1, for standard-normal ``noise``."""
    uniform: Tensor = torch.special.ndtr(noise)
    return uniform.clamp(max=1.0 - torch.finfo(noise.dtype).eps)
