"""Bandwidth of a Gaussian kernel density by cross-validated likelihood."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_NUMBERS = 2**18  # distances held at once: few enough to stay in the cache
_PAIRS = 2.5e7  # distances looked at, unless that leaves fewer than _FEWEST rows
_FEWEST = 200


def cross_validated_bandwidth(
    x: Tensor,
    *,
    grid: tuple[float, float],
    folds: int | None,
    rows: int,
    generator: torch.Generator,
) -> tuple[float, bool]:
    """The bandwidth of the best held-out log-likelihood, and whether it is at the end of the grid.

    Args:
        x: (N, D).
        grid: smallest and largest bandwidth.
        folds: number of folds; None leaves out one distinct row at a time.
        rows: at most how many rows are scored (always by all rows outside their fold).
        generator: draws the folds and the scored rows.

    Raises:
        ValueError: fewer than 2 distinct rows.
    """
    bandwidths = _grid(*grid)
    scores = held_out_scores(x, bandwidths, folds=folds, rows=rows, generator=generator).tolist()
    best = max(range(len(scores)), key=scores.__getitem__)
    if best in (0, len(scores) - 1):
        return bandwidths[best], True
    # vertex of the parabola through the best three; grid steps are equal in log h
    before, here, after = scores[best - 1 : best + 2]
    curvature = before - 2 * here + after
    shift = 0.5 * (before - after) / curvature if curvature < 0 else 0.0
    return bandwidths[best] * (bandwidths[1] / bandwidths[0]) ** shift, False


def held_out_scores(
    x: Tensor,
    bandwidths: list[float],
    *,
    folds: int | None,
    rows: int,
    generator: torch.Generator,
) -> Tensor:
    """Mean held-out log-likelihood in nats at each bandwidth, float64, on the CPU.

    Args:
        x: (N, D).
        bandwidths: descending, each the fourth root of 2 smaller than the one before.
        folds: as in ``cross_validated_bandwidth``.
        rows: as there.
        generator: as there.

    Raises:
        ValueError: fewer than 2 distinct rows.
    """
    total, features = x.shape
    points = x.detach().to(torch.float64)
    fold = _folds(points, folds, generator)
    rows = min(rows, total, max(_FEWEST, int(_PAIRS / total)))
    order = torch.randperm(total, generator=generator, device=generator.device)
    chosen = order[:rows].to(x.device)
    left = (total - torch.bincount(fold))[fold]  # rows that score each row
    sums = torch.zeros(len(bandwidths), dtype=torch.float64)
    for part in torch.split(chosen, max(1, _NUMBERS // total)):
        square = torch.cdist(
            points[part], points, compute_mode="donot_use_mm_for_euclid_dist"
        ).square_()
        square.masked_fill_(fold[part, None] == fold, torch.inf)
        nearest = square.amin(dim=1)
        square -= nearest[:, None]
        for start in range(min(2, len(bandwidths))):
            # h shrinks by sqrt(2) every second step, so the kernel is the square of the one before:
            # one exponential serves half of the grid. Rounding doubles each time, to 1e-8 at most.
            kernel = torch.exp(square * (-0.5 / bandwidths[start] ** 2))
            for index in range(start, len(bandwidths), 2):
                h = bandwidths[index]
                log_kernel = kernel.sum(dim=1).log() - 0.5 * nearest / h**2
                sums[index] += float((log_kernel - left[part].log()).sum())
                kernel.square_()
    constants = torch.tensor(
        [features * (math.log(h) + 0.5 * math.log(2 * math.pi)) for h in bandwidths],
        dtype=torch.float64,
    )
    return sums / rows - constants


def _grid(smallest: float, largest: float) -> list[float]:
    """Bandwidths from largest down to smallest, each the fourth root of 2 smaller."""
    steps = math.ceil(4 * math.log2(largest / smallest) - 1e-9)
    return [largest * 2 ** (-step / 4) for step in range(steps + 1)]


def _folds(points: Tensor, folds: int | None, generator: torch.Generator) -> Tensor:
    """Fold of each row, (N,) int64; equal rows share one."""
    group: Tensor
    distinct, group = torch.unique(points, dim=0, return_inverse=True)
    if len(distinct) < 2:
        raise ValueError(
            f"x_train: expected at least 2 distinct rows to choose a bandwidth by, "
            f"got {len(distinct)}; give a number as bandwidth"
        )
    if folds is None:
        return group
    order = torch.randperm(len(distinct), generator=generator, device=generator.device)
    fold: Tensor = order.to(points.device) % folds
    return fold[group]
