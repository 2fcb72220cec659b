"""Draws against a density: total mass, and how many draws fall into each cell of a grid."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.testing.numerics import F64
from flowzoo.testing.outcome import require
from flowzoo.testing.quadrature import Grid, LogProb, integrate

_LEAST = 1e-6
"""Smallest p-value that passes: one chance in a million for a right sampler and this seed."""
_EXPECTED = 8.0


def draws_follow(
    log_prob: LogProb, draws: Tensor, *, tolerance: float, dtype: torch.dtype = F64
) -> None:
    """Check that exp(log_prob) has mass 1 and that ``draws`` (N, D), D <= 2, follow it."""
    grid = Grid.around(draws)
    masses, moved = integrate(log_prob, grid, dtype=dtype, tolerance=tolerance)
    check_mass(masses, moved, tolerance)
    check_counts(masses, grid, draws)


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
