"""Uniform sets of equal rectangles in the plane, with their true density."""

from __future__ import annotations

from math import log
from typing import ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from flowzoo_bench.tasks.plane import PlaneTask


class BoxesTask(PlaneTask):
    r"""Uniform on equal boxes that share no more than corners; subclasses say which.

    With K boxes of sides a and b,

    .. math:: \log p(x) = -\log(K a b) \text{ on the boxes, edges included}, \quad
              -\infty \text{ elsewhere}

    Rows have no noise around them: ``noise_scale`` is None, and every row is at distance 0.

    Args:
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer.
    """

    dimension = 2
    corners: ClassVar[tuple[tuple[float, float], ...]]
    """Lower left corners, one a part."""
    sides: ClassVar[tuple[float, float]]

    def __init__(
        self, *, num_train: int = 10_000, num_valid: int = 1_000, num_test: int = 5_000
    ) -> None:
        super().__init__(noise=0.0, num_train=num_train, num_valid=num_valid, num_test=num_test)

    def _draw_of(self, part: np.ndarray, rng: Generator) -> np.ndarray:
        rows: np.ndarray = np.array(self.corners)[part]
        return rows + np.array(self.sides) * rng.random((len(part), 2))

    def _log_prob(self, x: Tensor) -> Tensor:
        inside = (self._beyond(x) == 0).all(dim=-1).any(dim=1)
        value = -log(self.parts * self.sides[0] * self.sides[1])
        return torch.full_like(x[:, 0], value).masked_fill(~inside, -torch.inf)

    def _distance(self, x: Tensor) -> Tensor:
        distances: Tensor = torch.linalg.vector_norm(self._beyond(x), dim=-1)
        return distances.amin(dim=1)

    def _beyond(self, x: Tensor) -> Tensor:
        """How far x (N, 2) is outside each box along each column, (N, K, 2)."""
        low = torch.tensor(self.corners, dtype=x.dtype, device=x.device)
        high = low + torch.tensor(self.sides, dtype=x.dtype, device=x.device)
        return torch.maximum(low - x[:, None], x[:, None] - high).clamp_min(0)


class TwoUniforms(BoxesTask):
    """x1 uniform on [-2, -1] or on [1, 2], x2 uniform on [-1, 1]: log p = -log 4 there.

    "2uniforms" of the code of Cornish et al. (2020). Part 0 is the left box.

    Args:
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer.

    Example:
        >>> TwoUniforms().log_prob(torch.tensor([[1.5, 0.0], [0.0, 0.0]]))
        tensor([-1.3863,    -inf], dtype=torch.float64)
    """

    corners = ((-2.0, -1.0), (1.0, -1.0))
    sides = (1.0, 2.0)
    parts = len(corners)


class Checkerboard(BoxesTask):
    """Every second square of a board of 4 x 4, of side 2, on [-4, 4]²: log p = -log 32 there.

    The toy set of the codes of Grathwohl et al. (2019) and Cornish et al. (2020). Parts go from
    left to right, in a column from below.

    Args:
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer.

    Example:
        >>> Checkerboard().log_prob(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        tensor([-3.4657,    -inf], dtype=torch.float64)
    """

    corners = tuple((-4.0 + 2 * k, -4.0 + 2 * (k % 2) + 4 * h) for k in range(4) for h in range(2))
    sides = (2.0, 2.0)
    parts = len(corners)
