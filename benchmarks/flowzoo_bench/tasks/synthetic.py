"""What the synthetic sets share: options, splitting, and the true entropy."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from flowzoo.interfaces.task import Splits, Task
from flowzoo.validation import check_finite, check_positive, check_rows
from flowzoo_bench.tasks.checks import check_noise, check_seed


class Expectation(NamedTuple):
    """A Monte Carlo mean and its standard error, in nats."""

    mean: float
    stderr: float


class SyntheticTask(Task):
    """A set that is drawn from a known density, in raw coordinates.

    Args:
        features: D.
        bootstrap: draw the rows again with replacement before they are split, as a later code base
            of the authors does. It leaks: an expected 1 - (1 - 1/n)^num_train of the test rows are
            copies of training rows (39 % by default).
        noise: standard deviation of the added N(0, noise² I).
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer, or the noise is negative or not finite.
    """

    def __init__(
        self,
        features: int = 3,
        *,
        bootstrap: bool,
        noise: float,
        num_train: int,
        num_valid: int,
        num_test: int,
    ) -> None:
        super().__init__(features)
        self.bootstrap = bootstrap
        self.noise = check_noise(noise)
        self.noise_scale = self.noise or None
        self.sizes = (
            check_positive("num_train", num_train),
            check_positive("num_valid", num_valid),
            check_positive("num_test", num_test),
        )

    def splits(self, seed: int) -> Splits:
        """Draw all rows, shuffle them, and cut them into train, validation and test."""
        rng = np.random.default_rng(check_seed(seed))
        total = sum(self.sizes)
        x = rng.permutation(self._draw(total, rng))
        if self.bootstrap:
            x = x[rng.integers(total, size=total)]
        return Splits(*torch.split(torch.as_tensor(x), list(self.sizes)))

    def log_prob(self, x: Tensor) -> Tensor:
        """True log-density of x (N, D) in nats, (N,) float64, against ``oracle.measure``."""
        return self._log_prob(self._checked(x))

    def distance(self, x: Tensor) -> Tensor:
        """Distance of x (N, D) to the noiseless support, (N,) float64."""
        return self._distance(self._checked(x))

    def expected_log_prob(self, num: int = 20000, seed: int = 0) -> Expectation:
        """E[log p(x)] under the set's own density: minus its entropy, the best mean score there is.

        Args:
            num: Monte Carlo points.
            seed: of those points.
        """
        rng = np.random.default_rng((seed, 1))  # not the points of ``splits(seed)``
        values = self._entropy_terms(num, rng)
        return Expectation(float(values.mean()), float(values.std() / len(values) ** 0.5))

    def _checked(self, x: Tensor) -> Tensor:
        return check_finite("x", check_rows("x", x, self.features)).to(torch.float64)

    @abstractmethod
    def _draw(self, num: int, rng: Generator) -> np.ndarray:
        """``num`` rows, (num, D) float64, in any order."""

    @abstractmethod
    def _entropy_terms(self, num: int, rng: Generator) -> Tensor:
        """Numbers whose mean estimates E[log p(x)]."""

    @abstractmethod
    def _log_prob(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _distance(self, x: Tensor) -> Tensor: ...
