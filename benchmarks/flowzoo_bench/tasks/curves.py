"""A parametrised curve, its speed bounds, and the exact distance of points to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_BISECTIONS = 48  # a bracket of 0.03 shrinks to 1e-16
_CELL = 1 / 80  # grid step in theta; the curves' highest frequency is 5
_PAIRS = 1 << 20  # points times grid cells held at once


@dataclass(frozen=True)
class Curve:
    """theta in [start, stop] -> position in R^D.

    Attributes:
        position: maps theta of any shape S to points (*S, D), elementwise.
        velocity: its derivative in theta, (*S, D).
        start: smallest theta.
        stop: largest theta.
    """

    position: Callable[[Tensor], Tensor]
    velocity: Callable[[Tensor], Tensor]
    start: float
    stop: float

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Largest speed |dx/dtheta| and largest acceleration |d²x/dtheta²| on a fine grid."""
        theta = torch.linspace(self.start, self.stop, 20001, dtype=torch.float64)
        velocity = self.velocity(theta)
        acceleration = velocity.diff(dim=0) / (theta[1] - theta[0])
        return float(_norm(velocity).max()), float(_norm(acceleration).max())

    @cached_property
    def length(self) -> float:
        """Arc length, counted as often as theta runs over it."""
        count = 20000
        step = (self.stop - self.start) / count
        theta = self.start + (torch.arange(count, dtype=torch.float64) + 0.5) * step
        return float(_norm(self.velocity(theta)).sum() * step)

    def distance(self, x: Tensor) -> Tensor:
        """Distance of each row of x (N, D), float64, to the curve, (N,), exact to about 1e-12."""
        return self.nearest(x)[1]

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """theta of the point of the curve nearest to each row of x (N, D), and its distance: (N,).

        A grid finds every local minimum that can be the global one; bisection on the derivative of
        the squared distance then refines each. (Bisection on the sign of a derivative keeps full
        precision where minimising the distance itself would lose half the digits.)
        """
        cells = int((self.stop - self.start) / _CELL) + 2
        theta = torch.linspace(self.start, self.stop, cells, dtype=x.dtype, device=x.device)
        grid = self.position(theta)
        rows = max(1, _PAIRS // cells)
        parts = [self._nearest(part, theta, grid) for part in torch.split(x, rows)]
        if not parts:
            return x.new_empty(0), x.new_empty(0)
        places, distances = zip(*parts, strict=True)
        return torch.cat(places), torch.cat(distances)

    def _nearest(self, x: Tensor, theta: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        speed, acceleration = self.bounds
        distance = self._distances(x, grid)
        nearest, at = distance.min(dim=1, keepdim=True)
        left = torch.cat([distance[:, 1:2], distance[:, :-1]], dim=1)
        right = torch.cat([distance[:, 1:], distance[:, -2:-1]], dim=1)
        # a true minimum lies below its nearest grid point by at most half the largest second
        # derivative of |x - c|² / 2 times the step squared
        step = theta[1] - theta[0]
        slack = (speed**2 + nearest * acceleration) * step**2
        candidate = (distance <= left) & (distance <= right)
        candidate &= distance.square() <= nearest.square() + slack
        row, cell = candidate.nonzero(as_tuple=True)

        low = theta[(cell - 1).clamp_min(0)]
        high = theta[(cell + 1).clamp_max(len(theta) - 1)]
        point = x[row]
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            gap = self._gap(point, self.position(middle))
            uphill = (gap * self.velocity(middle)).sum(dim=1) < 0
            low, high = torch.where(uphill, low, middle), torch.where(uphill, middle, high)
        place = (low + high) / 2
        refined = _norm(self._gap(point, self.position(place)))
        # bracket ends cover curves that stop, where the derivative need not vanish
        for end in (low, high):
            further = _norm(self._gap(point, self.position(end)))
            place = torch.where(further < refined, end, place)
            refined = torch.minimum(refined, further)
        best = nearest[:, 0].scatter_reduce(0, row, refined, "amin")
        chosen = refined == best[row]
        places = theta[at[:, 0]].clone()
        places[row[chosen]] = place[chosen]
        return places, best

    def _gap(self, x: Tensor, position: Tensor) -> Tensor:
        """From what is at a point of the curve to x, (..., D)."""
        return x - position

    def _distances(self, x: Tensor, grid: Tensor) -> Tensor:
        """Of each x (N, D) to what is at each point (M, D) of the curve: (N, M)."""
        return torch.cdist(x, grid, compute_mode="donot_use_mm_for_euclid_dist")


def _norm(vectors: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return lengths
