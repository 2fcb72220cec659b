"""The sinh-arcsinh flow."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flowzoo import BaseFlow, Step


class _Shape(NamedTuple):
    shift: Tensor
    log_scale: Tensor
    skew: Tensor
    log_tail: Tensor


class SinhArcsinh(BaseFlow):
    r"""A shift, a scale, a skewness and a tail weight for every coordinate.

    .. math:: z = \sinh(\delta \operatorname{asinh}(y) - \epsilon), \qquad y = (x - m) / s

    It starts as the identity. With a context the four are linear in it.

    Source: Jones, Pewsey (2009).
    """

    def __init__(self, features: int, *, context_features: int = 0) -> None:
        super().__init__(features, context_features=context_features, fast="both")
        self.bias = torch.nn.Parameter(torch.zeros(4 * features))
        if context_features > 0:
            self.weight = torch.nn.Parameter(torch.zeros(4 * features, context_features))

    def _shape(self, like: Tensor, context: Tensor | None) -> _Shape:
        all_four = self.bias.expand(len(like), -1)
        if context is not None:
            all_four = all_four + context @ self.weight.mT
        return _Shape(*all_four.chunk(4, dim=1))

    @staticmethod
    def _volume(y: Tensor, z: Tensor, shape: _Shape) -> Tensor:
        """log dz/dx, where d asinh(y) / dy = 1 / sqrt(1 + y^2)."""
        ends = 0.5 * (torch.log1p(z.square()) - torch.log1p(y.square()))
        return (shape.log_tail - shape.log_scale + ends).sum(dim=1)

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        shape = self._shape(x, context)
        y = (x - shape.shift) * (-shape.log_scale).exp()
        z = torch.sinh(shape.log_tail.exp() * torch.asinh(y) - shape.skew)
        return Step(z, self._volume(y, z, shape))

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        shape = self._shape(z, context)
        y = torch.sinh((torch.asinh(z) + shape.skew) * (-shape.log_tail).exp())
        return Step(y * shape.log_scale.exp() + shape.shift, self._volume(y, z, shape))
