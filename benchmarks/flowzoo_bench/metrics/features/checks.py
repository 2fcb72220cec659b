"""What two sets of feature vectors must be to be compared."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.validation import check_rows


def check_pair(x: Tensor, y: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Both sets in float64, if they are (N, F) and (M, F) on one device with enough rows.

    Raises:
        TypeError: not tensors.
        ValueError: other shapes or devices, or fewer than ``rows`` rows.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a torch.Tensor, got {type(x).__name__}")
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"x: expected shape (N, F), got {tuple(x.shape)}")
    check_rows("x", x, x.shape[1])
    check_rows("y", y, x.shape[1])
    if y.device != x.device:
        raise ValueError(f"y: expected device {x.device}, got {y.device}")
    for name, value in (("x", x), ("y", y)):
        if len(value) < rows:
            raise ValueError(f"{name}: expected at least {rows} rows, got {len(value)}")
    return x.to(torch.float64), y.to(torch.float64)
