"""A sheet bent to an S in R^3, with its true density."""

from __future__ import annotations

from functools import cached_property
from math import log, pi

import torch
from numpy.random import Generator
from torch import Tensor

from flowzoo.validation import check_finite, check_rows
from flowzoo_bench.tasks.blurred_interval import blurred_interval
from flowzoo_bench.tasks.curve_density import CurveDensity
from flowzoo_bench.tasks.curves import Curve
from flowzoo_bench.tasks.embedded import EmbeddedTask

_HALF = 1.5 * pi  # arc length of either half of the S
WIDTH = 2.0
LOG_AREA = log(2 * _HALF * WIDTH)


class SCurve(EmbeddedTask):
    r"""(sin t, w, sign(t) (cos t - 1)), t uniform on [-3 pi / 2, 3 pi / 2], w uniform on [0, 2].

    The set of scikit-learn's ``make_s_curve``, which Zhang et al. (2023), figure 4, learn. t is arc
    length, so rows are uniform on the sheet, with density 1 / 6 pi against its area. With noise the
    density on R^3 is that of w, in closed form, times that of the blurred S, by quadrature.

    Args:
        noise: standard deviation of the added N(0, noise² I); 0 for none.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer, or the noise is negative or not finite.

    Example:
        >>> SCurve().log_prob(torch.zeros(1, 3)).exp()  # 1 / 6 pi
        tensor([0.0531], dtype=torch.float64)
    """

    dimension = 2

    def __init__(
        self,
        *,
        noise: float = 0.0,
        num_train: int = 10000,
        num_valid: int = 2500,
        num_test: int = 2500,
    ) -> None:
        super().__init__(
            3, noise=noise, num_train=num_train, num_valid=num_valid, num_test=num_test
        )

    @cached_property
    def _blurred(self) -> BlurredSheet:
        return BlurredSheet(self.noise)

    def place(self, z: Tensor) -> Tensor:
        """The point of the sheet with z = (t, w): (N, 3) float64 for (N, 2).

        Raises:
            ValueError: z has the wrong shape or is not finite.
        """
        return sheet(check_finite("z", check_rows("z", z, 2)).to(torch.float64))

    def _support(self, num: int, rng: Generator) -> Tensor:
        return sheet(draw_coordinates(num, rng))

    def _surface_log_prob(self, x: Tensor) -> Tensor:
        return torch.full_like(x[:, 0], -LOG_AREA)

    def _blurred_log_prob(self, x: Tensor) -> Tensor:
        return self._blurred.log_prob(x)

    def _distance(self, x: Tensor) -> Tensor:
        return sheet_distance(x)


def draw_coordinates(num: int, rng: Generator) -> Tensor:
    """(t, w) of ``num`` points that are uniform on the sheet, (num, 2) float64."""
    unit = torch.as_tensor(rng.random((num, 2)))
    return torch.stack([(2 * unit[:, 0] - 1) * _HALF, WIDTH * unit[:, 1]], dim=1)


def sheet(coordinates: Tensor) -> Tensor:
    """The points of the sheet with coordinates (t, w), (N, 3) for (N, 2)."""
    t, w = coordinates.unbind(dim=1)
    return torch.stack([t.sin(), w, t.sign() * (t.cos() - 1)], dim=1)


def sheet_distance(x: Tensor) -> Tensor:
    """Distance of x (N, 3) to the sheet, (N,), in closed form."""
    across = torch.minimum(_arc_distance(x[:, 0], x[:, 2]), _arc_distance(-x[:, 0], -x[:, 2]))
    beyond = x[:, 1] - x[:, 1].clamp(0, WIDTH)
    return torch.hypot(across, beyond)


def _arc_distance(u: Tensor, v: Tensor) -> Tensor:
    """Distance of (u, v) to the half of the S with t >= 0: three quarters of a unit circle."""
    angle = torch.atan2(u, v + 1) % (2 * pi)  # t of the circle's nearest point, centre (0, -1)
    ends = torch.minimum(torch.hypot(u, v), torch.hypot(u + 1, v + 1))
    return torch.where(angle <= _HALF, (torch.hypot(u, v + 1) - 1).abs(), ends)


class BlurredSheet:
    """log p of ``sheet + sigma * N(0, I)``, the sheet covered uniformly.

    Args:
        sigma: standard deviation of the noise, positive.
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma
        # one half alone is smooth: the curvature of the S jumps where they meet
        self._half = CurveDensity(Curve(_arc, _arc_velocity, 0.0, _HALF), sigma)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (N,), of x (N, 3) float64."""
        section = x[:, [0, 2]]
        halves = [self._half.log_prob(section), self._half.log_prob(-section)]
        across = torch.logaddexp(*halves) - log(2)
        return across + blurred_interval(x[:, 1], WIDTH, self.sigma)


def _arc(t: Tensor) -> Tensor:
    return torch.stack([t.sin(), t.cos() - 1], dim=-1)


def _arc_velocity(t: Tensor) -> Tensor:
    return torch.stack([t.cos(), -t.sin()], dim=-1)
