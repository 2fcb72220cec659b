"""Channels of an image in another order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowzoo.interfaces import BaseFlow, Step
from flowzoo.layers.image_shape import ImageShape
from flowzoo.layers.permutation import Order, order_index


class ChannelPermutation(BaseFlow):
    """Channel i of z is channel ``order[i]`` of x, at every pixel; the volume term is zero.

    Args:
        shape: (C, H, W) of x and z, kept flat.
        order: a permutation of 0..C-1, or "reverse", or "random".
        generator: where a random order comes from; torch's own generator when None.

    Raises:
        ValueError: a shape that is none, or an order that is no permutation of 0..C-1.

    Example:
        >>> import torch
        >>> layer = ChannelPermutation((2, 1, 2), order=(1, 0))
        >>> layer.encode(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).value
        tensor([[3., 4., 1., 2.]])
    """

    order: Tensor
    inverse_order: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        *,
        order: Order = "random",
        generator: torch.Generator | None = None,
    ) -> None:
        image_shape = ImageShape.of(shape)
        super().__init__(image_shape.features)
        self.shape = image_shape
        index = order_index(image_shape.channels, order, generator)
        self.register_buffer("order", index)
        self.register_buffer("inverse_order", torch.argsort(index))

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return self._take(x, self.order)

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return self._take(z, self.inverse_order)

    def _take(self, value: Tensor, order: Tensor) -> Step:
        taken = self.shape.image(value).index_select(1, order).reshape(len(value), self.features)
        return Step(taken, value.new_zeros(len(value)))
