"""Scaling by training moments, and what it does to a log-density."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowzoo.validation import check_finite


@dataclass(frozen=True)
class Standardizer:
    """The map ``z = (x - shift) / scale``, column by column.

    A density scored in z becomes one in the original units by adding ``log_abs_det``:

    .. math:: \\log p_X(x) = \\log p_Z(z) - \\sum_j \\log \\mathrm{scale}_j

    Attributes:
        shift: (D,) float64.
        scale: (D,) float64, positive.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [4.0, 1.0]], dtype=torch.float64)
        >>> Standardizer.fit(x).scale  # the second column is constant
        tensor([2., 1.], dtype=torch.float64)
    """

    shift: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        if self.shift.ndim != 1 or self.shift.shape != self.scale.shape:
            raise ValueError(
                f"scale: expected shape ({self.shift.numel()},) as shift has, "
                f"got {tuple(self.scale.shape)}"
            )
        if not bool((self.scale > 0).all()) or not bool(torch.isfinite(self.scale).all()):
            raise ValueError(f"scale: expected positive finite values, got {self.scale.tolist()}")

    @classmethod
    def fit(cls, x: Tensor) -> Standardizer:
        """Mean and standard deviation (divisor N) of the rows of x (N, D); N >= 1.

        A column that is constant, up to the rounding of its mean, has nothing to be scaled by: it
        is shifted and gets scale 1, so that it stays constant and adds nothing to the log-density.

        Raises:
            ValueError: x is not (N, D) with N >= 1, or has a non-finite row.
        """
        if x.ndim != 2 or len(x) == 0:
            raise ValueError(f"x: expected shape (N, D) with N >= 1, got {tuple(x.shape)}")
        x = check_finite("x", x).to(torch.float64)
        shift = x.mean(dim=0)
        scale = x.std(dim=0, correction=0)
        constant = x.amax(dim=0) == x.amin(dim=0)
        # spread below the smallest normal number cannot be divided by
        constant |= scale < torch.finfo(torch.float64).tiny
        return cls(shift, torch.where(constant, torch.ones_like(scale), scale))

    @classmethod
    def identity(cls, features: int) -> Standardizer:
        """The map that changes nothing, for tasks that are scored in raw coordinates."""
        return cls.shared(features, 1.0)

    @classmethod
    def shared(cls, features: int, scale: float) -> Standardizer:
        """All columns divided by one number."""
        shift = torch.zeros(features, dtype=torch.float64)
        return cls(shift, torch.full_like(shift, scale))

    def log_abs_det(self, x: Tensor) -> Tensor:
        """log|det dz/dx| = -sum of log scale in nats, the same for each row of x: (N,) float64."""
        return -self.scale.log().sum().to(x.device).expand(len(x))

    def encode(self, x: Tensor) -> Tensor:
        """x (N, D) in original units to z (N, D), in x's dtype and on its device."""
        return (x - self.shift.to(x)) / self.scale.to(x)

    def decode(self, z: Tensor) -> Tensor:
        """z (N, D) to x (N, D) in original units, in z's dtype and on its device."""
        return z * self.scale.to(z) + self.shift.to(z)
