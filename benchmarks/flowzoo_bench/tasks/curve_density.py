"""The exact density of a uniformly parametrised curve blurred by isotropic Gaussian noise."""

from __future__ import annotations

from math import ceil, log, pi

import numpy as np
import torch
from torch import Tensor

from flowzoo_bench.tasks.curves import Curve

_NODES = 16  # Gauss-Legendre nodes of a block
_BLOCK = 4.0  # arc length of a block in noise standard deviations: error below 1e-9
_MIN_BLOCKS = 128  # so that a block resolves the curve itself when the noise is large
_MAX_REFINEMENT = 64
_NEGLECT = 60.0  # blocks whose integrand is below exp(-60) of the largest are left out
_VALUES = 1 << 20  # numbers held at once


class CurveDensity:
    """log p of ``x = c(theta) + sigma * noise``, theta uniform on [start, stop].

    .. math:: p(x) = \\frac{1}{b - a} \\int_a^b N(x; c(\\theta), \\sigma^2 I) \\, d\\theta

    The interval is cut into blocks of arc length at most 4 sigma with 16 Gauss-Legendre nodes
    each (mean spacing sigma / 4; exact at the ends of open curves, where a midpoint rule is not).
    For each point only the blocks that can matter are evaluated, by a bound on their distance, so
    near points are fast, far ones stay exact, and nothing underflows. Far from the curve the
    integrand narrows with its curvature: there the blocks are refined, up to 64-fold.

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
        middles = torch.arange(self._count, dtype=torch.float64) + 0.5
        self._centres = curve.position(curve.start + middles * self._step)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (N,), of x (N, 3) float64."""
        rows = max(1, _VALUES // self._count)
        parts = [self._log_prob(part) for part in torch.split(x, rows)]
        return torch.cat(parts) if parts else x.new_empty(0)

    def _log_prob(self, x: Tensor) -> Tensor:
        variance = self.sigma**2
        distance = torch.cdist(
            x, self._centres.to(x.device), compute_mode="donot_use_mm_for_euclid_dist"
        )
        nearest = distance.amin(dim=1)
        reach = (nearest.square() + 2 * variance * _NEGLECT).sqrt()
        radius = self._speed * self._step / 2  # no point of a block is farther from its centre
        # rounding of the distances themselves must not drop the nearest block
        reach = (reach + radius) * (1 + 1e-12)
        row, block = (distance <= reach[:, None]).nonzero(as_tuple=True)
        # the exponent's second derivative in arc length is at most (1 + distance * bend) / sigma²
        need = (1 + nearest * self._bend).sqrt() / 2
        level = need.log2().ceil().exp2().clamp(1, _MAX_REFINEMENT)

        terms = x.new_empty(len(row))
        for refinement in sorted(set(level.tolist())):
            chosen = (level[row] == refinement).nonzero()[:, 0]
            offset, log_weight = self._rule(int(refinement), x.device)
            for part in torch.split(chosen, max(1, _VALUES // (3 * len(offset)))):
                theta = self.curve.start + (block[part, None] + offset) * self._step
                difference = x[row[part], None] - self.curve.position(theta)
                exponent = difference.square().sum(dim=-1) / (-2 * variance)
                terms[part] = torch.logsumexp(exponent + log_weight, dim=1)

        peak = x.new_full((len(x),), -torch.inf).scatter_reduce(0, row, terms, "amax")
        total = torch.zeros_like(peak).index_add(0, row, (terms - peak[row]).exp())
        constant = -log(self._count) - 1.5 * log(2 * pi * variance)
        return peak + total.log() + constant

    def _rule(self, refinement: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Nodes in (0, 1) and log-weights summing to 1 of ``refinement`` equal sub-blocks."""
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        node = torch.as_tensor((nodes + 1) / 2, device=device)
        offset = (torch.arange(refinement, device=device)[:, None] + node) / refinement
        log_weight = torch.as_tensor(np.log(weights / 2 / refinement), device=device)
        return offset.flatten(), log_weight.repeat(refinement)
