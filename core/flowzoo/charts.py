"""What conditional networks are told about a chart."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Condition = Literal["code", "one-hot"]
"""A chart's code, or a one-hot of its index."""


def check_condition(condition: str) -> None:
    """Raise unless this is a ``Condition``.

    Raises:
        ValueError: it is not.
    """
    if condition not in get_args(Condition):
        raise ValueError(f"condition: expected one of {get_args(Condition)}, got {condition!r}")


def condition_features(condition: Condition, num_charts: int, code_features: int) -> int:
    """Columns of ``chart_context``."""
    return code_features if condition == "code" else num_charts


def chart_context(chart: Tensor, codes: Tensor, condition: Condition) -> Tensor:
    """Codes (K, C) or one-hots of charts (...) int64: (..., C) or (..., K); runs under vmap."""
    if condition == "code":
        return codes[chart]
    index = torch.arange(len(codes), device=chart.device)
    return (chart[..., None] == index).to(codes.dtype)
