"""Curves in the plane over a standard normal coordinate, with their true density."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from math import log, pi

import torch
from numpy.random import Generator
from torch import Tensor

from flowzoo.validation import check_finite, check_number, check_rows
from flowzoo_bench.tasks.curve_density import CurveDensity
from flowzoo_bench.tasks.curves import Curve
from flowzoo_bench.tasks.embedded import EmbeddedTask

_TAIL = 12.0  # standard deviations
_NEGLECT = 60.0  # nats: what is left out is below exp(-60) of the rest


class GraphTask(EmbeddedTask):
    """(x1, f(x1)) with x1 ~ N(0, 1); subclasses say which f.

    Args:
        noise: standard deviation of the added N(0, noise² I); 0 for none.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer, or the noise is negative or not finite.
    """

    dimension = 1

    def __init__(
        self,
        *,
        noise: float = 0.0,
        num_train: int = 10000,
        num_valid: int = 2500,
        num_test: int = 2500,
    ) -> None:
        super().__init__(
            2, noise=noise, num_train=num_train, num_valid=num_valid, num_test=num_test
        )

    def place(self, z: Tensor) -> Tensor:
        """The point of the curve over x1 = z: (N, 2) float64 for (N, 1).

        Raises:
            ValueError: z has the wrong shape or is not finite.
        """
        z = check_finite("z", check_rows("z", z, 1)).to(torch.float64)
        return torch.cat([z, self._height(z)], dim=1)

    def _support(self, num: int, rng: Generator) -> Tensor:
        return self.place(torch.as_tensor(rng.standard_normal((num, 1))))

    @abstractmethod
    def _height(self, x1: Tensor) -> Tensor:
        """x2 over x1, (N, 1) both."""


class Line(GraphTask):
    r"""x2 = x1: a Gaussian on the diagonal, Zhang et al. (2023), appendix C.2.

    Along the diagonal, u = (x1 + x2) / sqrt 2 ~ N(0, 2), and across it there is the noise alone:

    .. math:: \log p = \log N(u; 0, 2) \quad \text{or} \quad
              \log N(u; 0, 2 + \sigma^2) + \log N(v; 0, \sigma^2), \; v = (x_2 - x_1) / \sqrt 2

    Args:
        noise: sigma, the standard deviation of the added noise; 0 for none.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer, or the noise is negative or not finite.

    Example:
        >>> Line().log_prob(torch.zeros(1, 2)).exp()  # 1 / sqrt(4 pi)
        tensor([0.2821], dtype=torch.float64)
    """

    def _height(self, x1: Tensor) -> Tensor:
        return x1

    def _surface_log_prob(self, x: Tensor) -> Tensor:
        return _log_normal(x.sum(dim=1) / 2**0.5, 2.0)

    def _blurred_log_prob(self, x: Tensor) -> Tensor:
        along, across = x.sum(dim=1) / 2**0.5, (x[:, 1] - x[:, 0]) / 2**0.5
        return _log_normal(along, 2.0 + self.noise**2) + _log_normal(across, self.noise**2)

    def _distance(self, x: Tensor) -> Tensor:
        return (x[:, 1] - x[:, 0]).abs() / 2**0.5


class Sine(GraphTask):
    r"""x2 = sin(omega x1): the curve of Zhang et al. (2023), figure 1.

    Their section 2 has omega = 2, as here by default; their appendix plots sin(x1). Without noise
    the density is one against arc length,

    .. math:: p(x) = N(x_1; 0, 1) / \sqrt{1 + \omega^2 \cos^2 \omega x_1}

    and with noise sigma, t ~ N(0, 1) given x1 being N(m, s²) with m = x1 / (1 + sigma²) and
    s² = sigma² / (1 + sigma²),

    .. math:: p(x) = N(x_1; 0, 1 + \sigma^2)\, E[N(x_2; \sin \omega t, \sigma^2)]

    by quadrature.

    Args:
        frequency: omega, in radians.
        noise: sigma, the standard deviation of the added noise; 0 for none.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer, the noise is negative or not finite, or the
            frequency not positive.

    Example:
        >>> Sine().log_prob(torch.zeros(1, 2)).exp()  # 1 / sqrt(2 pi) / sqrt 5
        tensor([0.1784], dtype=torch.float64)
    """

    def __init__(
        self,
        *,
        frequency: float = 2.0,
        noise: float = 0.0,
        num_train: int = 10000,
        num_valid: int = 2500,
        num_test: int = 2500,
    ) -> None:
        super().__init__(noise=noise, num_train=num_train, num_valid=num_valid, num_test=num_test)
        self.frequency = check_number("frequency", frequency, strict=True)
        # what is nearest to x, or matters to its density, is within one period of x: whole periods
        # are taken off x1 first, and two periods of the curve are enough
        self._curve = _wave(self.frequency, 1.0, 1.0, 2 * pi)
        self._spread = self.noise / (1 + self.noise**2) ** 0.5

    @cached_property
    def _density(self) -> CurveDensity:
        """Of unit noise around (t / s, sin(omega t) / sigma)."""
        phase = self.frequency * self._spread
        reach = 2 * pi + min(_TAIL * phase, _NEGLECT / (2 * pi) * phase**2)
        return CurveDensity(_wave(self.frequency, self._spread, self.noise, reach), 1.0)

    def _height(self, x1: Tensor) -> Tensor:
        return (self.frequency * x1).sin()

    def _surface_log_prob(self, x: Tensor) -> Tensor:
        near, periods = self._into_one_period(x[:, 0])
        angle = self._curve.nearest(torch.stack([near, x[:, 1]], dim=1))[0]
        slope = self.frequency * angle.cos()
        return _log_normal(angle / self.frequency + periods, 1.0) - slope.square().log1p() / 2

    def _blurred_log_prob(self, x: Tensor) -> Tensor:
        near, _ = self._into_one_period(x[:, 0] / (1 + self.noise**2))
        scaled = torch.stack([near / self._spread, x[:, 1] / self.noise], dim=1)
        constant = log(2 * self._density.curve.stop / (self.frequency * self._spread * self.noise))
        given = self._density.log_prob(scaled) + constant
        return _log_normal(x[:, 0], 1 + self.noise**2) + given

    def _distance(self, x: Tensor) -> Tensor:
        near, _ = self._into_one_period(x[:, 0])
        return self._curve.distance(torch.stack([near, x[:, 1]], dim=1))

    def _into_one_period(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        """x1 less the whole periods in it, at most half a period from 0; and those periods."""
        period = 2 * pi / self.frequency
        periods = (x1 / period).round() * period
        return x1 - periods, periods


def _wave(frequency: float, run: float, rise: float, reach: float) -> Curve:
    """(angle / (frequency run), sin angle / rise) for |angle| <= reach."""
    rate = 1 / (frequency * run)

    def position(angle: Tensor) -> Tensor:
        return torch.stack([rate * angle, angle.sin() / rise], dim=-1)

    def velocity(angle: Tensor) -> Tensor:
        return torch.stack([torch.full_like(angle, rate), angle.cos() / rise], dim=-1)

    return Curve(position, velocity, -reach, reach)


def _log_normal(x: Tensor, variance: float) -> Tensor:
    """Of N(0, variance), elementwise."""
    return -0.5 * (x.square() / variance + log(2 * pi * variance))
