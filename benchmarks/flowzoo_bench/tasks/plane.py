"""What the sets in the plane share: independent rows, each of one of several equal parts."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from flowzoo.interfaces.measure import Evaluation
from flowzoo.interfaces.task import Splits
from flowzoo_bench.tasks.checks import check_seed
from flowzoo_bench.tasks.synthetic import SyntheticTask


class PlaneTask(SyntheticTask):
    """Rows in the plane, each of one of ``parts`` equally likely parts; subclasses say which.

    The known code draws some of these sets on a grid, or in pairs. Here every row is independent of
    every other.

    Args:
        noise: standard deviation of the noise around the support; 0 for none.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer.
    """

    oracle = Evaluation()
    parts: ClassVar[int]

    def __init__(self, *, noise: float, num_train: int, num_valid: int, num_test: int) -> None:
        super().__init__(
            2,
            bootstrap=False,
            noise=noise,
            num_train=num_train,
            num_valid=num_valid,
            num_test=num_test,
        )

    def splits(self, seed: int) -> Splits:
        """Draw all rows and cut them into train, validation and test."""
        return self._cut(self._draw(sum(self.sizes), np.random.default_rng(check_seed(seed))))

    def labels(self, seed: int) -> Splits:
        """The part 0, 1, ... that each row is of, int64, in the order of ``splits``."""
        return self._cut(self._part(sum(self.sizes), np.random.default_rng(check_seed(seed))))

    def _cut(self, rows: np.ndarray) -> Splits:
        return Splits(*torch.split(torch.as_tensor(rows), list(self.sizes)))

    def _part(self, num: int, rng: Generator) -> np.ndarray:
        """Parts of ``num`` rows: the first thing that is drawn."""
        return rng.integers(self.parts, size=num, dtype=np.int64)

    def _draw(self, num: int, rng: Generator) -> np.ndarray:
        return self._draw_of(self._part(num, rng), rng)

    def _entropy_terms(self, num: int, rng: Generator) -> Tensor:
        return self._log_prob(torch.as_tensor(self._draw(num, rng)))

    @abstractmethod
    def _draw_of(self, part: np.ndarray, rng: Generator) -> np.ndarray:
        """One row of each of these parts (N,): (N, 2) float64."""


def on_circle(angle: np.ndarray) -> np.ndarray:
    """(cos, sin) of angles (N,) in radians: (N, 2)."""
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)
