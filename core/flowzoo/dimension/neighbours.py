"""Distances to nearest neighbours, exact."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.validation import check_finite, check_positive, check_rows

_NUMBERS = 2**22  # distances held at once


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
    found = [x.new_empty(0, count, dtype=torch.float64)]
    start = 0
    for part in torch.split(x.detach().double(), max(1, _NUMBERS // len(points))):
        # by differences: |x|^2 + |y|^2 - 2xy loses the digits of near neighbours
        distance = torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist")
        if among is None:
            rows = torch.arange(len(part), device=x.device)
            distance[rows, start + rows] = torch.inf
        if distinct:
            distance.masked_fill_(distance == 0, torch.inf)
        found.append(distance.topk(count, dim=1, largest=False).values)
        start += len(part)
    distances = torch.cat(found)
    if bool(distances.isinf().any()):
        raise ValueError(f"{name}: expected {count} rows apart from each row of x, got copies")
    return distances
