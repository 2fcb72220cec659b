"""Distances to nearest neighbours, exact."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.validation import check_finite, check_positive, check_rows

_NUMBERS = 2**22  # held at once
_SCREENED = 24  # columns from which matrix products pay
_SPARE = 10  # candidates beyond those asked for
_ROUNDING = 1e-15  # of a sum of products, for every column


@torch.no_grad()
def nearest_distances(
    x: Tensor, count: int, among: Tensor | None = None, *, distinct: bool = False
) -> Tensor:
    """Distances of each row of x to its ``count`` nearest rows, smallest first, (N, count) float64.

    All pairs are looked at, in chunks, on the device of x.

    Args:
        x: (N, D).
        count: how many neighbours.
        among: (M, D), the rows looked at; x itself, each row without itself, when None.
        distinct: leave out rows at distance zero (copies, and a row found in ``among``).

    Raises:
        ValueError: wrong shapes or non-finite rows, or some row has fewer than ``count`` others.

    Example:
        >>> nearest_distances(torch.tensor([[0.0], [1.0], [3.0]]), 2).tolist()
        [[1.0, 3.0], [1.0, 2.0], [2.0, 3.0]]
    """
    check_positive("count", count)
    features = x.shape[-1] if isinstance(x, Tensor) and x.ndim else 1
    check_finite("x", check_rows("x", x, features))
    if among is not None:
        check_finite("among", check_rows("among", among, features, x))
    name, others = ("x", x) if among is None else ("among", among)
    if len(others) - (among is None) < count:
        raise ValueError(
            f"{name}: expected at least {count + (among is None)} rows to find {count} neighbours "
            f"among, got {len(others)}"
        )
    points = others.detach().double()
    screened = features >= _SCREENED and len(points) > 2 * (count + _SPARE)
    cost = max(len(points), (count + _SPARE) * features if screened else 0)
    found = [x.new_empty(0, count, dtype=torch.float64)]
    start = 0
    for part in torch.split(x.detach().double(), max(1, _NUMBERS // cost)):
        own = None if among is not None else torch.arange(len(part), device=x.device) + start
        near = _screened if screened else _compared
        found.append(near(part, points, own, count, distinct))
        start += len(part)
    distances = torch.cat(found)
    if bool(distances.isinf().any()):
        raise ValueError(f"{name}: expected {count} rows apart from each row of x, got copies")
    return distances


def _compared(
    part: Tensor, points: Tensor, own: Tensor | None, count: int, distinct: bool
) -> Tensor:
    """The ``count`` smallest distances to all points but the ``own`` of each row, (n, count)."""
    # by differences: |x|^2 + |y|^2 - 2xy loses the digits of near neighbours
    distance = torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist")
    return _smallest(_without_own(distance, own), count, distinct)


def _screened(
    part: Tensor, points: Tensor, own: Tensor | None, count: int, distinct: bool
) -> Tensor:
    """The same by matrix products first, then by differences among the few nearest.

    Rows for which rounding could have hidden a neighbour, or copies taken the places, are compared
    with all points.
    """
    centre = points.mean(dim=0)
    rows, others = part - centre, points - centre
    row_square, square = rows.square().sum(dim=1), others.square().sum(dim=1)
    rough = torch.addmm(row_square[:, None] + square, rows, others.mT, alpha=-2.0)
    candidates = _without_own(rough, own).topk(count + _SPARE, dim=1, largest=False)
    distance = (part[:, None] - points[candidates.indices]).square().sum(dim=2).sqrt()
    nearest = _smallest(distance, count, distinct)
    error = _ROUNDING * part.shape[1] * (row_square + square.amax())
    unsure = nearest[:, -1].square() >= candidates.values[:, -1] - error
    if bool(unsure.any()):
        left = None if own is None else own[unsure]
        nearest[unsure] = _compared(part[unsure], points, left, count, distinct)
    return nearest


def _without_own(distance: Tensor, own: Tensor | None) -> Tensor:
    return distance if own is None else distance.scatter_(1, own[:, None], torch.inf)


def _smallest(distance: Tensor, count: int, distinct: bool) -> Tensor:
    if distinct:
        distance.masked_fill_(distance == 0, torch.inf)
    return distance.topk(count, dim=1, largest=False).values
