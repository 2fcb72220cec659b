"""The logit of dequantised levels, and what it does to a log-density."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor


@dataclass(frozen=True)
class Logit:
    """The map ``z = logit(y)``, ``y = lambda + (1 - 2 lambda) x / L``, entry by entry.

    .. math:: \\log |\\det dz/dx|
        = \\sum_j \\log \\frac{1 - 2 \\lambda}{L} - \\log y_j - \\log (1 - y_j)

    Data in [0, L) keep away from the infinities by lambda. The map takes all of
    ``(-m, L + m)``, ``m = lambda L / (1 - 2 lambda)``, to the real line, so ``decode`` of a sample
    may leave [0, L) by up to m: it is where the density has that mass, and nothing is clipped.
    ``encode`` of what lies outside is NaN. Dinh et al. (2017), section 4.1.

    Attributes:
        margin: lambda in (0, 0.5).
        levels: L.

    Example:
        >>> Logit(0.05, 8).encode(torch.tensor([[0.0, 4.0, 8.0]]))
        tensor([[-2.9444,  0.0000,  2.9444]])
    """

    margin: float
    levels: int

    def __post_init__(self) -> None:
        if not 0 < self.margin < 0.5:
            raise ValueError(f"margin: expected a number in (0, 0.5), got {self.margin!r}")
        if self.levels < 1:
            raise ValueError(f"levels: expected at least 1, got {self.levels!r}")

    @property
    def _slope(self) -> float:
        return (1.0 - 2.0 * self.margin) / self.levels

    def encode(self, x: Tensor) -> Tensor:
        """x (N, D) in levels to z (N, D), in x's dtype and on its device."""
        y = self.margin + self._slope * x
        return y.log() - torch.log1p(-y)

    def decode(self, z: Tensor) -> Tensor:
        """z (N, D) to x (N, D) in levels, in z's dtype and on its device."""
        least = 8.0 * torch.finfo(z.dtype).eps
        # rounding would take a large z to the end of the open interval, where no z is
        y = torch.sigmoid(z).clamp(least, 1.0 - least)
        return torch.where(torch.isfinite(z), (y - self.margin) / self._slope, z)

    def log_abs_det(self, x: Tensor) -> Tensor:
        """log|det dz/dx| at x (N, D) in levels, in nats: (N,) float64."""
        y = self.margin + self._slope * x.to(torch.float64)
        return (log(self._slope) - y.log() - torch.log1p(-y)).sum(dim=1)
