"""Autograd's derivative of a function of rows against that of finite differences."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flowzoo.testing.numerics import F64, close, finite
from flowzoo.testing.outcome import require

_STEP = 1e-6  # float64
_KINK = 1e-3  # a slope that differs by more between two sides of a row has a kink there


def check_slope(call: Callable[[Tensor], Tensor], at: Tensor, what: str) -> bool:
    """Check the derivative of ``call``, a function of each row, along one direction at ``at``.

    Rows where it is not smooth, or not finite, say nothing; where half of them do, so does this.

    Args:
        call: (N, D) -> (N, ...), float64.
        at: rows (N, D).
        what: how messages name the result.

    Returns:
        Whether it is smooth at half of the rows or more.

    Raises:
        CheckFailed: the derivatives differ, or the result moves and has no gradient.
    """
    along = torch.linspace(0.5, 1.0, at.shape[1], dtype=F64) * (-1.0) ** torch.arange(at.shape[1])
    at = at.detach().clone().requires_grad_()
    with torch.no_grad():
        ahead, behind = call(at + _STEP * along), call(at - _STEP * along)
    here = call(at)
    weight = torch.linspace(0.5, 1.5, here[0].numel(), dtype=F64).reshape(here.shape[1:])
    ahead, middle, behind = (
        (part * weight).flatten(1).sum(dim=1) if part.ndim > 1 else part
        for part in (ahead, here, behind)
    )
    left, right = (middle.detach() - behind) / _STEP, (ahead - middle.detach()) / _STEP
    smooth = (left - right).abs() <= _KINK * (1.0 + left.abs())  # False where not finite
    if 2 * int(smooth.sum()) < len(at):
        return False
    moved = (0.5 * (left + right))[smooth]
    if not middle.requires_grad:
        still = float(moved.abs().max()) <= 1e-4
        require(still, f"{what}: has no gradient, and moves with its input")
        return True
    slope = torch.autograd.grad(middle.sum(), at, allow_unused=True)[0]
    found = torch.zeros_like(moved) if slope is None else (slope * along).sum(dim=1)[smooth]
    finite(found, f"gradient of {what}")
    close(found, moved, 1e-4, f"derivative of {what} against finite differences")
    return True
