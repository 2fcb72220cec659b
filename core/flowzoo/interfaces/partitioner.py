"""The contract of what cuts data space into charts."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from flowzoo.interfaces.stage import Stage
from flowzoo.validation import check_positive, check_rows


class Partitioner(nn.Module, ABC):
    """Where the charts are: K codes and a distance of every point to each.

    ``codes`` (K, code_features) is a parameter or buffer a subclass registers; it is what
    conditions chart k's flow. Subclasses implement ``_distances``, which must run under vmap.
    """

    codes: Tensor

    def __init__(self, features: int, *, num_charts: int, code_features: int) -> None:
        super().__init__()
        self.features = check_positive("features", features)
        self.num_charts = check_positive("num_charts", num_charts)
        self.code_features = check_positive("code_features", code_features)

    def distances(self, x: Tensor) -> Tensor:
        """Distance of each row of x (N, D) to each chart's code, (N, K), non-negative.

        Raises:
            ValueError: x has the wrong shape or dtype.
        """
        distances = self._distances(check_rows("x", x, self.features))
        if distances.shape != (len(x), self.num_charts):
            raise ValueError(
                f"{type(self).__name__}.distances: expected shape ({len(x)}, {self.num_charts}), "
                f"got {tuple(distances.shape)}"
            )
        return distances

    @abstractmethod
    def _distances(self, x: Tensor) -> Tensor: ...

    def assign(self, x: Tensor) -> Tensor:
        """Index of the nearest chart, (N,) int64; ties go to the lowest index."""
        return self.distances(x).argmin(dim=1)

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """How the partition is learned; group names are relative to the partitioner."""
