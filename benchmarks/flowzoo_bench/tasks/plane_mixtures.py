"""Points and circles in the plane under Gaussian noise, with their true density."""

from __future__ import annotations

from math import log, pi

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from flowzoo_bench.tasks.plane import PlaneTask, on_circle

_SCALE = 1.414  # what the known code divides by; not sqrt 2
_CENTRES = 4 * on_circle(np.arange(8) * pi / 4) / _SCALE
_RADII = (3.0, 2.25, 1.5, 0.75)


class EightGaussians(PlaneTask):
    r"""Equal Gaussians around eight points m_k of a circle.

    .. math:: p(x) = \frac{1}{8} \sum_k N(x; m_k, \sigma^2 I), \quad
              |m_k| = 4 / 1.414, \; \sigma = 0.5 / 1.414

    at angles 0, 45, ... degrees; part k is the k-th. The toy set of the code of Grathwohl et al.
    (2019), which divides by 1.414 and not by the root of 2; so do Cornish et al. (2020). The
    support is the eight points, so ``distance`` is to the nearest. Their neighbours are only six
    sigma apart, so the rows are no points with a little noise: ``dimension`` is None.

    Args:
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer.

    Example:
        >>> EightGaussians().distance(torch.zeros(1, 2))
        tensor([2.8289], dtype=torch.float64)
    """

    parts = len(_CENTRES)

    def __init__(
        self, *, num_train: int = 10_000, num_valid: int = 1_000, num_test: int = 5_000
    ) -> None:
        super().__init__(
            noise=0.5 / _SCALE, num_train=num_train, num_valid=num_valid, num_test=num_test
        )

    def _draw_of(self, part: np.ndarray, rng: Generator) -> np.ndarray:
        rows: np.ndarray = _CENTRES[part]
        return rows + self.noise * rng.standard_normal(rows.shape)

    def _log_prob(self, x: Tensor) -> Tensor:
        exponent = self._apart(x).square() / (-2 * self.noise**2)
        return torch.logsumexp(exponent, dim=1) - log(self.parts * 2 * pi * self.noise**2)

    def _distance(self, x: Tensor) -> Tensor:
        return self._apart(x).amin(dim=1)

    def _apart(self, x: Tensor) -> Tensor:
        """Distance to each centre, (N, 8)."""
        centres = torch.as_tensor(_CENTRES, dtype=x.dtype, device=x.device)
        distances: Tensor = torch.linalg.vector_norm(x[:, None] - centres, dim=-1)
        return distances


class Rings(PlaneTask):
    r"""Four circles around the origin of radius r = 3, 2.25, 1.5 and 0.75 under noise sigma = 0.08.

    .. math:: p(x) = \frac{1}{4} \sum_r \frac{1}{2 \pi \sigma^2}
              e^{-(|x| - r)^2 / 2 \sigma^2}\, e^{-\kappa} I_0(\kappa), \quad
              \kappa = |x| r / \sigma^2

    Parts are in this order. The toy set of the codes of Grathwohl et al. (2019) and Cornish et al.
    (2020), which put the angles on a grid; here they are drawn. Between two circles no point is
    farther than 0.375 = 4.7 sigma from the support, below the 5 of ``bridge_mass``.

    Args:
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer.

    Example:
        >>> Rings().distance(torch.tensor([[0.0, 0.0], [0.0, 2.5]]))
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """

    dimension = 1
    parts = len(_RADII)

    def __init__(
        self, *, num_train: int = 10_000, num_valid: int = 1_000, num_test: int = 5_000
    ) -> None:
        super().__init__(noise=0.08, num_train=num_train, num_valid=num_valid, num_test=num_test)

    def _draw_of(self, part: np.ndarray, rng: Generator) -> np.ndarray:
        circle = on_circle(rng.uniform(0, 2 * pi, len(part)))
        rows: np.ndarray = np.array(_RADII)[part, None] * circle
        return rows + self.noise * rng.standard_normal(rows.shape)

    def _log_prob(self, x: Tensor) -> Tensor:
        length, radii = self._lengths(x)
        shell = ((length - radii) / self.noise).square() / -2
        average = torch.special.i0e(length * radii / self.noise**2).log()
        return torch.logsumexp(shell + average, dim=1) - log(self.parts * 2 * pi * self.noise**2)

    def _distance(self, x: Tensor) -> Tensor:
        length, radii = self._lengths(x)
        return (length - radii).abs().amin(dim=1)

    @staticmethod
    def _lengths(x: Tensor) -> tuple[Tensor, Tensor]:
        """Of x, (N, 1), and the radii, (4,)."""
        length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return length, torch.tensor(_RADII, dtype=x.dtype, device=x.device)
