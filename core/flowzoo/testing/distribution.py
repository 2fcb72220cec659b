"""Draws against a density: total mass, and how many draws fall into each cell of a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowzoo.testing.importance import Proposal, check_not_above_one
from flowzoo.testing.numerics import F64
from flowzoo.testing.outcome import CheckFailed, NotApplicable, require
from flowzoo.testing.quadrature import CELLS, Grid, LogProb, integrate

_LEAST = 1e-6
"""Smallest p-value that passes: one chance in a million for a right sampler and this seed."""
_EXPECTED = 8.0
_GAP = 2.9  # Kolmogorov's bound at about the same chance
_ROUGH = 0.05  # of the mass: what may move between grids, and what must be found at all
_CENTRES, _SCORED = 2000, 6000


def draws_follow(
    log_prob: LogProb, draws: Tensor, *, tolerance: float, dtype: torch.dtype = F64
) -> None:
    """Check that exp(log_prob) has mass 1 and that ``draws`` (N, D) follow it.

    By quadrature for D <= 2, cell by cell, where the grid resolves the density; by overlaps else,
    and by a mass that must not be above 1.

    Raises:
        CheckFailed: they do not.
        NotApplicable: the density is too rough to tell.
    """
    if draws.shape[1] <= 2:
        grid = Grid.around(draws)
        masses, moved = integrate(log_prob, grid, dtype=dtype, tolerance=tolerance)
        if resolved(masses, moved):
            check_mass(masses, moved, tolerance)
            check_counts(masses, grid, draws)
            return
    check_not_above_one(log_prob, Proposal.around(draws), tolerance, dtype)
    check_overlap(log_prob, draws, dtype)


def resolved(masses: Tensor, moved: float) -> bool:
    """Whether the finest grid was fine enough to say anything."""
    total = float(masses.sum())
    return moved < _ROUGH * max(1.0, total) and total > _ROUGH


def check_overlap(
    log_prob: LogProb,
    draws: Tensor,
    dtype: torch.dtype = F64,
    centres: Tensor | None = None,
    width: float = 0.3,
) -> None:
    r"""Check that ``draws`` (N, D) follow exp(log_prob) = p, in any D, without a grid.

    .. math:: E_{x \sim p}[k(x)] = \int k(x)\, p(x)\, dx = E_{x \sim k}[p(x)]

    for k a kernel density around ``centres``, by default half of the draws; the other half
    estimates the left side. Its width, first ``width`` standard deviations of the draws, is halved
    until draws of k meet p often enough.

    Raises:
        CheckFailed: the two differ by more than five standard errors.
        NotApplicable: no width makes them sharp enough to tell.
    """
    draws = draws.detach().to("cpu", F64)
    if centres is None:
        centres, draws = draws[::2], draws[1::2]
    centres, draws = centres[:_CENTRES].to("cpu", F64), draws[:_SCORED]
    generator = torch.Generator().manual_seed(11)
    pick = torch.randint(len(centres), (_SCORED,), generator=generator)
    noise = torch.randn(_SCORED, draws.shape[1], generator=generator, dtype=F64)
    scale = draws.std(dim=0).clamp(min=1e-300)
    for _ in range(14):
        with torch.no_grad():
            proposed = centres[pick] + width * scale * noise
            log_p = log_prob(proposed.to(dtype)).to("cpu", F64)
        log_k = _log_kernel(draws, centres, width, scale)
        left, right = _mean(log_k), _mean(log_p)
        if left[1] < 0.05 and right[1] < 0.05:
            apart, error = left[0] - right[0], math.hypot(left[1], right[1])
            require(
                abs(apart) <= 5.0 * error + 0.005,
                f"draws do not follow the density: their overlap with a kernel density is "
                f"{math.exp(apart):.3f} times what the density says (+- {error:.3f})",
            )
            return
        width /= 2.0
    raise NotApplicable("the density is too rough to tell whether draws follow it")


def _mean(log_values: Tensor) -> tuple[float, float]:
    """Log of the mean of exp(values), and the relative standard error of that mean."""
    if bool(log_values.isnan().any()):
        raise CheckFailed("log-density: NaN")
    top = float(log_values.max())
    if top == -math.inf:
        return -math.inf, math.inf
    values = (log_values - top).exp()
    mean = float(values.mean())
    return top + math.log(mean), float(values.std()) / math.sqrt(len(values)) / mean


def _log_kernel(x: Tensor, centres: Tensor, width: float, scale: Tensor) -> Tensor:
    parts = []
    for chunk in torch.split(x / scale, 1000):
        near = torch.cdist(chunk, centres / scale, compute_mode="donot_use_mm_for_euclid_dist")
        parts.append((-0.5 * (near / width).square()).logsumexp(dim=1))
    constant = math.log(len(centres)) + float(scale.log().sum())
    constant += x.shape[1] * math.log(width * math.sqrt(2.0 * math.pi))
    return torch.cat(parts) - constant


def check_mass(masses: Tensor, moved: float, tolerance: float, *, bound: bool = False) -> None:
    """Raise CheckFailed unless the total is 1, or at most 1 for a lower bound."""
    total, allowed = float(masses.sum()), tolerance + 2.0 * moved
    if bound:
        require(
            total <= 1.0 + allowed,
            f"total mass of a lower bound: expected at most 1, got {total:.5f}",
        )
    else:
        require(
            abs(total - 1.0) <= allowed,
            f"total mass: expected 1, got {total:.5f} (at most {allowed:.2g} off)",
        )


def check_counts(masses: Tensor, grid: Grid, draws: Tensor) -> None:
    """Raise CheckFailed unless cell counts of ``draws`` fit ``masses`` by a chi-square test."""
    from scipy.stats import chi2

    _check_columns(masses, grid, draws)
    counts = torch.bincount(grid.cell_of(draws), minlength=len(masses)).to(F64)
    expected = masses / masses.sum() * len(draws)
    order = expected.argsort(descending=True)
    counts, expected = counts[order], expected[order]
    kept = int((expected >= _EXPECTED).sum())
    # the thin cells together are one more
    observed = torch.cat([counts[:kept], counts[kept:].sum()[None]])
    wanted = torch.cat([expected[:kept], expected[kept:].sum()[None]])
    if float(wanted[-1]) < _EXPECTED and kept > 0:
        observed = torch.cat([observed[:-2], observed[-2:].sum()[None]])
        wanted = torch.cat([wanted[:-2], wanted[-2:].sum()[None]])
    statistic = float(((observed - wanted).square() / wanted.clamp(min=1e-9)).sum())
    p_value = float(chi2.sf(statistic, max(1, len(wanted) - 1)))
    worst = int(((observed - wanted).square() / wanted.clamp(min=1e-9)).argmax())
    require(
        p_value >= _LEAST,
        f"draws do not follow the density: p = {p_value:.1e} over {len(wanted)} cells; one holds "
        f"{int(observed[worst])} of {len(draws)} draws, expected {float(wanted[worst]):.1f}",
    )


def _check_columns(masses: Tensor, grid: Grid, draws: Tensor) -> None:
    """Each column on its own: the largest gap between the two distribution functions."""
    counts = torch.bincount(grid.cell_of(draws), minlength=len(masses)).to(F64)
    shape = (CELLS,) * grid.features
    for column in range(grid.features):
        others = [c for c in range(grid.features) if c != column]
        expected, found = (
            (value.reshape(shape).sum(dim=others) if others else value)
            for value in (masses, counts)
        )
        gap = (found.cumsum(0) / len(draws) - expected.cumsum(0) / expected.sum()).abs().max()
        require(
            float(gap) * math.sqrt(len(draws)) <= _GAP,
            f"draws do not follow the density: column {column}'s distribution function is off by "
            f"{float(gap):.3f} over {len(draws)} draws",
        )
