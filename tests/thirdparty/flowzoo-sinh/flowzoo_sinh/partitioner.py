"""A partition into slabs."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo import Partitioner, Stage


class Slabs(Partitioner):
    r"""Slabs across the first principal axis a, holding about equally many rows.

    .. math:: d_k(x) = |a \cdot (x - c_k)|
    """

    codes: Tensor
    axis: Tensor

    def __init__(self, features: int, *, num_charts: int = 8) -> None:
        super().__init__(features, num_charts=num_charts, code_features=features)
        self.register_buffer("codes", torch.zeros(num_charts, features))
        self.register_buffer("axis", torch.zeros(features))

    def _distances(self, x: Tensor) -> Tensor:
        along = ((x[:, None, :] - self.codes) * self.axis).sum(dim=2)
        return along.abs()

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("slabs", prepare=self._fit),)

    @torch.no_grad()
    def _fit(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        if len(x_train) < self.num_charts:
            raise ValueError(
                f"x_train: expected at least num_charts={self.num_charts} rows, got {len(x_train)}"
            )
        x = x_train.to(torch.float64)
        mean = x.mean(dim=0)
        axis = torch.linalg.eigh((x - mean).mT @ (x - mean)).eigenvectors[:, -1]
        axis = axis * torch.sign(axis[axis.abs().argmax()])  # the same on every machine
        middles = (torch.arange(self.num_charts, device=x.device) + 0.5) / self.num_charts
        places = torch.quantile((x - mean) @ axis, middles.to(x))
        self.axis.copy_(axis)
        self.codes.copy_(mean + places[:, None] * axis)
