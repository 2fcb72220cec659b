"""Fixed affine maps to uncorrelated columns, with and without unit variance."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from flowzoo.interfaces import BaseFlow, Step
from flowzoo.validation import check_number, check_rows

EIGENVALUE_FLOOR = 1e-6  # of the data's mean variance: a scale is at least 1e-3 of the data's std


class Whitener(NamedTuple):
    """x' = (x - mean) whiten.

    Attributes:
        mean: (D,).
        whiten: (D, D).
        colour: (D, D), its inverse.
        log_abs_det: (), log|det whiten|.
    """

    mean: Tensor
    whiten: Tensor
    colour: Tensor
    log_abs_det: Tensor


def variance_floor(rows: Tensor) -> float:
    """The smallest variance that rows (N, D) are divided by; 1 where they do not vary."""
    scale = float(rows.var(dim=0, correction=0).mean())
    return EIGENVALUE_FLOOR * scale if scale > 0.0 else 1.0


def principal_whitener(
    rows: Tensor, floor: float, *, inflation: float = 1.0, shrinkage: float = 0.0
) -> Whitener:
    r"""PCA whitening by the moments of rows (N, D), float64, the leading axis last.

    .. math:: W W^\top = \big(a [(1 - s) S + s\,\tfrac{\mathrm{tr} S}{D} I]\big)^{-1}

    with S their covariance, a the inflation and s the shrinkage.

    Args:
        rows: (N, D), N >= 1.
        floor: eigenvalues are kept above it.
        inflation: a > 0, factor on the covariance.
        shrinkage: s in [0, 1].
    """
    mean = rows.mean(dim=0)
    centred = rows - mean
    variance, axes = torch.linalg.eigh(centred.T @ centred / len(rows))
    variance = (1.0 - shrinkage) * variance + shrinkage * variance.mean()
    std = (inflation * variance.clamp(min=floor)).sqrt()
    return Whitener(mean, axes / std, std[:, None] * axes.T, -std.log().sum())


def principal_rotation(rows: Tensor, *, unit: bool = False) -> Whitener:
    """The principal axes of rows (N, D), float64, unscaled: distances and volumes stay.

    Axes go to the two halves of the columns in turn, from the leading one on, so that couplings by
    halves have as much of the data on either side. With ``unit`` all of them are divided by one
    number, and the leading one has unit variance: a similarity.
    """
    mean = rows.mean(dim=0)
    centred = rows - mean
    variance, axes = torch.linalg.eigh(centred.T @ centred / len(rows))
    std = variance[-1].clamp(min=0.0).sqrt() if unit else variance.new_ones(())
    rounding = 1e-12 * rows.abs().amax()  # rows that do not vary stay as they are
    std = torch.where(std > rounding, std, torch.ones_like(std))
    axes = axes.flip(1)
    axes = torch.cat([axes[:, 0::2], axes[:, 1::2]], dim=1)
    return Whitener(mean, axes / std, axes.T * std, -len(axes) * std.log())


Scaling = Literal["axes", "longest", "none"]


class Whitening(BaseFlow):
    r"""x to its principal components; the identity until ``fit``.

    .. math:: z = (x - \mu) W, \qquad \log|\det dz/dx| = \log|\det W|

    The map is data, not parameters. With unit variances a standard normal prior behind it alone is
    the Gaussian with the data's mean and covariance; unscaled, the map is a rotation.

    Args:
        features: D.
        scaling: ``axes`` gives each component unit variance; ``longest`` divides all by one number
            that gives it to the longest; ``none`` divides none.
        shrinkage: share of the mean variance mixed into the covariance, in [0, 1].

    Raises:
        ValueError: an option out of range.

    Example:
        >>> flow = Whitening(2)
        >>> flow.fit(torch.tensor([[0.0, 0.0], [2.0, 4.0], [2.0, 0.0], [0.0, 4.0]]))
        >>> flow.encode(torch.tensor([[1.0, 4.0]])).value.abs()
        tensor([[0., 1.]])
    """

    mean: Tensor  # (D,)
    whiten: Tensor  # (D, D)
    colour: Tensor  # (D, D), the inverse of whiten
    log_abs_det: Tensor  # (), log|det whiten|

    def __init__(self, features: int, *, scaling: Scaling = "axes", shrinkage: float = 0.0) -> None:
        super().__init__(features)
        if scaling not in get_args(Scaling):
            raise ValueError(f"scaling: expected one of {get_args(Scaling)}, got {scaling!r}")
        self.scaling = scaling
        self.shrinkage = check_number("shrinkage", shrinkage, most=1.0)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("whiten", torch.eye(features))
        self.register_buffer("colour", torch.eye(features))
        self.register_buffer("log_abs_det", torch.zeros(()))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set the map, in place, from training rows x (N, D).

        Raises:
            ValueError: a wrong shape, or no rows.
        """
        if len(check_rows("x", x, self.features)) == 0:
            raise ValueError("x: expected at least one row, got none")
        rows = x.detach().double().cpu()
        if self.scaling == "axes":
            found = principal_whitener(rows, variance_floor(rows), shrinkage=self.shrinkage)
        else:
            found = principal_rotation(rows, unit=self.scaling == "longest")
        for name, value in found._asdict().items():
            getattr(self, name).copy_(value)

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return Step((x - self.mean) @ self.whiten, self.log_abs_det.expand(len(x)))

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return Step(z @ self.colour + self.mean, self.log_abs_det.expand(len(z)))
