"""The bound on log-scales that the affine layers share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

LOG_SCALE_BOUND = 5.0
"""Default bound: a layer stretches each feature by a factor in (e^-5, e^5) = (0.0067, 148.4)."""

Bound = float | Literal["none"]
"""A bound, or the word for none."""


def bound_log_scale(raw: Tensor, bound: Bound) -> Tensor:
    """``bound * tanh(raw / bound)``: in (-bound, bound), odd, slope 1 at zero; ``raw`` for none."""
    if isinstance(bound, str):
        return raw
    return bound * torch.tanh(raw / bound)


def raw_log_scale(log_scale: Tensor, bound: Bound, inside: float = 0.95) -> Tensor:
    """What ``bound_log_scale`` takes to ``log_scale``, clamped to ``inside`` times the bound."""
    if isinstance(bound, str):
        return log_scale
    return bound * torch.atanh((log_scale / bound).clamp(-inside, inside))


def check_bound(bound: float, name: str = "log_scale_bound") -> float:
    """Return ``bound`` if it is positive and finite.

    Raises:
        ValueError: it is not.
    """
    if not 0 < bound < float("inf"):
        raise ValueError(f"{name}: expected a finite number > 0, got {bound}")
    return float(bound)


def check_bound_or_none(bound: Bound, name: str = "log_scale_bound") -> Bound:
    """Return ``bound`` if it is positive and finite, or the word ``none``.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(bound, str):
        return check_bound(bound, name)
    if bound != "none":
        raise ValueError(f"{name}: expected a finite number > 0 or 'none', got {bound!r}")
    return bound
