"""Nearest-neighbour up-sampling as a loading."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowzoo.low_rank.factor import DiagonalFactor, Factor
from flowzoo.low_rank.loading import Loading
from flowzoo.validation import check_positive


class UpSampling(Loading):
    r"""Each latent pixel, times a gain of its own, copied into a square block of data pixels.

    .. math:: (A z)_{c, h, w} = g_{c, \lfloor h/k \rfloor, \lfloor w/k \rfloor}\,
              z_{c, \lfloor h/k \rfloor, \lfloor w/k \rfloor}

    Every data pixel hangs on one latent pixel, so A' diag(p) A is diagonal and all costs are O(D).

    Source: Cunningham et al. (2020), A.6; the gains, which start at 1, are ours: with a standard
    normal z the copies alone would fix the variance.

    Args:
        shape: (C, H, W) of the data; a pixel's column is ``(c H + h) W + w``.
        factor: k, the width of a block; divides H and W.

    Raises:
        ValueError: a shape that is none, or that the factor does not divide.

    Example:
        >>> UpSampling((1, 4, 4), factor=2)(torch.ones(1, 4)).shape
        torch.Size([1, 16])
    """

    def __init__(self, shape: Sequence[int], *, factor: int = 2) -> None:
        if len(shape) != 3:
            raise ValueError(f"shape: expected (C, H, W), got {tuple(shape)}")
        channels, height, width = (check_positive("shape", size) for size in shape)
        self_factor = check_positive("factor", factor)
        if height % self_factor or width % self_factor:
            raise ValueError(f"factor: expected to divide {height} and {width}, got {factor}")
        blocks = (channels, height // factor, width // factor)
        latent = blocks[0] * blocks[1] * blocks[2]
        super().__init__(channels * height * width, latent)
        self.shape, self.blocks, self.block = (channels, height, width), blocks, factor
        self.gain = nn.Parameter(torch.ones(latent))

    def forward(self, z: Tensor) -> Tensor:
        """A z, (N, D)."""
        channels, rows, columns = self.blocks
        scaled = (self.gain * z).reshape(-1, channels, rows, 1, columns, 1)
        copied = scaled.expand(-1, channels, rows, self.block, columns, self.block)
        return copied.reshape(-1, self.features)

    def transposed(self, y: Tensor) -> Tensor:
        """A' y, (N, d)."""
        return self.gain * self._sums(y)

    def factor(self, precision: Tensor, ridge: float) -> Factor:
        """See ``Loading.factor``."""
        return DiagonalFactor(ridge + self.gain.square() * self._sums(precision))

    def pseudo_solve(self, precision: Tensor, u: Tensor) -> Tensor:
        """See ``Loading.pseudo_solve``."""
        diagonal = self.gain.square() * self._sums(precision)
        inverse = torch.where(diagonal > 0, diagonal.reciprocal(), torch.zeros_like(diagonal))
        return u * inverse

    def matrix(self) -> Tensor:
        """A, (D, d)."""
        eye = torch.eye(self.latent_features, dtype=self.gain.dtype, device=self.gain.device)
        return self.forward(eye).T

    def _sums(self, y: Tensor) -> Tensor:
        """The sum over each block, (..., d)."""
        channels, rows, columns = self.blocks
        split = y.reshape(*y.shape[:-1], channels, rows, self.block, columns, self.block)
        return split.sum(dim=(-3, -1)).reshape(*y.shape[:-1], self.latent_features)
