"""Three Gaussians projected onto the unit sphere, with their true density."""

from __future__ import annotations

from math import log, pi

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from flowzoo.interfaces.measure import EXACT, Evaluation, Measure
from flowzoo_bench.tasks.synthetic import SyntheticTask

_MEANS = ((-0.15, -0.77, 0.94), (0.79, -0.75, -0.02), (0.04, 0.40, 1.31))
_SPREAD = 0.2  # standard deviation of each Gaussian before projection
_NODES = 160  # of the radial integral
_TAIL = 12.0  # integrate to this many spreads beyond the mean's radius
_ROWS = 4096


class Spherical(SyntheticTask):
    """x = y / |y|, y from an equal mixture of three N(mean, 0.2² I).

    Without noise (the paper's set) x lies on the sphere and has **no** density on R^3: the test
    log-likelihood of a 3-D model is unbounded, and the truth is one against surface area. With
    noise it has an ordinary density.

    Args:
        bootstrap: see :class:`SyntheticTask`; a leak, off by default.
        noise: standard deviation of added noise; 0 for none.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer, or the noise is negative.
    """

    dimension = 2

    def __init__(
        self,
        *,
        bootstrap: bool = False,
        noise: float = 0.0,
        num_train: int = 5000,
        num_valid: int = 2500,
        num_test: int = 2500,
    ) -> None:
        super().__init__(
            bootstrap=bootstrap,
            noise=noise,
            num_train=num_train,
            num_valid=num_valid,
            num_test=num_test,
        )
        self.oracle = Evaluation() if self.noise else Evaluation(EXACT, Measure("surface", dim=2))

    def _draw(self, num: int, rng: Generator) -> np.ndarray:
        x = self._directions(num, rng)
        return x + self.noise * rng.standard_normal((num, 3)) if self.noise else x

    def _directions(self, num: int, rng: Generator) -> np.ndarray:
        y = np.array(_MEANS)[rng.integers(len(_MEANS), size=num)]
        y = y + _SPREAD * rng.standard_normal((num, 3))
        x: np.ndarray = y / np.linalg.norm(y, axis=1, keepdims=True)
        return x

    def _log_prob(self, x: Tensor) -> Tensor:
        if not self.noise:
            return self.surface_log_prob(x)
        parts = [self._noisy_log_prob(part) for part in torch.split(x, _ROWS)]
        return torch.cat(parts) if parts else x.new_empty(0)

    def _distance(self, x: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(x, dim=1)
        return (norm - 1).abs()

    def _entropy_terms(self, num: int, rng: Generator) -> Tensor:
        nodes, weight = self._sphere_rule()
        surface = self.surface_log_prob(nodes)
        exact = (weight * surface.exp() * surface).sum()
        if not self.noise:
            return exact.expand(num)
        direction = torch.as_tensor(self._directions(num, rng))
        noise = torch.as_tensor(self.noise * rng.standard_normal((num, 3)))
        # control variates of mean zero: the surface part, and the radial part of the noise
        control = exact - self.surface_log_prob(direction)
        radial = (noise * direction).sum(dim=1)
        control = control + radial.square() / (2 * self.noise**2) - 0.5
        return self._log_prob(direction + noise) + control

    @staticmethod
    def _sphere_rule() -> tuple[Tensor, Tensor]:
        """Product quadrature on the unit sphere: nodes (M, 3) and weights (M,), sum 4 pi."""
        height, weight = np.polynomial.legendre.leggauss(200)
        angle = 2 * pi * np.arange(400) / 400
        radius = np.sqrt(1 - height**2)[:, None]
        nodes = np.stack(
            np.broadcast_arrays(radius * np.cos(angle), radius * np.sin(angle), height[:, None]), -1
        )
        weights = np.repeat(weight * 2 * pi / 400, 400)
        return torch.as_tensor(nodes.reshape(-1, 3)), torch.as_tensor(weights)

    def surface_log_prob(self, x: Tensor) -> Tensor:
        """log-density against surface area of x / |x|, in nats, (N,); x (N, 3) float64, not 0.

        With alpha = mean / spread and t = alpha · x / |x|, each component is the projected normal

        .. math:: (2\\pi)^{-3/2} e^{-\\|\\alpha\\|^2/2}
                  [t + (1 + t^2) \\sqrt{2\\pi} e^{t^2/2} \\Phi(t)].
        """
        alpha = torch.tensor(_MEANS, dtype=x.dtype, device=x.device) / _SPREAD
        t = torch.nn.functional.normalize(x, dim=1) @ alpha.T
        # sqrt(2 pi) exp(t²/2) Phi(t) = sqrt(pi / 2) erfcx(-t / sqrt 2); |t| < 7, so no overflow
        mills = (pi / 2) ** 0.5 * torch.special.erfcx(-t / 2**0.5)
        parts = (t + (1 + t.square()) * mills).log() - alpha.square().sum(dim=1) / 2
        return torch.logsumexp(parts, dim=1) - log(len(_MEANS)) - 1.5 * log(2 * pi)

    def _noisy_log_prob(self, x: Tensor) -> Tensor:
        """log-density on R^3 with noise s, by an integral over r = |y| alone.

        The integral over the sphere of exp(w · direction) is 4 pi sinh|w| / |w|, so a component is

        .. math:: \\int_0^\\infty r^2 (2\\pi\\,\\mathrm{spread}\\,s)^{-3}
                  e^{-(r^2 + \\|\\mu\\|^2)/2\\mathrm{spread}^2 - (\\|x\\|^2 + 1)/2s^2}
                  4\\pi \\frac{\\sinh\\|w\\|}{\\|w\\|} dr,
                  \\quad w = r\\mu/\\mathrm{spread}^2 + x/s^2.
        """
        mean = torch.tensor(_MEANS, dtype=x.dtype, device=x.device)
        a, b = _SPREAD**2, self.noise**2
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        top = float(torch.linalg.vector_norm(mean, dim=1).max()) + _TAIL * _SPREAD
        r = torch.as_tensor((nodes + 1) / 2 * top, dtype=x.dtype, device=x.device)
        log_weight = torch.as_tensor(weights / 2 * top, dtype=x.dtype, device=x.device).log()

        norm = torch.linalg.vector_norm(x, dim=1)[:, None]
        parts = []
        for centre in mean:
            # |w| - |x| / s² is taken without cancellation: the two agree in their leading digits
            along = 2 * (x @ centre)[:, None] / (a * b) * r
            across = (centre.square().sum() / a**2) * r.square()
            w = ((norm / b).square() + along + across).clamp_min(0).sqrt()
            excess = (along + across) / (w + norm / b)
            log_sinhc = torch.where(w > 1e-6, torch.log1p(-torch.exp(-2 * w)) - (2 * w).log(), -w)
            exponent = excess - (r.square() + centre.square().sum()) / (2 * a)
            exponent = exponent + log_sinhc + 2 * r.log() + log_weight
            parts.append(torch.logsumexp(exponent, dim=1))
        constant = log(4 * pi) - 3 * log(2 * pi * _SPREAD * self.noise) - log(len(_MEANS))
        shell = -(norm[:, 0] - 1).square() / (2 * b)  # |x| / s² - (|x|² + 1) / 2 s²
        total: Tensor = torch.logsumexp(torch.stack(parts), dim=0) + shell + constant
        return total
