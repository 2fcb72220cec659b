"""The smooth map of R^d onto the open unit ball."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.interfaces import BaseFlow, Step


class RadialSquash(BaseFlow):
    r"""Shrinks radii r to r / sqrt(1 + r^2): R^d onto the open unit ball.

    .. math:: z = \frac{x}{\sqrt{1 + |x|^2}}, \qquad
        \log|\det dz/dx| = -\left(\tfrac d2 + 1\right) \log(1 + |x|^2)

    The inverse is x = z / sqrt(1 - |z|^2). Within rounding of the sphere, 1 - |z|^2 is taken to be
    the dtype's epsilon, which keeps x finite (|x| <= 2896 in float32, 6.7e7 in float64); a z
    outside the ball by more than rounding decodes to NaN.

    Args:
        features: d.

    Example:
        >>> import torch
        >>> RadialSquash(2).encode(torch.tensor([[3.0, 4.0]])).value.norm() < 1
        tensor(True)
    """

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        square = x.square().sum(dim=1, keepdim=True)
        z = x * (1.0 + square).rsqrt()
        return Step(z, -(self.features / 2 + 1) * square[:, 0].log1p())

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        eps = torch.finfo(z.dtype).eps
        gap = 1.0 - z.square().sum(dim=1, keepdim=True)
        gap = torch.where(gap > -8.0 * eps, gap.clamp(min=eps), gap)
        return Step(z * gap.rsqrt(), (self.features / 2 + 1) * gap[:, 0].log())
