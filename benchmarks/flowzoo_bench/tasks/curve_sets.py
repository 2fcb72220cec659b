"""The nine curves in R^3 of the VQ-Flows paper, with their true density.

theta is uniform, N(0, noise² I) is added (0.01 is the standard deviation), and a set of several
curves is their equal mixture. Source: Sidheekh et al. (2022), supplement; where a printed formula
and the intended set differ, there is a switch.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from math import log

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from flowzoo.interfaces.measure import Evaluation
from flowzoo_bench.tasks import curve_formulas
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
    dimension = 1

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
            tangent = torch.nn.functional.normalize(curve.velocity(theta), dim=1)
            normal = noise - (noise * tangent).sum(dim=1, keepdim=True) * tangent
            points.append(curve.position(theta) + noise)
            # control variate: two normal directions, so its mean is 2 / 2 - 1 = 0
            controls.append(normal.square().sum(dim=1) / (2 * self.noise**2) - 1)
        return self._log_prob(torch.cat(points)) + torch.cat(controls)


class Helix(CurveTask):
    """(theta, cos theta, sin theta), theta in [0, 8 pi]: four turns with two ends."""

    def _curves(self) -> tuple[Curve, ...]:
        return (curve_formulas.HELIX,)


class Lissajous(CurveTask):
    """(cos theta, 0, sin 2 theta): a planar figure that crosses itself once."""

    def _curves(self) -> tuple[Curve, ...]:
        return (curve_formulas.LISSAJOUS,)


class TwistedEight(CurveTask):
    """(sin, cos, 0) and (2 + sin, 0, cos): two circles that touch."""

    def _curves(self) -> tuple[Curve, ...]:
        return (curve_formulas.FLAT_CIRCLE, curve_formulas.UPRIGHT_CIRCLE_AT_2)


class Knotted(CurveTask):
    """(sin t + 2 sin 2t, cos t - 2 cos 2t, sin 3t): a trefoil knot."""

    def _curves(self) -> tuple[Curve, ...]:
        return (curve_formulas.KNOTTED,)


class InterlockedCircles(CurveTask):
    """(sin, cos, 0) and (1 + sin, 0, cos): two linked circles."""

    def _curves(self) -> tuple[Curve, ...]:
        return (curve_formulas.FLAT_CIRCLE, curve_formulas.UPRIGHT_CIRCLE_AT_1)


class NonKnotted(CurveTask):
    """((1 + cos 3t / 2) cos 2t, (1 + cos 3t / 2) sin 2t, sin t / 2)."""

    def _curves(self) -> tuple[Curve, ...]:
        return (curve_formulas.NON_KNOTTED,)


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
        if self.printed:
            return (curve_formulas.PRINTED_BENT_LISSAJOUS,)
        return (curve_formulas.BENT_LISSAJOUS,)


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
        first = curve_formulas.SMALL_ELLIPSE if self.fixed else curve_formulas.SEGMENT
        return (first, curve_formulas.LARGE_ELLIPSE)


class Star(CurveTask):
    """sin theta along each axis: three crossing segments, dense at their six tips."""

    def _curves(self) -> tuple[Curve, ...]:
        return curve_formulas.AXES
