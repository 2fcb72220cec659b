"""Hypothesis strategies for the shapes and values that contracts are stated over."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from flowzoo.testing.numerics import F64
from flowzoo.testing.subject import Case

MAGNITUDE = 8.0
"""Rows are drawn from [-8, 8]: eight standard deviations of a standard normal."""


class Batch(NamedTuple):
    """Arguments of a flow: x or z (N, features), context (N, C) or None, chart (N,) or None."""

    rows: Tensor
    context: Tensor | None
    chart: Tensor | None


def tensors(num: int, features: int, dtype: torch.dtype = F64) -> st.SearchStrategy[Tensor]:
    """Tensors (num, features) of finite numbers, zeros and repeated rows included."""
    number = st.floats(-MAGNITUDE, MAGNITUDE, width=32, allow_nan=False)
    size = num * features
    flat = st.lists(number, min_size=size, max_size=size)
    return flat.map(lambda values: torch.tensor(values, dtype=dtype).reshape(num, features))


def row_counts(most: int = 9) -> st.SearchStrategy[int]:
    """Numbers of rows; none, one and two come often."""
    return st.one_of(st.sampled_from([0, 1, 2]), st.integers(0, most))


@st.composite
def batches(draw: Any, case: Case, features: int | None = None, dtype: torch.dtype = F64) -> Batch:
    """Arguments for a flow of this case; ``features`` is the width of the rows, by default D."""
    num = draw(row_counts())
    rows = draw(tensors(num, case.features if features is None else features, dtype))
    context = draw(tensors(num, case.context, dtype)) if case.context else None
    chart = None
    if case.charts is not None:
        index = draw(st.lists(st.integers(0, case.charts - 1), min_size=num, max_size=num))
        chart = torch.tensor(index, dtype=torch.int64)
    return Batch(rows, context, chart)
