"""A Gaussian kernel density estimate in float64, and its bandwidth by leave-one-out."""

from __future__ import annotations

from math import ceil, log, pi
from typing import NamedTuple

import torch
from torch import Tensor

_VALUES = 1 << 17  # distances worked on at once
_HELD = 1 << 24  # distances held while the bandwidth is chosen


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(N, M) from centred rows: one matrix product; the rounding is 1e-16 of the data's spread²."""
    squares = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    return torch.addmm(squares, x, y.T, alpha=-2).clamp_min_(0)


def kde_log_prob(x: Tensor, train: Tensor, bandwidth: float) -> Tensor:
    """log of the mean over training rows of N(x; row, h² I), in nats, (N,).

    Args:
        x: points, (N, D) float64.
        train: centres, (M, D) float64, M >= 1.
        bandwidth: standard deviation h of the kernel, positive.
    """
    centre = train.mean(dim=0)
    x, train = x - centre, train - centre
    features = train.shape[1]
    constant = -log(len(train)) - features / 2 * log(2 * pi * bandwidth**2)
    rows = max(1, _VALUES // len(train))
    parts = [
        torch.logsumexp(_squared_distances(part, train).div_(-2 * bandwidth**2), dim=1)
        for part in torch.split(x, rows)
    ]
    return torch.cat(parts) + constant


class Bandwidth(NamedTuple):
    """The chosen bandwidth, its leave-one-out score in nats, and whether it is at a grid edge."""

    value: float
    score: float
    at_edge: bool


def leave_one_out_bandwidth(
    train: Tensor, low: float, high: float, steps: int, max_rows: int
) -> Bandwidth:
    """The bandwidth of a log grid with the best leave-one-out log-likelihood of the training rows.

    Every ``ceil(M / max_rows)``-th row is scored, each against all other rows, so the kernels are
    those of the full training set. The score has one maximum in practice: a coarse grid is
    searched first and then, halving the step, the neighbourhood of its best.

    Args:
        train: (M, D) float64, M >= 2.
        low: smallest bandwidth.
        high: largest bandwidth.
        steps: bandwidths in the grid.
        max_rows: at most so many rows are scored (fewer beyond 16,000 training rows).
    """
    count, features = train.shape
    grid = torch.logspace(
        log(low) / log(10), log(high) / log(10), steps, dtype=torch.float64
    ).tolist()
    train = train - train.mean(dim=0)
    max_rows = max(1, min(max_rows, _HELD // count))
    chosen = torch.arange(0, count, ceil(count / max_rows))
    nearest, blocks = [], []
    for part in torch.split(chosen, max(1, _VALUES // count)):
        block = _squared_distances(train[part], train)
        block[torch.arange(len(part)), part] = torch.inf  # leave the row itself out
        nearest.append(block.amin(dim=1))
        blocks.append(block.sub_(nearest[-1][:, None]))  # so that the largest exponent is 0
    base = float(torch.cat(nearest).mean())

    scores: dict[int, float] = {}

    def score(index: int) -> float:
        if index not in scores:
            h = grid[index]
            total = sum(float((b / (-2 * h * h)).exp_().sum(dim=1).log().sum()) for b in blocks)
            kernel = -base / (2 * h * h) - features / 2 * log(2 * pi * h * h)
            scores[index] = total / len(chosen) + kernel - log(count - 1)
        return scores[index]

    stride = max(1, steps // 8)
    best = max([*range(0, steps, stride), steps - 1], key=score)
    while stride > 1:
        stride = (stride + 1) // 2
        best = max((max(0, best - stride), best, min(steps - 1, best + stride)), key=score)
    return Bandwidth(grid[best], scores[best], best in (0, steps - 1))
