"""A curve and a surface in R^3: a union of manifolds of different dimension."""

from __future__ import annotations

from functools import cached_property
from math import log, pi

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from flowzoo.interfaces.task import Splits
from flowzoo.validation import check_number
from flowzoo_bench.tasks.checks import check_seed
from flowzoo_bench.tasks.curve_density import CurveDensity
from flowzoo_bench.tasks.curves import Curve
from flowzoo_bench.tasks.embedded import EmbeddedTask
from flowzoo_bench.tasks.s_curve import (
    WIDTH,
    BlurredSheet,
    draw_coordinates,
    sheet,
    sheet_distance,
)

_RADIUS = 0.5


class ManifoldUnion(EmbeddedTask):
    """A turn of a helix (class 0, d = 1) beside the S-shaped sheet of :class:`SCurve` (1, d = 2).

    Each row is of the helix with probability ``weight`` and uniform there, by arc length or area.
    The helix, of radius 0.5, stands along the sheet's straight direction, ``gap`` away from it;
    with a gap of 0 they touch in one point. With noise the density on R^3 is by quadrature.
    Without, the rows of one class have no density against the measure of the other's: there is no
    common one to score with, and ``log_prob`` raises TypeError.

    Args:
        gap: least distance between helix and sheet.
        weight: probability of the helix.
        noise: standard deviation of the added N(0, noise² I); 0 for none.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer, the noise or the gap is negative or not
            finite, or the weight is not in (0, 1).

    Example:
        >>> task = ManifoldUnion()
        >>> task.dimensions, task.labels(0).test.unique()
        ((1, 2), tensor([0, 1]))
    """

    dimensions = (1, 2)

    def __init__(
        self,
        *,
        gap: float = 1.0,
        weight: float = 0.5,
        noise: float = 0.01,
        num_train: int = 10000,
        num_valid: int = 2500,
        num_test: int = 2500,
    ) -> None:
        super().__init__(
            3, noise=noise, num_train=num_train, num_valid=num_valid, num_test=num_test
        )
        self.gap = check_number("gap", gap)
        self.weight = check_number("weight", weight, most=1, strict=True)
        if self.weight == 1:
            raise ValueError(f"weight: expected a number in (0, 1), got {weight!r}")
        self.curve = _helix(self.gap)

    @cached_property
    def _blurred(self) -> tuple[CurveDensity, BlurredSheet]:
        return CurveDensity(self.curve, self.noise), BlurredSheet(self.noise)

    def labels(self, seed: int) -> Splits:
        """0 for rows of the helix, 1 for rows of the sheet, int64, in the order of ``splits``."""
        of_sheet = self._of_sheet(sum(self.sizes), np.random.default_rng(check_seed(seed)))
        return Splits(*torch.split(of_sheet.long(), list(self.sizes)))

    def _of_sheet(self, num: int, rng: Generator) -> Tensor:
        """Which rows are of the sheet, (num,): the first thing that is drawn."""
        return torch.as_tensor(rng.random(num) >= self.weight)

    def _support(self, num: int, rng: Generator) -> Tensor:
        of_sheet = self._of_sheet(num, rng)
        coordinates = draw_coordinates(num, rng)
        # the speed of a helix is constant: uniform in its angle is uniform in arc length
        angle = torch.as_tensor(rng.uniform(self.curve.start, self.curve.stop, num))
        return torch.where(of_sheet[:, None], sheet(coordinates), self.curve.position(angle))

    def _surface_log_prob(self, x: Tensor) -> Tensor:
        raise TypeError("log_prob: a curve and a surface have no common measure without noise")

    def _blurred_log_prob(self, x: Tensor) -> Tensor:
        curve, surface = self._blurred
        of_curve = curve.log_prob(x) + log(self.weight)
        return torch.logaddexp(of_curve, surface.log_prob(x) + log(1 - self.weight))

    def _distance(self, x: Tensor) -> Tensor:
        return torch.minimum(self.curve.distance(x), sheet_distance(x))


def _helix(gap: float) -> Curve:
    """One turn whose middle is nearest to the sheet, ``gap`` from its point (1, 1, -1)."""
    rise = WIDTH / (2 * pi)

    def position(angle: Tensor) -> Tensor:
        return torch.stack(
            [
                1 + gap + _RADIUS * (1 + angle.cos()),
                rise * angle,
                _RADIUS * angle.sin() - 1,
            ],
            dim=-1,
        )

    def velocity(angle: Tensor) -> Tensor:
        return torch.stack(
            [-_RADIUS * angle.sin(), torch.full_like(angle, rise), _RADIUS * angle.cos()], dim=-1
        )

    return Curve(position, velocity, 0.0, 2 * pi)
