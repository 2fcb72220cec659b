"""The exact density of a uniformly parametrised curve blurred by isotropic Gaussian noise."""

from __future__ import annotations

from math import ceil, log, pi

import numpy as np
import torch
from torch import Tensor

from flowzoo_bench.tasks.curves import Curve

_NODES = 16  # Gauss-Legendre nodes of a block
_BLOCK = 4.0  # arc length of a block in noise standard deviations: error below 1e-9
_MIN_BLOCKS = 64  # so that a block resolves the curve itself when the noise is large
_MAX_REFINEMENT = 64
_HALVINGS = 36  # of the piece next to an end: resolves decay lengths of 1e-12
_NEGLECT = 60.0  # blocks whose integrand is below exp(-60) of the largest are left out
_VALUES = 1 << 20  # numbers held at once


class CurveDensity:
    """log p of ``x = c(theta) + sigma * noise``, theta uniform on [start, stop].

    .. math:: p(x) = \\frac{1}{b - a} \\int_a^b N(x; c(\\theta), \\sigma^2 I) \\, d\\theta

    The interval is cut into blocks of arc length at most 4 sigma with 16 Gauss-Legendre nodes
    each (mean spacing sigma / 4). For each point only the blocks that can matter are evaluated, by
    a bound on their distance, so near points are fast, far ones stay exact, and nothing underflows.
    Far from the curve the integrand narrows with its curvature: there the blocks are refined, up to
    64-fold. The two end blocks of an open curve are graded by halving towards the end, which seen
    from beyond is an exponential layer that no even rule resolves.

    Args:
        curve: the noiseless curve.
        sigma: standard deviation of the noise, positive.
    """

    def __init__(self, curve: Curve, sigma: float) -> None:
        self.curve = curve
        self.sigma = sigma
        self._speed, acceleration = curve.bounds
        self._bend = acceleration / self._speed**2
        interval = curve.stop - curve.start
        self._count = max(_MIN_BLOCKS, ceil(interval * self._speed / (_BLOCK * sigma)))
        self._step = interval / self._count
        ends = curve.position(torch.tensor([curve.start, curve.stop], dtype=torch.float64))
        self._closed = bool((ends[0] - ends[1]).abs().max() < 1e-9)
        middles = torch.arange(self._count, dtype=torch.float64) + 0.5
        self._centres = curve.position(curve.start + middles * self._step)
        self._overhang = 0.0  # how far a noiseless point may be from its c(theta)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (N,), of x (N, D) float64."""
        rows = max(1, _VALUES // self._count)
        parts = [self._log_prob(part) for part in torch.split(x, rows)]
        return torch.cat(parts) if parts else x.new_empty(0)

    def _log_prob(self, x: Tensor) -> Tensor:
        variance = self.sigma**2
        distance = torch.cdist(
            x, self._centres.to(x.device), compute_mode="donot_use_mm_for_euclid_dist"
        )
        nearest = distance.amin(dim=1)
        reach = ((nearest + self._overhang).square() + 2 * variance * _NEGLECT).sqrt()
        # no point of a block is farther from its centre
        radius = self._speed * self._step / 2 + self._overhang
        # rounding of the distances themselves must not drop the nearest block
        reach = (reach + radius) * (1 + 1e-12)
        row, block = (distance <= reach[:, None]).nonzero(as_tuple=True)
        # the exponent's second derivative in arc length is at most (1 + distance * bend) / sigma²
        need = (1 + nearest * self._bend).sqrt() / 2
        level = need.log2().ceil().exp2().clamp(1, _MAX_REFINEMENT)

        side = (block == self._count - 1).long() - (block == 0).long()
        if self._closed:
            side = torch.zeros_like(side)

        terms = x.new_empty(len(row))
        for refinement in sorted(set(level.tolist())):
            for end in (-1, 0, 1):
                chosen = ((level[row] == refinement) & (side == end)).nonzero()[:, 0]
                offset, log_weight = _rule(int(refinement), end, x.device)
                for part in torch.split(chosen, max(1, _VALUES // (3 * len(offset)))):
                    theta = self.curve.start + (block[part, None] + offset) * self._step
                    exponent = self._exponent(x[row[part], None], theta)
                    terms[part] = torch.logsumexp(exponent + log_weight, dim=1)

        peak = x.new_full((len(x),), -torch.inf).scatter_reduce(0, row, terms, "amax")
        peak = peak.clamp(min=torch.finfo(peak.dtype).min)  # where squares overflow
        total = torch.zeros_like(peak).index_add(0, row, (terms - peak[row]).exp())
        constant = -log(self._count) - x.shape[1] / 2 * log(2 * pi * variance)
        return peak + total.log() + constant

    def _exponent(self, x: Tensor, theta: Tensor) -> Tensor:
        """log N(x; c(theta), sigma² I) but for its constant, of theta's shape S; x (*S or 1, D)."""
        difference = x - self.curve.position(theta)
        return difference.square().sum(dim=-1) / (-2 * self.sigma**2)


def _rule(refinement: int, end: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre on pieces of (0, 1): nodes and log-weights, which sum to 1 as weights.

    Args:
        refinement: equal pieces of a block.
        end: -1 or 1 for the block at the curve's start or end, whose outermost piece is halved
            again and again towards it; 0 for any other.
        device: where the tensors go.
    """
    edges = np.arange(refinement + 1) / refinement
    if end:
        edges = np.concatenate([[0.0], edges[1] * 0.5 ** np.arange(_HALVINGS, 0, -1), edges[1:]])
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    widths = np.diff(edges)[:, None]
    offset = (edges[:-1, None] + widths * (nodes + 1) / 2).ravel()
    log_weight = np.log(widths * weights / 2).ravel()
    if end > 0:
        offset = 1 - offset
    return torch.as_tensor(offset, device=device), torch.as_tensor(log_weight, device=device)
