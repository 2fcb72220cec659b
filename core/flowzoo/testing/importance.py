"""Total mass where no grid reaches: by importance sampling, near the draws and far from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowzoo.testing.numerics import F64
from flowzoo.testing.outcome import CheckFailed, require
from flowzoo.testing.quadrature import LogProb

_CENTRES, _POINTS = 800, 4000
_SHARES = (0.5, 0.25, 0.25)  # of points near the draws, far in all directions, far by columns
_WIDTHS = (0.05, 0.2, 0.8)  # of the kernels, in standard deviations of the draws
_INNER, _OUTER = 0.5, 1000.0  # how far the far points are, in the same unit
_SPAN = math.log(_OUTER / _INNER)


@dataclass(frozen=True)
class Proposal:
    r"""Points x of a density q that is nowhere thin, and log q there.

    A half are kernel densities of three widths around draws, a quarter goes in all directions with
    a log-uniform radius, a quarter has columns of its own, half of them normal, half log-uniform:
    tails that are heavy along the axes are thin elsewhere.

    Attributes:
        points: (M, D), float64.
        log_density: log q of each, (M,).
    """

    points: Tensor
    log_density: Tensor

    @classmethod
    def around(cls, draws: Tensor) -> Proposal:
        """A proposal for a density that ``draws`` (N, D) are thought to come from."""
        draws = draws.detach().to("cpu", F64)
        generator = torch.Generator().manual_seed(17)
        # quartiles, as heavy tails have no standard deviation
        low, middle, high = torch.quantile(draws, torch.tensor([0.25, 0.5, 0.75], dtype=F64), dim=0)
        scale = ((high - low) / 1.349).clamp(min=1e-12)
        white = (draws - middle) / scale
        centres = white[torch.randperm(len(white), generator=generator)[:_CENTRES]]
        features = white.shape[1]
        noise = torch.randn(_POINTS, features, generator=generator, dtype=F64)
        uniform = torch.rand(_POINTS, features + 1, generator=generator, dtype=F64)
        width = torch.tensor(_WIDTHS, dtype=F64)[torch.arange(_POINTS) % len(_WIDTHS)]
        pick = torch.randint(len(centres), (_POINTS,), generator=generator)
        near = centres[pick] + width[:, None] * noise
        radius = _INNER * (_SPAN * uniform[:, :1]).exp()
        around = radius * noise / noise.norm(dim=1, keepdim=True)
        stretched = noise.sign() * _INNER * (_SPAN * uniform[:, 1:]).exp()
        coin = torch.rand(_POINTS, features, generator=generator) < 0.5
        columns = torch.where(coin, noise, stretched)
        share = torch.rand(_POINTS, 1, generator=generator)
        points = torch.where(share < _SHARES[0], near, around)
        points = torch.where(share >= _SHARES[0] + _SHARES[1], columns, points)
        parts = (_log_near(points, centres), _log_around(points), _log_columns(points))
        weighted = [part + math.log(s) for part, s in zip(parts, _SHARES, strict=True)]
        log_density = torch.stack(weighted).logsumexp(dim=0) - scale.log().sum()
        return cls(middle + scale * points, log_density)

    def mass(self, log_prob: LogProb, dtype: torch.dtype = F64) -> tuple[float, float]:
        """An unbiased estimate of the integral of exp(log_prob), and its standard error.

        Raises:
            CheckFailed: the density is NaN somewhere.
        """
        with torch.no_grad():
            log_p = log_prob(self.points.to(dtype)).to("cpu", F64)
        if bool(log_p.isnan().any()):
            first = self.points[int(log_p.isnan().nonzero()[0])]
            raise CheckFailed(f"log-density: NaN at x = {[round(v, 4) for v in first.tolist()]}")
        ratio = (log_p - self.log_density).exp()
        return float(ratio.mean()), float(ratio.std()) / math.sqrt(len(ratio))


def _log_near(points: Tensor, centres: Tensor) -> Tensor:
    squares = torch.cdist(points, centres).square()
    features = points.shape[1]
    kernels = [
        (-0.5 * squares / w**2).logsumexp(dim=1) - features * math.log(w * math.sqrt(2.0 * math.pi))
        for w in _WIDTHS
    ]
    return torch.stack(kernels).logsumexp(dim=0) - math.log(len(_WIDTHS) * len(centres))


def _log_around(points: Tensor) -> Tensor:
    features = points.shape[1]
    radius = points.norm(dim=1)
    sphere = math.log(2.0) + 0.5 * features * math.log(math.pi) - math.lgamma(0.5 * features)
    return _inside(radius, -features * radius.log() - math.log(_SPAN) - sphere)


def _log_columns(points: Tensor) -> Tensor:
    normal = -0.5 * points.square() - 0.5 * math.log(2.0 * math.pi)
    stretched = _inside(points.abs(), -points.abs().log() - math.log(2.0 * _SPAN))
    return (torch.logaddexp(normal, stretched) - math.log(2.0)).sum(dim=1)


def _inside(distance: Tensor, log_density: Tensor) -> Tensor:
    inside = (distance >= _INNER) & (distance <= _OUTER)
    return torch.where(inside, log_density, torch.full_like(log_density, -math.inf))


def check_not_above_one(
    log_prob: LogProb, proposal: Proposal, allowed: float, dtype: torch.dtype = F64
) -> None:
    """Check that exp(log_prob) has a total mass of at most 1, in any D.

    Only this side: points may miss a spike, and then too little is found; too much of a density
    that is right is found by chance in very few seeds.

    Raises:
        CheckFailed: more than ``allowed`` and five standard errors above 1, or a half and three
            standard errors; or NaN somewhere.
    """
    mass, error = proposal.mass(log_prob, dtype)
    require(
        mass - 5.0 * error <= 1.0 + allowed and mass - 3.0 * error <= 1.5 + allowed,
        f"total mass: expected 1, got {mass:.4g} (+- {error:.2g}) from points up to {_OUTER:g} "
        "times the draws' spread",
    )
