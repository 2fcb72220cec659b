"""Kernel density estimate with Gaussian kernels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from flowzoo.validation import check_positive
from flowzoo_plugins.baselines.bandwidth import cross_validated_bandwidth
from flowzoo_plugins.baselines.closed_form import LOG_2PI, ClosedForm, randn


class KernelDensity(ClosedForm):
    r"""A Gaussian of one bandwidth on every training point.

    .. math:: p(x) = \frac1N \sum_{i=1}^N N(x; x_i, h^2 I)

    ``bandwidth="cv"`` takes the h of the best held-out log-likelihood: each row is scored by the
    rows outside its fold, for all h of a log grid at once; the parabola through the best three in
    log h gives h. Copies of a row share its fold: a row that scores itself would favour h = 0. A
    best h at the end of the grid raises a RuntimeWarning.

    ``sample`` at temperature t scales the kernels' covariance by t^2.

    Source: Parzen (1962).

    Args:
        features: D.
        bandwidth: h in the data's units, or ``cv``.
        folds: number of folds, at least 2; None leaves out one distinct row at a time.
        grid: smallest and largest h tried, in the data's units.
        cv_rows: how many rows are scored, drawn at random; all rows score them.

    Raises:
        ValueError: a bandwidth or grid that is not positive and finite, fewer than 2 folds. Its
            stage raises when h is to be chosen from fewer than 2 distinct rows.

    Example:
        >>> model = KernelDensity(1, bandwidth=1.0)
        >>> x = torch.zeros(1, 1)
        >>> model.stages()[0].prepare(x, x, torch.Generator())
        >>> model.log_prob(x)
        tensor([-0.9189])
    """

    points: Tensor
    log_bandwidth: Tensor

    def __init__(
        self,
        features: int,
        *,
        bandwidth: Literal["cv"] | float = "cv",
        folds: int | None = None,
        grid: tuple[float, float] = (1e-3, 10.0),
        cv_rows: int = 2500,
    ) -> None:
        super().__init__(features)
        if bandwidth != "cv" and not _is_positive(bandwidth):
            raise ValueError(f"bandwidth: expected 'cv' or a positive number, got {bandwidth!r}")
        if folds is not None and check_positive("folds", folds) < 2:
            raise ValueError(f"folds: expected None or at least 2, got {folds}")
        if len(grid) != 2 or not all(map(_is_positive, grid)) or not grid[0] < grid[1]:
            raise ValueError(f"grid: expected 0 < smallest < largest bandwidth, got {grid!r}")
        self.bandwidth = bandwidth
        self.folds = folds
        self.grid = grid
        self.cv_rows = check_positive("cv_rows", cv_rows)
        self.register_buffer("points", torch.zeros(1, features))
        self.register_buffer("log_bandwidth", torch.zeros(()))

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


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf
