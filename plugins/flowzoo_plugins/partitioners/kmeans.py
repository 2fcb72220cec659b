"""k-means partition of data space."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.interfaces import Stage
from flowzoo.validation import check_finite, check_positive, check_rows
from flowzoo_plugins.partitioners.codes import (
    CodePartitioner,
    fit_codes,
    pairwise_distances,
    seed_from,
)


class KMeans(CodePartitioner):
    r"""Charts are the Voronoi cells of k-means centres in data space.

    .. math:: d_k(x) = \lVert x - c_k \rVert_2

    Source: Lloyd (1982); the alternative partition of Sidheekh et al. (2022), section 5.4.

    Args:
        features: D.
        num_charts: K.
        restarts: runs of k-means from k-means++ starts, of which the best is kept.
        max_iterations: Lloyd iterations of a run.

    Raises:
        ValueError: a count below 1. Its stage raises for fewer rows than charts; with fewer
            *distinct* rows the surplus codes repeat others and their charts stay empty.

    Example:
        >>> import torch
        >>> charts = KMeans(2, num_charts=4)
        >>> (stage,) = charts.stages()
        >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> stage.prepare(x, x, torch.Generator().manual_seed(0))
        >>> charts.distances(x).shape, charts.assign(x).unique().tolist()
        (torch.Size([100, 4]), [0, 1, 2, 3])
    """

    def __init__(
        self,
        features: int,
        *,
        num_charts: int = 16,
        restarts: int = 10,
        max_iterations: int = 300,
    ) -> None:
        super().__init__(features, num_charts=num_charts, code_features=features)
        self.restarts = check_positive("restarts", restarts)
        self.max_iterations = check_positive("max_iterations", max_iterations)
        self.register_buffer("codes", torch.zeros(num_charts, features))

    def _distances(self, x: Tensor) -> Tensor:
        return pairwise_distances(x, self.codes)

    def stages(self) -> tuple[Stage, ...]:
        """One closed-form stage, ``partition``."""
        return (Stage("partition", prepare=self._fit),)

    @torch.no_grad()
    def _fit(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        check_finite("x_train", check_rows("x_train", x_train, self.features, self.codes))
        self.codes.copy_(
            fit_codes(
                x_train,
                self.num_charts,
                restarts=self.restarts,
                max_iterations=self.max_iterations,
                seed=seed_from(generator),
            )
        )
