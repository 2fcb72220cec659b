"""The distance of a point of the plane to a cosine."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_GRID = 128  # cells of half a period
_MINIMA = 3  # there are no more in half a period
_HALVINGS = 48


def squared_distance_to_wave(
    phase: Tensor, height: Tensor, *, amplitude: float, frequency: Tensor
) -> Tensor:
    r"""The least of f over theta, of the shape of ``phase``.

    .. math:: f(\theta) = (\theta - \theta_0)^2 / w^2 + (h - a \cos\theta)^2

    The square of the distance of (theta_0 / w, h) to the curve a cos(w u). Reflecting theta at a
    crest or trough towards theta_0 does not raise f, so the least value is taken within the half
    period of theta_0. There the slope is at most 0 at one end and at least 0 at the other; every
    change of its sign from - to + on a grid is bisected.

    Args:
        phase: theta_0, any shape.
        height: h, the same shape.
        amplitude: a.
        frequency: w, positive, broadcast against ``phase``.

    Example:
        >>> a_crest = torch.zeros(1).double(), torch.tensor([3.0]).double()
        >>> squared_distance_to_wave(*a_crest, amplitude=1.0, frequency=torch.ones(1).double())
        tensor([4.], dtype=torch.float64)
    """
    start = phase.remainder(2 * torch.pi)
    start = torch.minimum(start, 2 * torch.pi - start)[..., None]  # cos is even
    height = height[..., None]
    rate = frequency.expand(phase.shape)[..., None].square()

    def value(theta: Tensor) -> Tensor:
        return (theta - start).square() / rate + (height - amplitude * theta.cos()).square()

    def slope(theta: Tensor) -> Tensor:
        rise = (height - amplitude * theta.cos()) * amplitude * theta.sin()
        return (theta - start) / rate + rise

    grid = torch.linspace(0, torch.pi, _GRID + 1, dtype=phase.dtype, device=phase.device)
    rises = functional.pad(slope(grid)[..., 1:-1] > 0, (1, 1), value=True)
    rises[..., 0] = False  # the ends are known, rounding is not
    turns = rises[..., 1:] & ~rises[..., :-1]
    cells = turns.to(torch.uint8).topk(_MINIMA, dim=-1).indices
    low, high = grid[cells], grid[cells + 1]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        up = slope(middle) > 0
        low, high = torch.where(up, low, middle), torch.where(up, middle, high)
    least = torch.minimum(value((low + high) / 2).amin(dim=-1), value(grid).amin(dim=-1))
    # the foot at theta_0 itself, so that points of the curve have distance 0
    return torch.minimum(least, value(start)[..., 0])
