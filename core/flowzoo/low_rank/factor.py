"""Positive definite matrices of latent size, factored once and used many times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor


class Factor(ABC):
    """A positive definite M, (d, d) for all rows or (N, d, d) one a row.

    A matrix that is not positive definite to working precision makes every answer NaN.
    """

    @abstractmethod
    def solve(self, u: Tensor) -> Tensor:
        """M^-1 u, (N, d), for u (N, d)."""

    @abstractmethod
    def colour(self, noise: Tensor) -> Tensor:
        """Rows of N(0, M^-1) from standard normal ones, (N, d)."""

    @abstractmethod
    def log_det(self) -> Tensor:
        """log det M, () or (N,)."""

    @abstractmethod
    def trace_of_inverse(self) -> Tensor:
        """tr M^-1, () or (N,)."""

    @abstractmethod
    def quadratic(self, u: Tensor) -> Tensor:
        """u' M u, (N,), for u (N, d)."""


class DenseFactor(Factor):
    """By Cholesky, in float64 whatever the dtype: a (d, d) matrix costs little and may be stiff.

    Args:
        matrix: M, (..., d, d).
        dtype: of the answers.
    """

    def __init__(self, matrix: Tensor, dtype: torch.dtype) -> None:
        self._dtype = dtype
        lower, info = torch.linalg.cholesky_ex(matrix.double())
        failed = (info > 0)[..., None, None]
        self._exact = torch.where(failed, torch.full_like(lower, float("nan")), lower)

    def solve(self, u: Tensor) -> Tensor:
        """See ``Factor.solve``."""
        return self._by_rows(torch.cholesky_solve, u)

    def colour(self, noise: Tensor) -> Tensor:
        """See ``Factor.colour``."""

        def solve(columns: Tensor, lower: Tensor) -> Tensor:
            solved: Tensor = torch.linalg.solve_triangular(lower.mT, columns, upper=True)
            return solved

        return self._by_rows(solve, noise)

    def log_det(self) -> Tensor:
        """See ``Factor.log_det``."""
        diagonal = self._exact.diagonal(dim1=-2, dim2=-1)
        return 2.0 * diagonal.log().sum(dim=-1).to(self._dtype)

    def trace_of_inverse(self) -> Tensor:
        """See ``Factor.trace_of_inverse``."""
        inverse = torch.cholesky_inverse(self._exact)
        return inverse.diagonal(dim1=-2, dim2=-1).sum(dim=-1).to(self._dtype)

    def quadratic(self, u: Tensor) -> Tensor:
        """See ``Factor.quadratic``."""
        half: Tensor = self._by_rows(lambda columns, lower: lower.mT @ columns, u)
        return half.square().sum(dim=-1)

    def _by_rows(self, change: Callable[[Tensor, Tensor], Tensor], u: Tensor) -> Tensor:
        """``change(columns, lower)`` of the rows of u (N, d), all at once where they share M."""
        exact = u.double()
        if self._exact.ndim == 2:
            return change(exact.mT, self._exact).mT.to(u.dtype)
        return change(exact[..., None], self._exact)[..., 0].to(u.dtype)


class DiagonalFactor(Factor):
    """Of a diagonal matrix: everything in O(d).

    Args:
        diagonal: of M, (..., d).
    """

    def __init__(self, diagonal: Tensor) -> None:
        nan = torch.full_like(diagonal, float("nan"))
        self._diagonal = torch.where(diagonal > 0, diagonal, nan)

    def solve(self, u: Tensor) -> Tensor:
        """See ``Factor.solve``."""
        return u / self._diagonal

    def colour(self, noise: Tensor) -> Tensor:
        """See ``Factor.colour``."""
        return noise * self._diagonal.rsqrt()

    def log_det(self) -> Tensor:
        """See ``Factor.log_det``."""
        return self._diagonal.log().sum(dim=-1)

    def trace_of_inverse(self) -> Tensor:
        """See ``Factor.trace_of_inverse``."""
        return self._diagonal.reciprocal().sum(dim=-1)

    def quadratic(self, u: Tensor) -> Tensor:
        """See ``Factor.quadratic``."""
        return (self._diagonal * u.square()).sum(dim=-1)
