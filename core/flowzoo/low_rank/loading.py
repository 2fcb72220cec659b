"""Linear maps z -> A z from R^d into R^D: the loadings of factor analysis."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from flowzoo.low_rank.factor import DenseFactor, Factor
from flowzoo.validation import check_positive


class Loading(nn.Module, ABC):
    """A (D, d) matrix A, d <= D, known by its products.

    Args:
        features: D.
        latent_features: d.

    Raises:
        ValueError: d below 1 or above D.
    """

    def __init__(self, features: int, latent_features: int) -> None:
        super().__init__()
        self.features = check_positive("features", features)
        self.latent_features = check_positive("latent_features", latent_features)
        if latent_features > features:
            raise ValueError(
                f"latent_features: expected at most features={features}, got {latent_features}"
            )

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """A z, (N, D), for z (N, d)."""

    @abstractmethod
    def transposed(self, y: Tensor) -> Tensor:
        """A' y, (N, d), for y (N, D)."""

    @abstractmethod
    def factor(self, precision: Tensor, ridge: float) -> Factor:
        """``ridge I + A' diag(precision) A`` factored, for precision (D,), or (N, D) one a row."""

    @abstractmethod
    def pseudo_solve(self, precision: Tensor, u: Tensor) -> Tensor:
        """The Moore-Penrose solution of ``A' diag(precision) A z = u``, (N, d), for u (N, d).

        Where A has columns of nothing, or of what others have, the shortest z.
        """

    @abstractmethod
    def matrix(self) -> Tensor:
        """A itself, (D, d)."""


class DenseLoading(Loading):
    """Any A; its factor costs O(D d^2 + d^3).

    A starts as Glorot and Bengio (2010): independent normals of variance 2 / (D + d).

    Args:
        features: D.
        latent_features: d.

    Example:
        >>> DenseLoading(5, 2)(torch.zeros(3, 2)).shape
        torch.Size([3, 5])
    """

    def __init__(self, features: int, latent_features: int) -> None:
        super().__init__(features, latent_features)
        std = math.sqrt(2.0 / (features + latent_features))
        self.weight = nn.Parameter(std * torch.randn(features, latent_features))

    def forward(self, z: Tensor) -> Tensor:
        """A z, (N, D)."""
        return z @ self.weight.T

    def transposed(self, y: Tensor) -> Tensor:
        """A' y, (N, d)."""
        return y @ self.weight

    def factor(self, precision: Tensor, ridge: float) -> Factor:
        """See ``Loading.factor``."""
        gram = self._gram(precision)
        eye = torch.eye(self.latent_features, dtype=gram.dtype, device=gram.device)
        return DenseFactor(gram + ridge * eye, self.weight.dtype)

    def pseudo_solve(self, precision: Tensor, u: Tensor) -> Tensor:
        """See ``Loading.pseudo_solve``."""
        inverse = torch.linalg.pinv(self._gram(precision), hermitian=True)
        z: Tensor = (inverse @ u.double()[..., None])[..., 0]
        return z.to(u.dtype)

    def _gram(self, precision: Tensor) -> Tensor:
        """A' diag(precision) A, (d, d), or (N, d, d) for a precision a row, in float64."""
        scaled = precision.double().sqrt()[..., :, None] * self.weight.double()
        return scaled.mT @ scaled

    def matrix(self) -> Tensor:
        """A, (D, d)."""
        return self.weight
