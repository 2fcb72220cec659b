"""Total mass and the masses of cells, by quadrature over all of R or R^2."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from flowzoo.testing.numerics import F64
from flowzoo.testing.outcome import CheckFailed

LogProb = Callable[[Tensor], Tensor]

CELLS = 16  # along each column
_CHUNK = 1 << 16
_FINEST = {1: 1 << 17, 2: 2048}


@dataclass(frozen=True)
class Grid:
    r"""Midpoints in u of the map x = c + s u / (1 - u^2) of (-1, 1)^D onto R^D.

    Attributes:
        centre, scale: c and s, (D,), float64.
    """

    centre: Tensor
    scale: Tensor

    @classmethod
    def around(cls, samples: Tensor) -> Grid:
        """A grid that is fine where ``samples`` (N, D) are."""
        samples = samples.detach().to("cpu", F64)
        low, middle, high = torch.quantile(
            samples, torch.tensor([0.05, 0.5, 0.95], dtype=F64), dim=0
        )
        return cls(middle, (0.5 * (high - low)).clamp(min=1e-6))

    @property
    def features(self) -> int:
        """D."""
        return len(self.centre)

    def cell_of(self, x: Tensor) -> Tensor:
        """The cell, 0..CELLS^D - 1, of each row of x (N, D)."""
        y = (x.detach().to("cpu", F64) - self.centre) / self.scale
        u = 2.0 * y / (1.0 + (1.0 + 4.0 * y.square()).sqrt())
        index = ((u + 1.0) / 2.0 * CELLS).long().clamp(0, CELLS - 1)
        cell = index[:, 0]
        for column in range(1, self.features):
            cell = cell * CELLS + index[:, column]
        return cell

    def points(self, n: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Chunks of points (M, D) and their log-weights (M,), n points along each column."""
        u = (torch.arange(n, dtype=F64) + 0.5) / n * 2.0 - 1.0
        log_weight = ((1.0 + u * u) / (1.0 - u * u).square() * 2.0 / n).log()
        along = self.centre[:, None] + self.scale[:, None] * (u / (1.0 - u * u))
        weights = log_weight + self.scale.log()[:, None]
        total = n**self.features
        for start in range(0, total, _CHUNK):
            flat = torch.arange(start, min(start + _CHUNK, total))
            index = [flat // n ** (self.features - 1 - c) % n for c in range(self.features)]
            x = torch.stack([along[c][i] for c, i in enumerate(index)], dim=1)
            yield x, torch.stack([weights[c][i] for c, i in enumerate(index)]).sum(dim=0)


@torch.no_grad()
def cell_masses(log_prob: LogProb, grid: Grid, n: int, dtype: torch.dtype = F64) -> Tensor:
    """The mass of every cell, (CELLS^D,), by n points along each column."""
    masses = torch.zeros(CELLS**grid.features, dtype=F64)
    for x, log_weight in grid.points(n):
        density = log_prob(x.to(dtype)).to("cpu", F64)
        if bool(density.isnan().any()):
            first = x[int(density.isnan().nonzero()[0])]
            raise CheckFailed(f"log-density: NaN at x = {[round(v, 4) for v in first.tolist()]}")
        masses.index_add_(0, grid.cell_of(x), (density + log_weight).exp())
    return masses


def integrate(
    log_prob: LogProb,
    grid: Grid,
    *,
    dtype: torch.dtype = F64,
    tolerance: float = 1e-3,
    seconds: float = 6.0,
) -> tuple[Tensor, float]:
    """Cell masses on ever finer grids until the total settles, and by how much it last moved.

    Args:
        log_prob: log-density of rows (N, D).
        grid: where to look.
        dtype: what ``log_prob`` is asked in.
        tolerance: cells that together move by less than half of it have settled.
        seconds: no finer grid is begun that would take longer than this.
    """
    n = 512 if grid.features == 1 else 128
    masses = cell_masses(log_prob, grid, n, dtype)
    while True:
        n *= 2
        began = time.perf_counter()
        finer = cell_masses(log_prob, grid, n, dtype)
        took = time.perf_counter() - began
        moved = float((finer - masses).abs().sum())
        masses = finer
        settled = moved < tolerance / 2
        if settled or 2 * n > _FINEST[grid.features] or took * 2**grid.features > seconds:
            return masses, moved
