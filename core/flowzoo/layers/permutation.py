"""Columns in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from flowzoo.interfaces import BaseFlow, Step

Order = Sequence[int] | Literal["reverse", "random"]


def order_index(size: int, order: Order, generator: torch.Generator | None = None) -> Tensor:
    """``order`` as the indices 0..size-1 in that order, (size,) int64.

    Raises:
        ValueError: an order that is no permutation of 0..size-1.
    """
    if order == "reverse":
        return torch.arange(size - 1, -1, -1)
    if order == "random":
        return torch.randperm(size, generator=generator)
    if isinstance(order, str) or sorted(order) != list(range(size)):
        raise ValueError(
            f"order: expected 'reverse', 'random' or a permutation of 0..{size - 1}, got {order!r}"
        )
    return torch.tensor(list(order))


class Permutation(BaseFlow):
    """z_i = x_{order[i]}; the volume term is zero.

    Args:
        features: D.
        order: a permutation of 0..D-1, or "reverse", or "random".
        generator: where a random order comes from; torch's own generator when None.

    Raises:
        ValueError: an order that is no permutation of 0..D-1.

    Example:
        >>> import torch
        >>> Permutation(3, order=(2, 0, 1)).encode(torch.tensor([[1.0, 2.0, 3.0]])).value
        tensor([[3., 1., 2.]])
    """

    order: Tensor
    inverse_order: Tensor

    def __init__(
        self,
        features: int,
        *,
        order: Order,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features)
        index = order_index(features, order, generator)
        self.register_buffer("order", index)
        self.register_buffer("inverse_order", torch.argsort(index))

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return Step(x.index_select(1, self.order), x.new_zeros(len(x)))

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return Step(z.index_select(1, self.inverse_order), z.new_zeros(len(z)))
