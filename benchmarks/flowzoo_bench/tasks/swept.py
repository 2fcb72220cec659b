"""A square swept along a curve: the distance to it, and its density under Gaussian noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

from flowzoo_bench.tasks.blurred_interval import blurred_interval
from flowzoo_bench.tasks.curve_density import CurveDensity
from flowzoo_bench.tasks.curves import Curve


@dataclass(frozen=True)
class SweptCurve(Curve):
    """The squares, along the axes, around the points of a curve; distances are to them.

    Attributes:
        position: centre of the square at theta, as of any :class:`Curve`.
        velocity: its derivative.
        start: smallest theta.
        stop: largest theta.
        half: half the side of the square.

    Example:
        >>> line = lambda t: torch.stack([t, 0 * t], dim=-1)
        >>> speed = lambda t: torch.stack([t.new_ones(t.shape), 0 * t], dim=-1)
        >>> SweptCurve(line, speed, 0.0, 1.0, half=0.5).distance(torch.tensor([[0.3, 2.0]]))
        tensor([1.5000])
    """

    half: float = 0.0

    def _gap(self, x: Tensor, position: Tensor) -> Tensor:
        difference = x - position
        return difference - difference.clamp(-self.half, self.half)

    def _distances(self, x: Tensor, grid: Tensor) -> Tensor:
        distances: Tensor = torch.linalg.vector_norm(self._gap(x[:, None], grid), dim=-1)
        return distances


class SweptDensity(CurveDensity):
    r"""log p of c(t) + u + sigma * noise, u uniform on the square around 0, t of any density w.

    .. math:: p(x) = \int_a^b w(t) \prod_j B(x_j - c_j(t)) \, dt

    with B the density of the uniform variable under noise, :func:`blurred_interval`. It is as
    smooth as the noise's, so :class:`CurveDensity`'s rule holds.

    Args:
        curve: with the square, in the plane.
        sigma: standard deviation of the noise, positive.
        log_weight: log of (b - a) w(t), elementwise.
    """

    def __init__(
        self, curve: SweptCurve, sigma: float, log_weight: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(curve, sigma)
        self._half, self._log_weight = curve.half, log_weight
        self._overhang = 2**0.5 * curve.half

    def _exponent(self, x: Tensor, theta: Tensor) -> Tensor:
        into = x - self.curve.position(theta) + self._half
        columns = blurred_interval(into, 2 * self._half, self.sigma).sum(dim=-1)
        # the constant of the noise, which is added to every exponent
        return columns + self._log_weight(theta) + log(2 * pi * self.sigma**2)
