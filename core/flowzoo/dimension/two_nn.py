"""Dimension of data by the two nearest neighbours of each row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowzoo.dimension.neighbours import nearest_distances
from flowzoo.validation import check_number


def two_nn(x: Tensor, discard: float = 0.1) -> float:
    r"""TwoNN: slope through the origin of -log(1 - F) over log mu, mu = r_2 / r_1 of each row.

    .. math:: -\log(1 - F(\mu)) = d \log\mu, \qquad F(\mu_{(i)}) = i / N

    It sees one scale, that of nearest neighbours: noise wider than their distance counts as
    dimensions. Rows with a copy (r_1 = 0) have no ratio and are left out. The cost is O(N^2 D).

    Source: Facco, d'Errico, Rodriguez, Laio (2017), Estimating the intrinsic dimension of datasets
    by a minimal neighborhood information.

    Args:
        x: (N, D) data.
        discard: share of the largest ratios that the fit leaves out, in (0, 1).

    Returns:
        d; infinite where r_2 = r_1 everywhere, as on a lattice.

    Raises:
        ValueError: an option out of range, fewer than 3 rows, or fewer than 2 ratios left.

    Example:
        >>> t = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
        >>> 0.95 < two_nn(torch.cat([t, t.sin(), t.square()], dim=1)) < 1.05
        True
    """
    check_number("discard", discard, most=1.0, strict=True)
    nearest = nearest_distances(x, 2)
    nearest = nearest[nearest[:, 0] > 0]
    log_ratio = (nearest[:, 1] / nearest[:, 0]).log().sort().values
    total = len(log_ratio)
    kept = int(total * (1 - discard))
    if kept < 2:
        raise ValueError(
            f"x: expected rows for at least 2 ratios after leaving out copies and a share of "
            f"{discard:g}, got {kept} of {len(x)} rows"
        )
    log_ratio = log_ratio[:kept]
    rank = torch.arange(1, kept + 1, dtype=torch.float64, device=x.device)
    height = -torch.log1p(-rank / total)
    square = float(log_ratio.square().sum())
    return float((log_ratio * height).sum()) / square if square > 0 else math.inf
