"""The dimension of a model, by what f makes of the prior's covariance around rows.

The eigenvalues of A A' are those of codes. A linear map that f ends in and A takes back changes
them, and codes that stay bent fill more axes than the data have dimensions; the eigenvalues of
J (A A' + sigma^2 I) J' around a row, J = d f^-1 / dz, are in units of the data and know of neither.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.dimension import SpectrumRank, rank_of_spectrum
from flowzoo_plugins.spread_flows.atlas import Atlas
from flowzoo_plugins.spread_flows.geometry import Decode, pushed_lengths

_ROWS = 128  # enough for a median
_OPERATIONS = 2**34  # of the singular values of as many rows as one can look at in passing


def some_of_each(chart: Tensor, parts: int, features: int) -> Tensor:
    """Which rows to look at, of each part as many, (M,) int64: fewer in many columns, O(D^3) each.

    128 in all up to D = 512, 16 at D = 1024, and one a part at least.
    """
    each = max(1, min(_ROWS, max(4, _OPERATIONS // features**3)) // parts)
    place = torch.nn.functional.one_hot(chart, parts).cumsum(dim=0).gather(1, chart[:, None])[:, 0]
    return torch.nonzero(place <= each)[:, 0]


def deviations(atlas: Atlas, z: Tensor, decode: Decode) -> Tensor:
    """Of the density around codes z (N, D), by the part each belongs to: (N, D), largest first."""
    chart, found = atlas.assign(z), torch.zeros_like(z, dtype=torch.float64)
    for index, part in enumerate(atlas.parts):
        rows = torch.nonzero(chart == index)[:, 0]
        found[rows] = pushed_lengths(decode, z[rows], part.root())
    return found


def rank_of_rows(found: Tensor, floor: float) -> Tensor:
    """How many standard deviations of each row (N, D) are signal: (N,) of their dtype.

    ``floor`` is the variance below which they are noise. NaN of a row with a NaN.
    """
    if len(found) == 0:
        return found.new_zeros(0)
    known = found.isfinite().all(dim=1)
    variances = found.square().where(known[:, None], 0.0)
    return rank_of_spectrum(variances, floor).dimension.to(found).where(known, torch.nan)


def rank_around(found: Tensor, chart: Tensor, floor: float, axes: SpectrumRank) -> SpectrumRank:
    """The rule for the median, over the rows of each part, of their deviations (N, D).

    The median, and not the mean, as the widest of a few rows would hide the gap of all others.
    Medians of what is in order are in order.

    Args:
        found: deviations of the density around rows, largest first.
        chart: the part of each row, (N,).
        floor: the variance below which they are noise.
        axes: what the eigenvalues of A A' say, () or (K,): of a part that no row belongs to,
            which has no other.

    Raises:
        ValueError: a deviation is NaN or infinite.
    """
    ranks = []
    for part, instead in enumerate(zip(*(each.reshape(-1) for each in axes), strict=True)):
        rows = found[chart == part]
        if len(rows) == 0:
            ranks.append(SpectrumRank(*instead))
            continue
        bad = int((~rows.isfinite().all(dim=1)).sum())
        if bad:
            raise ValueError(
                f"dimension: expected finite Jacobians of the inverse flow, got NaN or infinity "
                f"at {bad} of {len(rows)} rows"
            )
        ranks.append(rank_of_spectrum(rows.square().quantile(0.5, dim=0), floor))
    joined = (torch.stack(each).reshape(axes.dimension.shape) for each in zip(*ranks, strict=True))
    return SpectrumRank(*joined)
