"""What sets on a manifold share: rows exactly on it, or with Gaussian noise around it."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from flowzoo.interfaces.measure import EXACT, Evaluation, Measure
from flowzoo.interfaces.task import Splits, Task
from flowzoo.validation import check_finite, check_positive, check_rows
from flowzoo_bench.tasks.checks import check_noise, check_seed


class EmbeddedTask(Task):
    """x = m + noise * N(0, I), m drawn on a manifold; subclasses say which.

    Without noise the rows have **no** density on R^D: the truth is one against surface measure, and
    a point off the manifold is scored at the point of the manifold nearest to it. With noise they
    have an ordinary density. Equal seeds draw equal m, whatever the noise.

    Args:
        features: D.
        noise: standard deviation of the added noise; 0 for none.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer, or the noise is negative or not finite.
    """

    def __init__(
        self, features: int, *, noise: float, num_train: int, num_valid: int, num_test: int
    ) -> None:
        super().__init__(features)
        self.noise = check_noise(noise)
        self.noise_scale = self.noise or None
        if self.noise:
            self.oracle = Evaluation()
        elif self.dimension is not None:
            self.oracle = Evaluation(EXACT, Measure("surface", dim=self.dimension))
        self.sizes = (
            check_positive("num_train", num_train),
            check_positive("num_valid", num_valid),
            check_positive("num_test", num_test),
        )

    def splits(self, seed: int) -> Splits:
        """Draw all rows and cut them into train, validation and test."""
        rng = np.random.default_rng(check_seed(seed))
        x = self._support(sum(self.sizes), rng)
        if self.noise:
            x = x + self.noise * torch.as_tensor(rng.standard_normal(x.shape))
        return Splits(*torch.split(x, list(self.sizes)))

    def log_prob(self, x: Tensor) -> Tensor:
        """True log-density of x (N, D) in nats, (N,) float64, against ``oracle.measure``.

        Raises:
            TypeError: there is no measure that the rows have a density against.
            ValueError: x has the wrong shape or is not finite.
        """
        if self.oracle is None:
            return super().log_prob(x)
        x = self._checked(x)
        return self._blurred_log_prob(x) if self.noise else self._surface_log_prob(x)

    def distance(self, x: Tensor) -> Tensor:
        """Distance of x (N, D) to the manifold, (N,) float64.

        Raises:
            ValueError: x has the wrong shape or is not finite.
        """
        return self._distance(self._checked(x))

    def _checked(self, x: Tensor) -> Tensor:
        return check_finite("x", check_rows("x", x, self.features)).to(torch.float64)

    @abstractmethod
    def _support(self, num: int, rng: Generator) -> Tensor:
        """``num`` independent rows on the manifold, (num, D) float64."""

    @abstractmethod
    def _surface_log_prob(self, x: Tensor) -> Tensor:
        """Log-density against surface measure at the nearest point, (N,)."""

    @abstractmethod
    def _blurred_log_prob(self, x: Tensor) -> Tensor:
        """Log-density on R^D with the noise, (N,)."""

    @abstractmethod
    def _distance(self, x: Tensor) -> Tensor: ...
