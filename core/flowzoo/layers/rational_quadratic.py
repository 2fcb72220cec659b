"""Monotone rational-quadratic splines, column by column."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from flowzoo.validation import check_positive


@dataclass(frozen=True)
class SplineShape:
    """What the splines of a layer have in common.

    Attributes:
        num_bins: K, at least 2.
        tail_bound: B; the spline acts on [-B, B] and is the identity outside.
        min_bin_size: smallest bin width and height, as a share of the box's side 2 B.
        min_derivative: smallest derivative at a knot.

    Raises:
        ValueError: a value out of range.

    Example:
        >>> SplineShape(num_bins=8).outputs
        23
    """

    num_bins: int = 8
    tail_bound: float = 5.0
    min_bin_size: float = 1e-3
    min_derivative: float = 1e-3

    def __post_init__(self) -> None:
        if check_positive("num_bins", self.num_bins) < 2:
            raise ValueError(f"num_bins: expected >= 2, got {self.num_bins}")
        if not 0 < self.tail_bound < math.inf:
            raise ValueError(f"tail_bound: expected a finite number > 0, got {self.tail_bound}")
        if not 0 < self.min_bin_size * self.num_bins < 1:
            raise ValueError(
                f"min_bin_size: expected in (0, 1 / {self.num_bins}), got {self.min_bin_size}"
            )
        if not 0 < self.min_derivative < 1:
            raise ValueError(f"min_derivative: expected in (0, 1), got {self.min_derivative}")

    @property
    def outputs(self) -> int:
        """Unconstrained parameters of one spline, 3 K - 1."""
        return 3 * self.num_bins - 1


class Knots(NamedTuple):
    """Splines on [-B, B]; bins come first, so that every operation runs along long rows.

    ``widths`` and ``heights`` (K, N, D) are positive and sum to 2 B over the bins; ``derivatives``
    (K - 1, N, D) are those at the inner knots. At -B and B the derivative is 1, that of the tails.
    """

    widths: Tensor
    heights: Tensor
    derivatives: Tensor


def build_knots(raw: Tensor, shape: SplineShape) -> Knots:
    r"""Unconstrained parameters to knots, Durkan et al. (2019), section 3.1; zeros: the identity.

    .. math:: w = 2B\,(m + (1 - Km)\,\mathrm{softmax}(\theta^w)), \qquad
        \delta = m' + (1 - m')\,\mathrm{softplus}(\theta^\delta) / \log 2

    with m = ``min_bin_size`` and m' = ``min_derivative``; heights as widths.

    Args:
        raw: (N, (3 K - 1) D): 3 K - 1 blocks of D columns; widths, heights, derivatives.
        shape: bins, box and minimums.

    Example:
        >>> import torch
        >>> build_knots(torch.zeros(1, 11), SplineShape(num_bins=4, tail_bound=2.0)).widths[:, 0, 0]
        tensor([1., 1., 1., 1.])
    """
    bins, columns = shape.num_bins, raw.shape[1] // shape.outputs
    # one copy here is cheaper than strided rows in all that follows
    blocks = raw.reshape(len(raw), shape.outputs, columns).movedim(1, 0).contiguous()
    sizes, slopes = torch.split(blocks, [2 * bins, bins - 1])
    side = 2.0 * shape.tail_bound
    free = 1.0 - bins * shape.min_bin_size
    sizes = sizes.reshape(2, bins, len(raw), columns).softmax(dim=1) * (side * free)
    widths, heights = (sizes + side * shape.min_bin_size).unbind(0)
    scale = (1.0 - shape.min_derivative) / math.log(2.0)
    return Knots(widths, heights, F.softplus(slopes) * scale + shape.min_derivative)


def apply_spline(
    value: Tensor, knots: Knots, tail_bound: float, *, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    r"""The spline or its inverse at ``value``, Durkan et al. (2019), eq. 4-8.

    In the bin of x, with :math:`\xi` its relative position, h the height, s the bin's slope and
    :math:`\delta_0, \delta_1` the derivatives at its ends,

    .. math:: z = y_0 + h\,\frac{s\xi^2 + \delta_0\xi(1-\xi)}{s + (\delta_0 + \delta_1 - 2s)
        \xi(1-\xi)}, \quad \frac{dz}{dx} = \frac{s^2(\delta_1\xi^2 + 2s\xi(1-\xi)
        + \delta_0(1-\xi)^2)}{(s + (\delta_0 + \delta_1 - 2s)\xi(1-\xi))^2}

    Outside [-B, B] it is the identity. Values are clipped to the box before the maths, so that
    gradients are finite everywhere.

    Args:
        value: x, or z for the inverse, (N, D).
        knots: one spline per entry of ``value``.
        tail_bound: B.
        inverse: from z to x.

    Returns:
        The mapped value (N, D) and log(dz/dx) (N, D) in either direction, nats.

    Example:
        >>> import torch
        >>> knots = build_knots(torch.randn(5, 23 * 2), SplineShape())
        >>> z, _ = apply_spline(x := torch.randn(5, 2), knots, 5.0)
        >>> torch.allclose(apply_spline(z, knots, 5.0, inverse=True)[0], x, atol=1e-4)
        True
    """
    widths, heights, derivatives = knots
    right, top = widths.cumsum(0), heights.cumsum(0)
    clipped = value.clamp(-tail_bound, tail_bound)
    with torch.no_grad():
        k = (clipped + tail_bound >= (top if inverse else right)[:-1]).sum(0)
    w, h, right, top = (_pick(table, k) for table in (widths, heights, right, top))
    left, bottom = right - w - tail_bound, top - h - tail_bound
    s = h / w
    inner = len(derivatives)
    one = torch.ones_like(s)
    # outer knots have the tails' derivative
    d0 = torch.where(k > 0, _pick(derivatives, (k - 1).clamp(min=0)), one)
    d1 = torch.where(k < inner, _pick(derivatives, k.clamp(max=inner - 1)), one)
    bend = d0 + d1 - 2.0 * s
    if inverse:
        xi = _relative_position(_unit((clipped - bottom) / h), s, d0, bend)
    else:
        xi = _unit((clipped - left) / w)
    rest = 1.0 - xi
    both = xi * rest
    slope = s / (s + bend * both)  # eq. 4 and 5 share s over the denominator
    if inverse:
        moved = left + w * xi
    else:
        moved = bottom + w * slope * (s * xi.square() + d0 * both)  # eq. 4
    log_slope = (
        slope.square() * (d1 * xi.square() + 2.0 * s * both + d0 * rest.square())
    ).log()  # eq. 5
    inside = (value >= -tail_bound) & (value <= tail_bound)
    return torch.where(inside, moved, value), torch.where(inside, log_slope, 0.0)


def _pick(table: Tensor, k: Tensor) -> Tensor:
    """Row k of ``table`` (K, N, D), entry by entry: (N, D)."""
    return table.gather(0, k[None])[0]


def _unit(xi: Tensor) -> Tensor:
    """``xi`` without the rounding that takes it out of [0, 1], its gradient kept."""
    return xi - (xi - xi.clamp(0.0, 1.0)).detach()


def _relative_position(eta: Tensor, s: Tensor, d0: Tensor, bend: Tensor) -> Tensor:
    """xi in [0, 1] whose height in the bin is ``eta`` in [0, 1] of it, eq. 6-8 divided by h.

    Of the two forms of the root each is taken where it subtracts no near numbers, and rounding
    cannot make the discriminant negative (nor its root's gradient infinite).
    """
    a = s - d0 + eta * bend
    b = d0 - eta * bend
    discriminant = b.square() + 4.0 * a * s * eta
    root = discriminant.clamp(min=torch.finfo(eta.dtype).tiny).sqrt()
    rising = b >= 0
    low = 2.0 * s * eta / (b.clamp(min=0.0) + root)
    high = (root - b) / torch.where(rising, torch.ones_like(a), 2.0 * a)
    return _unit(torch.where(rising, low, high))
