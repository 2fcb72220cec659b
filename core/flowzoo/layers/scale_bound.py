"""The bound on log-scales that the affine layers share."""

from __future__ import annotations

import torch
from torch import Tensor

LOG_SCALE_BOUND = 5.0
"""Default bound: a layer stretches each feature by a factor in (e^-5, e^5) = (0.0067, 148.4)."""


def bound_log_scale(raw: Tensor, bound: float) -> Tensor:
    """``bound * tanh(raw / bound)``: in (-bound, bound), odd, slope 1 at zero."""
    return bound * torch.tanh(raw / bound)


def check_bound(bound: float) -> float:
    """Return ``bound`` if it is positive and finite.

    Raises:
        ValueError: it is not.
    """
    if not 0 < bound < float("inf"):
        raise ValueError(f"log_scale_bound: expected a finite number > 0, got {bound}")
    return float(bound)
