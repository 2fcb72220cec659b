"""The uniform law on a sphere of any dimension in any number of columns, with its true density."""

from __future__ import annotations

from math import lgamma, log, pi

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from flowzoo.validation import check_number, check_positive
from flowzoo_bench.tasks.checks import check_seed
from flowzoo_bench.tasks.embedded import EmbeddedTask
from flowzoo_bench.tasks.sphere_average import log_sphere_average
from flowzoo_bench.tasks.synthetic import Expectation

_NODES = 400  # of the radial integral
_TAIL = 12.0  # standard deviations of the noise it reaches to


class Sphere(EmbeddedTask):
    r"""x = r Q u + sigma epsilon, u uniform on the unit sphere of dimension d in R^{d+1}.

    Q has d + 1 orthonormal columns in R^D, drawn from ``manifold_seed`` and the same for every
    replicate. Without noise the truth is a density against surface area, constant and scored at
    the nearest point:

    .. math:: p(x) = \Gamma(n/2) / (2 \pi^{n/2} r^d), \qquad n = d + 1

    With noise it is one on R^D, where rho is the length of Q'x:

    .. math:: p(x) = (2\pi\sigma^2)^{-D/2}\, e^{-\mathrm{distance}(x)^2 / 2\sigma^2}\,
              E_u[e^{\kappa (u_1 - 1)}], \qquad \kappa = r \rho / \sigma^2

    Args:
        dimension: d.
        features: D, at least d + 1.
        radius: r.
        noise: sigma; 0 for none.
        manifold_seed: of Q.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: an option out of range, or d + 1 above D.

    Example:
        >>> task = Sphere(dimension=2, features=8)
        >>> task.log_prob(task.splits(0).test[:2]).exp() * 4 * pi
        tensor([1.0000, 1.0000], dtype=torch.float64)
    """

    def __init__(
        self,
        *,
        dimension: int = 2,
        features: int = 16,
        radius: float = 1.0,
        noise: float = 0.0,
        manifold_seed: int = 0,
        num_train: int = 10_000,
        num_valid: int = 2_500,
        num_test: int = 2_500,
    ) -> None:
        self.dimension: int = check_positive("dimension", dimension)
        super().__init__(
            features, noise=noise, num_train=num_train, num_valid=num_valid, num_test=num_test
        )
        if dimension >= features:
            raise ValueError(f"dimension: expected below features={features}, got {dimension}")
        self.radius = check_number("radius", radius, strict=True)
        rng = np.random.default_rng(check_seed(manifold_seed))
        frame = np.linalg.qr(rng.standard_normal((features, dimension + 1)))[0]
        self.frame = torch.as_tensor(frame)

    def expected_log_prob(self) -> Expectation:
        """E[log p(x)] under the set's own density, by quadrature over rho: its error is 0."""
        if not self.noise:
            return Expectation(-self._log_area(), 0.0)
        n = self.dimension + 1
        typical = (self.radius**2 + self.dimension * self.noise**2) ** 0.5
        low = max(0.0, typical - _TAIL * self.noise)
        high = typical + _TAIL * self.noise
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        length = torch.as_tensor(low + (high - low) * (nodes + 1) / 2)
        log_prob = self._radial_log_prob(length)
        shell = log(2) + n / 2 * log(pi) - lgamma(n / 2) + self.dimension * length.log()
        mass = torch.as_tensor(weights) * (high - low) / 2 * (shell + log_prob).exp()
        # noise off the subspace is independent, a Gaussian of D - n columns
        beside = -(self.features - n) / 2 * (log(2 * pi * self.noise**2) + 1)
        return Expectation(float((mass * log_prob).sum()) + beside, 0.0)

    def _support(self, num: int, rng: Generator) -> Tensor:
        direction = torch.as_tensor(rng.standard_normal((num, self.dimension + 1)))
        return self.radius * torch.nn.functional.normalize(direction, dim=1) @ self.frame.T

    def _surface_log_prob(self, x: Tensor) -> Tensor:
        return torch.full_like(x[:, 0], -self._log_area())

    def _blurred_log_prob(self, x: Tensor) -> Tensor:
        length, beside = self._lengths(x)
        across = self.features - self.dimension - 1
        off = -(beside / self.noise).square() / 2 - across * log(self.noise * (2 * pi) ** 0.5)
        return self._radial_log_prob(length) + off

    def _distance(self, x: Tensor) -> Tensor:
        length, beside = self._lengths(x)
        return torch.hypot(length - self.radius, beside)

    def _lengths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of x in the sphere's subspace and off it, (N,) each."""
        within = x @ self.frame
        beside = x - within @ self.frame.T
        return torch.linalg.vector_norm(within, dim=1), torch.linalg.vector_norm(beside, dim=1)

    def _log_area(self) -> float:
        n = self.dimension + 1
        return log(2) + n / 2 * log(pi) - lgamma(n / 2) + self.dimension * log(self.radius)

    def _radial_log_prob(self, length: Tensor) -> Tensor:
        """log-density on R^{d+1}, at points of this length, (N,)."""
        n = self.dimension + 1
        kappa = (self.radius / self.noise) * (length / self.noise)
        shell = -((length - self.radius) / self.noise).square() / 2
        return shell + log_sphere_average(kappa, n) - n * log(self.noise * (2 * pi) ** 0.5)
