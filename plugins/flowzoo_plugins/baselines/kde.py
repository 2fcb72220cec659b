"""Kernel density estimate with Gaussian kernels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from flowzoo.dimension import harmonic_mean, levina_bickel, two_nn
from flowzoo.validation import check_finite, check_positive, check_rows
from flowzoo_plugins.baselines.bandwidth import cross_validated_bandwidth
from flowzoo_plugins.baselines.closed_form import LOG_2PI, ClosedForm, randn

Dimension = Literal["levina-bickel", "two-nn"]
_ROUNDED = (
    "as in rounded data, which have no dimension below their step: add noise as wide as the "
    "step, or look at more neighbours"
)


class KernelDensity(ClosedForm):
    r"""A Gaussian of one bandwidth on every training point.

    .. math:: p(x) = \frac1N \sum_{i=1}^N N(x; x_i, h^2 I)

    ``bandwidth="cv"`` takes the h of the best held-out log-likelihood: each row is scored by the
    rows outside its fold, for all h of a log grid at once; the parabola through the best three in
    log h gives h. Copies of a row share its fold: a row that scores itself would favour h = 0. A
    best h at the end of the grid raises a RuntimeWarning.

    ``sample`` at temperature t scales the kernels' covariance by t^2. The stored rows also know how
    many dimensions they have, which no bandwidth enters: see ``intrinsic_dimension``.

    Source: Parzen (1962).

    Args:
        features: D.
        bandwidth: h in the data's units, or ``cv``.
        folds: number of folds, at least 2; None leaves out one distinct row at a time.
        grid: smallest and largest h tried, in the data's units.
        cv_rows: how many rows are scored, drawn at random; all rows score them.
        dimension: what ``intrinsic_dimension`` is found by, see ``flowzoo.dimension``.
        neighbours: of each row, for the dimension by Levina and Bickel.

    Raises:
        ValueError: a bandwidth or grid that is not positive and finite, fewer than 2 folds or
            neighbours, an unknown ``dimension``. Its stage raises when h is to be chosen from fewer
            than 2 distinct rows.

    Example:
        >>> model = KernelDensity(1, bandwidth=1.0)
        >>> x = torch.zeros(1, 1)
        >>> model.stages()[0].prepare(x, x, torch.Generator())
        >>> model.log_prob(x)
        tensor([-0.9189])
    """

    points: Tensor
    log_bandwidth: Tensor
    capabilities: ClassVar[frozenset[str]] = ClosedForm.capabilities | {
        "intrinsic_dimension",
        "local_dimension",
    }

    def __init__(
        self,
        features: int,
        *,
        bandwidth: Literal["cv"] | float = "cv",
        folds: int | None = None,
        grid: tuple[float, float] = (1e-3, 10.0),
        cv_rows: int = 2500,
        dimension: Dimension = "levina-bickel",
        neighbours: int = 20,
    ) -> None:
        super().__init__(features)
        if bandwidth != "cv" and not _is_positive(bandwidth):
            raise ValueError(f"bandwidth: expected 'cv' or a positive number, got {bandwidth!r}")
        if folds is not None and check_positive("folds", folds) < 2:
            raise ValueError(f"folds: expected None or at least 2, got {folds}")
        if len(grid) != 2 or not all(map(_is_positive, grid)) or not grid[0] < grid[1]:
            raise ValueError(f"grid: expected 0 < smallest < largest bandwidth, got {grid!r}")
        if dimension not in get_args(Dimension):
            raise ValueError(f"dimension: expected one of {get_args(Dimension)}, got {dimension!r}")
        if check_positive("neighbours", neighbours) < 2:
            raise ValueError(f"neighbours: expected at least 2, got {neighbours}")
        self.dimension = dimension
        self.neighbours = neighbours
        self.bandwidth = bandwidth
        self.folds = folds
        self.grid = grid
        self.cv_rows = check_positive("cv_rows", cv_rows)
        self.register_buffer("points", torch.zeros(1, features))
        self.register_buffer("log_bandwidth", torch.zeros(()))

    def intrinsic_dimension(self) -> Tensor:
        """Dimension of the stored rows, a scalar at most D, float64.

        By TwoNN, or the harmonic mean of Levina and Bickel's of all rows; O(N^2 D), no bandwidth.
        Rows that are rounded have neighbours equally far, and no growth to count: a RuntimeWarning
        where some have, and no answer where all have.

        Raises:
            ValueError: too few distinct rows, or the neighbours of every row are equally far.
        """
        if self.dimension == "two-nn":
            found = torch.tensor(two_nn(self.points), dtype=torch.float64)
        else:
            local = levina_bickel(self.points, self.neighbours)
            found = harmonic_mean(local)
            if bool(found.isfinite()):
                _warn_of_rounding(local)
        if not bool(found.isfinite()):
            raise ValueError(
                f"points: expected rows with neighbours at different distances, got rows as on a "
                f"lattice, {_ROUNDED}"
            )
        return found.clamp(max=self.features)

    def local_dimension(self, x: Tensor) -> Tensor:
        """Levina and Bickel's dimension of each row among the stored ones, (N,), not whole.

        A stored row is no neighbour of itself. The numbers scatter by a share of
        (neighbours - 2)^(-1/2) and exceed D as often as not where the data fill the space. They are
        infinite where all neighbours are equally far, with a RuntimeWarning.

        Raises:
            ValueError: x has the wrong shape, dtype or device, or too few distinct rows are stored.
        """
        check_finite("x", check_rows("x", x, self.features, self.points))
        found = levina_bickel(x, self.neighbours, self.points)
        _warn_of_rounding(found)
        return found.to(x.dtype)

    def _fit(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        if isinstance(self.bandwidth, str):
            bandwidth, at_edge = cross_validated_bandwidth(
                x_train,
                grid=self.grid,
                folds=self.folds,
                rows=self.cv_rows,
                generator=generator,
            )
            if at_edge:
                warnings.warn(
                    f"kde: the best bandwidth {bandwidth:g} is at the end of the grid "
                    f"{self.grid[0]:g} to {self.grid[1]:g}; widen the grid or rescale the data",
                    RuntimeWarning,
                    stacklevel=2,
                )
        else:
            bandwidth = self.bandwidth
        self.points = x_train.detach().clone()
        self.log_bandwidth.fill_(math.log(bandwidth))

    def _score(self, x: Tensor) -> Tensor:
        # distances by differences: |x|^2 + |y|^2 - 2xy loses the digits a small bandwidth needs
        distance = torch.cdist(x, self.points, compute_mode="donot_use_mm_for_euclid_dist")
        exponent = -0.5 * (distance / self.log_bandwidth.exp()).square()
        constant = math.log(len(self.points)) + self.features * (self.log_bandwidth + 0.5 * LOG_2PI)
        return torch.logsumexp(exponent, dim=1) - constant

    def _row_cost(self) -> int:
        return 2 * max(1, len(self.points))

    def _sample(self, num: int, temperature: float, generator: torch.Generator | None) -> Tensor:
        points = self.points
        device = points.device if generator is None else generator.device
        index = torch.randint(len(points), (num,), generator=generator, device=device)
        noise = randn(points, num, self.features, generator=generator)
        return points[index.to(points.device)] + temperature * self.log_bandwidth.exp() * noise

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Make room for as many points as the state holds, then load as usual."""
        points = state_dict.get(f"{prefix}points")
        if isinstance(points, Tensor) and points.shape[1:] == self.points.shape[1:]:
            self.points = self.points.new_empty(points.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _warn_of_rounding(local: Tensor) -> None:
    """Say that some of these dimensions (N,) are infinite, if they are."""
    count = int(local.isinf().sum())
    if count:
        warnings.warn(
            f"kde: the nearest rows of {count} of {len(local)} rows are equally far, {_ROUNDED}",
            RuntimeWarning,
            stacklevel=3,
        )


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf
