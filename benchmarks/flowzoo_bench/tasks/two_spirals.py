"""Two spirals in the plane, with their true density."""

from __future__ import annotations

from functools import cached_property
from math import log, pi

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from flowzoo_bench.tasks.plane import PlaneTask
from flowzoo_bench.tasks.swept import SweptCurve, SweptDensity

_STOP = 3 * pi  # 540 degrees
_HALF = 0.25 / 3  # of the side of the jitter's square


class TwoSpirals(PlaneTask):
    r"""A spiral of one and a half turns and its mirror image, with jitter and noise.

    .. math:: x = \pm \tfrac{1}{3} (-t \cos t + u,\ t \sin t + v) + 0.1\, \epsilon, \quad
              t = 3 \pi \sqrt{w}

    u and v uniform on [0, 1/2], w on [0, 1], both signs equally likely; part 0 has the plus. With
    B the density of u / 3 + 0.1 N(0, 1), in closed form, that of the part with the plus is

    .. math:: \int_0^{3 \pi} \frac{2 t}{(3 \pi)^2}\, B(x_1 + \tfrac{1}{3} t \cos t)\,
              B(x_2 - \tfrac{1}{3} t \sin t)\, dt

    by quadrature, to about 1e-9, and the other's is the same at -x. The toy set of the codes of
    Grathwohl et al. (2019) and Cornish et al. (2020), which make the second spiral of the t, u and
    v of the first; here all rows are independent. The support is what the jitter's square covers:
    ``distance`` is to that, 0 inside, and ``noise_scale`` is 0.1 alone. It is a band about as wide
    as the noise, of two dimensions near by and one from afar: ``dimension`` is None.

    Args:
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer.

    Example:
        >>> TwoSpirals().distance(torch.tensor([[4.0, 0.1], [-4.0, -0.1]]))
        tensor([0.6917, 0.6917], dtype=torch.float64)
    """

    parts = 2

    def __init__(
        self, *, num_train: int = 10_000, num_valid: int = 1_000, num_test: int = 5_000
    ) -> None:
        super().__init__(noise=0.1, num_train=num_train, num_valid=num_valid, num_test=num_test)
        self.curve = SweptCurve(_centre, _velocity, 0.0, _STOP, _HALF)

    @cached_property
    def _density(self) -> SweptDensity:
        return SweptDensity(self.curve, self.noise, lambda t: (2 * t / _STOP).log())

    def _draw_of(self, part: np.ndarray, rng: Generator) -> np.ndarray:
        t = torch.as_tensor(_STOP * np.sqrt(rng.random(len(part))))
        jitter = rng.uniform(-_HALF, _HALF, (len(part), 2))
        rows: np.ndarray = (1 - 2 * part[:, None]) * (_centre(t).numpy() + jitter)
        return rows + self.noise * rng.standard_normal(rows.shape)

    def _log_prob(self, x: Tensor) -> Tensor:
        return torch.logaddexp(self._density.log_prob(x), self._density.log_prob(-x)) - log(2)

    def _distance(self, x: Tensor) -> Tensor:
        return torch.minimum(self.curve.distance(x), self.curve.distance(-x))


def _centre(t: Tensor) -> Tensor:
    """Of the jitter's square at t."""
    return torch.stack([-t * t.cos(), t * t.sin()], dim=-1) / 3 + _HALF


def _velocity(t: Tensor) -> Tensor:
    return torch.stack([t * t.sin() - t.cos(), t.sin() + t * t.cos()], dim=-1) / 3
