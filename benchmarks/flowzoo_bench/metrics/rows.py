"""Means over rows that say when a row is not finite."""

from __future__ import annotations

from collections.abc import Callable
from math import log, nan, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

LN2 = log(2.0)


class RowMean(NamedTuple):
    """Mean over rows and its standard error (None for fewer than two rows)."""

    mean: float
    stderr: float | None
    n: int


def row_mean(values: Tensor) -> RowMean:
    """Mean of values (N,) in float64; NaN of no rows; non-finite rows make it non-finite."""
    count = len(values)
    if count == 0:
        return RowMean(nan, None, 0)
    values = values.detach().to("cpu", torch.float64)
    mean = float(values.mean())
    return RowMean(mean, float(values.std()) / sqrt(count) if count > 1 else None, count)


def count_non_finite(values: Tensor) -> int:
    """How many rows of values (N,) or (N, D) hold NaN or infinity."""
    return int((~torch.isfinite(values).reshape(len(values), -1).all(dim=1)).sum())


def on_finite_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function`` of the finite rows of x (N, D), and NaN for the others: (N,) float64."""
    finite = torch.isfinite(x).all(dim=1)
    result = torch.full((len(x),), nan, dtype=torch.float64)
    if bool(finite.any()):
        result[finite.cpu()] = function(x[finite]).to("cpu", torch.float64)
    return result
