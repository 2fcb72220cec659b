"""The nine curves in R^3 of the VQ-Flows paper, with their true density.

theta is uniform, N(0, noise² I) is added (0.01 is the standard deviation), and a set of several
curves is their equal mixture. Source: Sidheekh et al. (2022), supplement; where a printed formula
and the intended set differ, there is a switch.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from math import log, pi

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, cos, sin

from flowzoo.interfaces.measure import Evaluation
from flowzoo_bench.tasks.curve_density import CurveDensity
from flowzoo_bench.tasks.curves import Curve
from flowzoo_bench.tasks.synthetic import SyntheticTask


class CurveTask(SyntheticTask):
    """Equal mixture of curves, blurred by Gaussian noise; subclasses say which curves.

    Args:
        grid: theta on an evenly spaced grid with both ends, instead of drawn.
        bootstrap: see :class:`SyntheticTask`; a leak, off by default.
        noise: standard deviation of the noise, positive.
        num_train: training rows, counted over all curves.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer, or the noise is not positive.

    Example:
        >>> task = Helix()
        >>> task.log_prob(task.splits(0).test).shape
        torch.Size([2500])
    """

    oracle = Evaluation()

    def __init__(
        self,
        *,
        grid: bool = False,
        bootstrap: bool = False,
        noise: float = 0.01,
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
        if self.noise == 0:
            raise ValueError("noise: expected > 0 (a curve alone has no density on R^3), got 0")
        self.grid = grid
        self.curves = self._curves()

    @abstractmethod
    def _curves(self) -> tuple[Curve, ...]:
        """The components, in order."""

    def _draw(self, num: int, rng: Generator) -> np.ndarray:
        parts = []
        for curve, count in zip(self.curves, self.component_counts(num), strict=True):
            if self.grid:
                theta = np.linspace(curve.start, curve.stop, count)
            else:
                theta = rng.uniform(curve.start, curve.stop, count)
            position = curve.position(torch.as_tensor(theta)).numpy()
            parts.append(position + self.noise * rng.standard_normal((count, 3)))
        return np.concatenate(parts)

    def component_counts(self, num: int) -> tuple[int, ...]:
        """How many of ``num`` rows each curve gets: equal shares, the first ones take the rest."""
        share, rest = divmod(num, len(self.curves))
        return tuple(share + (index < rest) for index in range(len(self.curves)))

    @cached_property
    def _densities(self) -> tuple[CurveDensity, ...]:
        return tuple(CurveDensity(curve, self.noise) for curve in self.curves)

    def _log_prob(self, x: Tensor) -> Tensor:
        parts = torch.stack([density.log_prob(x) for density in self._densities])
        return torch.logsumexp(parts, dim=0) - log(len(parts))

    def _distance(self, x: Tensor) -> Tensor:
        return torch.stack([curve.distance(x) for curve in self.curves]).amin(dim=0)

    def _entropy_terms(self, num: int, rng: Generator) -> Tensor:
        points, controls = [], []
        for curve, count in zip(self.curves, self.component_counts(num), strict=True):
            # one theta in each of `count` equal cells
            unit = (np.arange(count) + rng.random(count)) / max(count, 1)
            theta = torch.as_tensor(curve.start + (curve.stop - curve.start) * unit)
            noise = torch.as_tensor(self.noise * rng.standard_normal((count, 3)))
            position, velocity = curve.velocity(theta)
            tangent = torch.nn.functional.normalize(velocity, dim=1)
            normal = noise - (noise * tangent).sum(dim=1, keepdim=True) * tangent
            points.append(position + noise)
            # control variate: two normal directions, so its mean is 2 / 2 - 1 = 0
            controls.append(normal.square().sum(dim=1) / (2 * self.noise**2) - 1)
        return self._log_prob(torch.cat(points)) + torch.cat(controls)


def _helix(t: Tensor) -> Tensor:
    return torch.stack([t, cos(t), sin(t)], dim=-1)


def _lissajous(t: Tensor) -> Tensor:
    return torch.stack([cos(t), 0 * t, sin(2 * t)], dim=-1)


def _flat_circle(t: Tensor) -> Tensor:
    return torch.stack([sin(t), cos(t), 0 * t], dim=-1)


def _upright_circle_at_1(t: Tensor) -> Tensor:
    return torch.stack([1 + sin(t), 0 * t, cos(t)], dim=-1)


def _upright_circle_at_2(t: Tensor) -> Tensor:
    return torch.stack([2 + sin(t), 0 * t, cos(t)], dim=-1)


def _knotted(t: Tensor) -> Tensor:
    return torch.stack([sin(t) + 2 * sin(2 * t), cos(t) - 2 * cos(2 * t), sin(3 * t)], dim=-1)


def _non_knotted(t: Tensor) -> Tensor:
    radius = 1 + cos(3 * t) / 2
    return torch.stack([radius * cos(2 * t), radius * sin(2 * t), sin(t) / 2], dim=-1)


def _bent_lissajous(t: Tensor) -> Tensor:
    return torch.stack([sin(2 * t), cos(t), cos(2 * t)], dim=-1)


def _bent_lissajous_printed(t: Tensor) -> Tensor:
    return torch.stack([sin(2 * t), cos(2 * t), cos(2 * t)], dim=-1)


def _segment(t: Tensor) -> Tensor:
    return torch.stack([-1 + sin(t), -1 + sin(t), -1 + sin(t)], dim=-1)


def _small_ellipse(t: Tensor) -> Tensor:
    return torch.stack([-1 + sin(t), -1 + cos(t), -1 + cos(t)], dim=-1)


def _large_ellipse(t: Tensor) -> Tensor:
    return torch.stack([2 + sin(t), 1 + 2 * cos(t), 1 + 2 * cos(t)], dim=-1)


def _axis_0(t: Tensor) -> Tensor:
    return torch.stack([sin(t), 0 * t, 0 * t], dim=-1)


def _axis_1(t: Tensor) -> Tensor:
    return torch.stack([0 * t, sin(t), 0 * t], dim=-1)


def _axis_2(t: Tensor) -> Tensor:
    return torch.stack([0 * t, 0 * t, sin(t)], dim=-1)


class Helix(CurveTask):
    """(theta, cos theta, sin theta), theta in [0, 8 pi]: four turns with two ends."""

    def _curves(self) -> tuple[Curve, ...]:
        return (Curve(_helix, 0.0, 8 * pi),)


class Lissajous(CurveTask):
    """(cos theta, 0, sin 2 theta): a planar figure that crosses itself once."""

    def _curves(self) -> tuple[Curve, ...]:
        return (Curve(_lissajous, -pi, pi),)


class TwistedEight(CurveTask):
    """(sin, cos, 0) and (2 + sin, 0, cos): two circles that touch."""

    def _curves(self) -> tuple[Curve, ...]:
        return (Curve(_flat_circle, -pi, pi), Curve(_upright_circle_at_2, -pi, pi))


class Knotted(CurveTask):
    """(sin t + 2 sin 2t, cos t - 2 cos 2t, sin 3t): a trefoil knot."""

    def _curves(self) -> tuple[Curve, ...]:
        return (Curve(_knotted, -pi, pi),)


class InterlockedCircles(CurveTask):
    """(sin, cos, 0) and (1 + sin, 0, cos): two linked circles."""

    def _curves(self) -> tuple[Curve, ...]:
        return (Curve(_flat_circle, -pi, pi), Curve(_upright_circle_at_1, -pi, pi))


class NonKnotted(CurveTask):
    """((1 + cos 3t / 2) cos 2t, (1 + cos 3t / 2) sin 2t, sin t / 2)."""

    def _curves(self) -> tuple[Curve, ...]:
        return (Curve(_non_knotted, -pi, pi),)


class BentLissajous(CurveTask):
    """(sin 2t, cos t, cos 2t): a Lissajous figure bent on a parabola.

    Args:
        printed: the printed (sin 2t, cos 2t, cos 2t), a planar ellipse traced twice.
        grid: see :class:`CurveTask`, as for the rest.
        bootstrap: resample before splitting.
        noise: standard deviation of the noise.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.
    """

    def __init__(
        self,
        *,
        printed: bool = False,
        grid: bool = False,
        bootstrap: bool = False,
        noise: float = 0.01,
        num_train: int = 5000,
        num_valid: int = 2500,
        num_test: int = 2500,
    ) -> None:
        self.printed = printed
        super().__init__(
            grid=grid,
            bootstrap=bootstrap,
            noise=noise,
            num_train=num_train,
            num_valid=num_valid,
            num_test=num_test,
        )

    def _curves(self) -> tuple[Curve, ...]:
        return (Curve(_bent_lissajous_printed if self.printed else _bent_lissajous, -pi, pi),)


class DisjointCircles(CurveTask):
    """(-1 + sin)(1, 1, 1) and (2 + sin, 1 + 2 cos, 1 + 2 cos): a segment and an ellipse.

    Args:
        fixed: make the first a closed curve too, (-1 + sin, -1 + cos, -1 + cos).
        grid: see :class:`CurveTask`, as for the rest.
        bootstrap: resample before splitting.
        noise: standard deviation of the noise.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.
    """

    def __init__(
        self,
        *,
        fixed: bool = False,
        grid: bool = False,
        bootstrap: bool = False,
        noise: float = 0.01,
        num_train: int = 5000,
        num_valid: int = 2500,
        num_test: int = 2500,
    ) -> None:
        self.fixed = fixed
        super().__init__(
            grid=grid,
            bootstrap=bootstrap,
            noise=noise,
            num_train=num_train,
            num_valid=num_valid,
            num_test=num_test,
        )

    def _curves(self) -> tuple[Curve, ...]:
        first = _small_ellipse if self.fixed else _segment
        return (Curve(first, -pi, pi), Curve(_large_ellipse, -pi, pi))


class Star(CurveTask):
    """sin theta along each axis: three crossing segments, dense at their six tips."""

    def _curves(self) -> tuple[Curve, ...]:
        return (Curve(_axis_0, -pi, pi), Curve(_axis_1, -pi, pi), Curve(_axis_2, -pi, pi))
