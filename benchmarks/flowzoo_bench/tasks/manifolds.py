"""Manifolds of any dimension in any number of columns, with their true density."""

from __future__ import annotations

from abc import abstractmethod
from math import log, pi

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from flowzoo.interfaces.measure import EXACT, Evaluation, Measure
from flowzoo.interfaces.task import Splits, Task
from flowzoo.validation import check_finite, check_positive, check_rows
from flowzoo_bench.tasks.checks import check_noise, check_seed
from flowzoo_bench.tasks.synthetic import Expectation
from flowzoo_bench.tasks.wave_distance import squared_distance_to_wave

_ROWS = 1024  # whose distances are found at a time


class ManifoldTask(Task):
    r"""Points near a manifold of dimension d that fills one chart, in R^D, in a rotated frame.

    .. math:: x = Q\,S(y), \qquad y = (\sigma_z \odot z, 0) + \sigma \varepsilon, \quad
              z \sim N(0, I_d), \quad \varepsilon \sim N(0, I_D)

    with Q orthogonal and S of Jacobian determinant 1, which subclasses choose. Then

    .. math:: \log p(x) = \log N(S^{-1}(Q^\top x);\ 0,\ \mathrm{diag}(\sigma_z^2 + \sigma^2,
              \sigma^2))

    exactly. Without noise and for d < D, the truth is a density against the manifold's surface

    .. math:: \log p(x) = \log N(u;\ 0,\ \mathrm{diag}(\sigma_z^2))
              - \tfrac12 \log\det J(u)^\top J(u), \qquad u = S^{-1}(Q^\top x)_{1..d}

    with J the Jacobian of u -> Q S(u, 0), at the point of the manifold whose coordinates x has.
    Q and S are drawn from ``manifold_seed`` and are the same for every replicate.

    Args:
        dimension: d.
        features: D.
        noise: sigma; 0 for none.
        manifold_seed: of Q and S.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: an option out of range, or d above D.
    """

    def __init__(
        self,
        *,
        dimension: int = 2,
        features: int = 16,
        noise: float = 0.05,
        manifold_seed: int = 0,
        num_train: int = 10000,
        num_valid: int = 2500,
        num_test: int = 2500,
    ) -> None:
        super().__init__(features)
        self.dimension: int = check_positive("dimension", dimension)
        if dimension > features:
            raise ValueError(f"dimension: expected at most features={features}, got {dimension}")
        self.noise = check_noise(noise)
        # a manifold that fills the space is that space, and noise takes no row away from it
        fills = dimension == features
        self.noise_scale = None if fills else self.noise or None
        surface = Evaluation(EXACT, Measure("surface", dim=dimension))
        self.oracle = Evaluation() if self.noise or fills else surface
        self.sizes = (
            check_positive("num_train", num_train),
            check_positive("num_valid", num_valid),
            check_positive("num_test", num_test),
        )
        rng = np.random.default_rng(check_seed(manifold_seed))
        self.rotation = torch.as_tensor(np.linalg.qr(rng.standard_normal((features, features)))[0])
        self.spread = self._spread()
        self._shape(rng)

    def splits(self, seed: int) -> Splits:
        """Draw all rows and cut them into train, validation and test."""
        rng = np.random.default_rng(check_seed(seed))
        total = sum(self.sizes)
        y = self.noise * torch.as_tensor(rng.standard_normal((total, self.features)))
        z = torch.as_tensor(rng.standard_normal((total, self.dimension)))
        y[:, : self.dimension] += self.spread * z
        return Splits(*torch.split(self._bend(y) @ self.rotation.T, list(self.sizes)))

    def log_prob(self, x: Tensor) -> Tensor:
        """True log-density of x (N, D) in nats, (N,) float64, against ``oracle.measure``.

        Raises:
            ValueError: x has the wrong shape or is not finite.
        """
        y = self._straighten(self._checked(x) @ self.rotation)
        variance = self._variance()
        y = y[:, : len(variance)]
        squares = (y.square() / variance).sum(dim=1)
        log_prob = -0.5 * (squares + variance.log().sum() + len(variance) * log(2 * pi))
        return log_prob if self.noise else log_prob - self._log_stretch(y)

    def expected_log_prob(self) -> Expectation:
        """E[log p(x)] under the set's own density, without Monte Carlo: its error is 0."""
        variance = self._variance()
        mean = -0.5 * float(variance.log().sum() + len(variance) * (log(2 * pi) + 1))
        return Expectation(mean if self.noise else mean - self._mean_log_stretch(), 0.0)

    def place(self, z: Tensor) -> Tensor:
        """The point of the manifold with coordinates z, in standard deviations: (N, D) for (N, d).

        Raises:
            ValueError: z has the wrong shape or is not finite.
        """
        z = check_finite("z", check_rows("z", z, self.dimension)).to(torch.float64)
        y = torch.zeros(len(z), self.features, dtype=torch.float64)
        y[:, : self.dimension] = self.spread * z
        return self._bend(y) @ self.rotation.T

    def _variance(self) -> Tensor:
        """Of the columns of y that vary: (D,), or (d,) without noise."""
        columns = self.features if self.noise else self.dimension
        variance = torch.full((columns,), self.noise**2, dtype=torch.float64)
        variance[: self.dimension] += self.spread.square()
        return variance

    def _checked(self, x: Tensor) -> Tensor:
        return check_finite("x", check_rows("x", x, self.features)).to(torch.float64)

    def _log_stretch(self, u: Tensor) -> Tensor:
        """1/2 log det J'J at coordinates u (N, d), (N,)."""
        return torch.zeros(len(u), dtype=u.dtype, device=u.device)

    def _mean_log_stretch(self) -> float:
        """Its mean over the manifold's own coordinates."""
        return 0.0

    @abstractmethod
    def _spread(self) -> Tensor:
        """sigma_z, (d,) float64."""

    @abstractmethod
    def _shape(self, rng: Generator) -> None:
        """Draw what S needs."""

    @abstractmethod
    def _bend(self, y: Tensor) -> Tensor:
        """S(y), (N, D)."""

    @abstractmethod
    def _straighten(self, y: Tensor) -> Tensor:
        """The inverse of S, (N, D)."""


class LinearManifold(ManifoldTask):
    """A Gaussian on a plane of dimension d through the origin of R^D, S the identity.

    Its standard deviations go evenly from 0.5 to 2; for d = 1 there is one, 1.

    Example:
        >>> task = LinearManifold(dimension=2, features=5)
        >>> task.log_prob(task.splits(0).test).shape
        torch.Size([2500])
    """

    def distance(self, x: Tensor) -> Tensor:
        """Distance of x (N, D) to the plane, (N,) float64.

        Raises:
            ValueError: x has the wrong shape or is not finite.
        """
        y = self._checked(x) @ self.rotation[:, self.dimension :]
        norm: Tensor = torch.linalg.vector_norm(y, dim=1)
        return norm

    def _spread(self) -> Tensor:
        if self.dimension == 1:
            return torch.ones(1, dtype=torch.float64)
        return torch.linspace(0.5, 2.0, self.dimension, dtype=torch.float64)

    def _shape(self, rng: Generator) -> None:
        pass

    def _bend(self, y: Tensor) -> Tensor:
        return y

    def _straighten(self, y: Tensor) -> Tensor:
        return y


class CurvedManifold(ManifoldTask):
    r"""The graph of d standard normal coordinates under waves, rotated.

    .. math:: S(u, v) = (u, v + g(u)), \qquad g(u) = a\, B \cos(W u + \phi)

    with m = min(d, D - d) waves, W of orthogonal rows with norms in [0.75, 1.25], phases in
    [-pi/4, pi/4], and B of m orthonormal columns. A wave's variance is mostly not linear in u, so
    the set spans d + m dimensions: at the defaults the least of their standard deviations is 4
    times the noise or more (d from 1 to 16, D = 16 and 64), and a principal component analysis
    takes the manifold for one of dimension d + m. For d = D there is no room to bend, and the set
    is a round Gaussian.

    The noise is bent along with the manifold, so that S keeps its volume; across the manifold its
    standard deviation is ``noise`` at most. Without it the density on the surface has, for w_i the
    length of W's row i,

    .. math:: \tfrac12 \log\det J^\top J = \tfrac12 \textstyle\sum_i
              \log(1 + a^2 w_i^2 \sin^2(W u + \phi)_i)

    The waves run along orthogonal rows of W and move along orthogonal columns of B, so that the
    nearest point of the manifold is found wave by wave, each in its plane.

    Args:
        dimension: d.
        features: D.
        noise: sigma; 0 for none.
        amplitude: a.
        manifold_seed: of Q, W, phi and B.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: an option out of range, or d above D.

    Example:
        >>> task = CurvedManifold(dimension=2, features=5)
        >>> task.log_prob(task.splits(0).test).shape
        torch.Size([2500])
    """

    def __init__(
        self,
        *,
        dimension: int = 2,
        features: int = 16,
        noise: float = 0.05,
        amplitude: float = 1.0,
        manifold_seed: int = 0,
        num_train: int = 10000,
        num_valid: int = 2500,
        num_test: int = 2500,
    ) -> None:
        if isinstance(amplitude, bool) or not 0 < amplitude < float("inf"):
            raise ValueError(f"amplitude: expected a finite number > 0, got {amplitude!r}")
        self.amplitude = float(amplitude)
        super().__init__(
            dimension=dimension,
            features=features,
            noise=noise,
            manifold_seed=manifold_seed,
            num_train=num_train,
            num_valid=num_valid,
            num_test=num_test,
        )

    def distance(self, x: Tensor) -> Tensor:
        """Distance of x (N, D) to the waves, (N,) float64.

        Raises:
            ValueError: x has the wrong shape or is not finite.
        """
        y = self._checked(x) @ self.rotation
        u, v = y[:, : self.dimension], y[:, self.dimension :]
        height = v @ self._mixing
        beside = (v - height @ self._mixing.T).square().sum(dim=1)
        phase = u @ self._directions.T + self._phases
        # an empty batch has one part, without rows
        parts = [
            squared_distance_to_wave(
                theta, h, amplitude=self.amplitude, frequency=self._frequencies()
            ).sum(dim=1)
            for theta, h in zip(torch.split(phase, _ROWS), torch.split(height, _ROWS), strict=True)
        ]
        return (beside + torch.cat(parts)).sqrt()

    def _spread(self) -> Tensor:
        return torch.ones(self.dimension, dtype=torch.float64)

    def _shape(self, rng: Generator) -> None:
        room = self.features - self.dimension
        waves = min(self.dimension, room)
        axes = np.linalg.qr(rng.standard_normal((self.dimension, waves)))[0].T
        directions = (0.75 + 0.5 * rng.random((waves, 1))) * axes
        self._directions = torch.as_tensor(directions)
        self._phases = torch.as_tensor(rng.uniform(-pi / 4, pi / 4, waves))
        self._mixing = torch.as_tensor(np.linalg.qr(rng.standard_normal((room, waves)))[0])

    def _frequencies(self) -> Tensor:
        """w, (m,)."""
        norm: Tensor = torch.linalg.vector_norm(self._directions, dim=1)
        return norm

    def _log_stretch(self, u: Tensor) -> Tensor:
        slope = self.amplitude * self._frequencies() * (u @ self._directions.T + self._phases).sin()
        return 0.5 * slope.square().log1p().sum(dim=1)

    def _mean_log_stretch(self) -> float:
        # each wave sees one standard normal coordinate: equal steps, exact for smooth integrands
        step = torch.linspace(-12.0, 12.0, 6001, dtype=torch.float64)
        weight = torch.exp(-step.square() / 2)
        frequencies = self._frequencies()
        slope = self.amplitude * frequencies * (step[:, None] * frequencies + self._phases).sin()
        return float((weight @ slope.square().log1p()).sum() / (2 * weight.sum()))

    def _graph(self, u: Tensor) -> Tensor:
        """g(u), (N, D - d)."""
        waves = torch.cos(u @ self._directions.T + self._phases)
        return self.amplitude * waves @ self._mixing.T

    def _bend(self, y: Tensor) -> Tensor:
        u, v = y[:, : self.dimension], y[:, self.dimension :]
        return torch.cat([u, v + self._graph(u)], dim=1)

    def _straighten(self, y: Tensor) -> Tensor:
        u, v = y[:, : self.dimension], y[:, self.dimension :]
        return torch.cat([u, v - self._graph(u)], dim=1)
