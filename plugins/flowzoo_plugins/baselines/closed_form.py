"""What the baselines without gradients share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.interfaces import Evaluation, Mixture, Stage
from flowzoo.validation import check_finite, check_rows

LOG_2PI = math.log(2 * math.pi)
_NUMBERS = 2**22  # numbers held at once while points are scored


class ClosedForm(Mixture):
    """A density fitted in one closed-form stage, ``fit``; exact against Lebesgue measure.

    Subclasses implement ``_fit``, ``_score`` and ``_sample``. Before the fit it is the standard
    normal.
    """

    evaluations: Mapping[str, Evaluation] = {"exact": Evaluation()}
    capabilities: ClassVar[frozenset[str]] = frozenset({"sample_and_log_prob"})

    def stages(self) -> tuple[Stage, ...]:
        """One closed-form stage, ``fit``."""
        return (Stage("fit", prepare=self._prepare),)

    def sample_and_log_prob(
        self, num: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """``num`` draws (num, D) and their log-density in nats (num,).

        Raises:
            ValueError: ``num`` is negative.
        """
        x = self.sample(num, generator=generator)
        return x, self.log_prob(x)

    @torch.no_grad()
    def _prepare(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        reference = self._reference()
        for name, x in (("x_train", x_train), ("x_valid", x_valid)):
            check_finite(name, check_rows(name, x, self.features, reference))
        if len(x_train) == 0:
            raise ValueError("x_train: expected at least one row, got 0")
        self._fit(x_train, x_valid, generator)

    @abstractmethod
    def _fit(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None: ...

    @abstractmethod
    def _score(self, x: Tensor) -> Tensor:
        """log p of a chunk of rows, (N,)."""

    @abstractmethod
    def _row_cost(self) -> int:
        """Numbers ``_score`` holds for one row."""

    def _log_prob(
        self,
        x: Tensor,
        evaluation: str,
        num_samples: int | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        rows = max(1, _NUMBERS // self._row_cost())
        return torch.cat([self._score(part) for part in torch.split(x, rows)])


def normal_log_prob(x: Tensor, means: Tensor, scale_trils: Tensor) -> Tensor:
    r"""log N(x_n; mu_k, L_k L_k^T) in nats, (N, K).

    .. math:: -\tfrac12 \lVert L_k^{-1}(x_n - \mu_k) \rVert^2 - \log\det L_k - \tfrac D2 \log 2\pi

    Args:
        x: (N, D).
        means: (K, D).
        scale_trils: lower Cholesky factors, (K, D, D).
    """
    centred = (x[None, :, :] - means[:, None, :]).mT  # (K, D, N)
    whitened = torch.linalg.solve_triangular(scale_trils, centred, upper=False)
    log_det = scale_trils.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    square = whitened.square().sum(dim=1)
    log_density: Tensor = -0.5 * square - log_det[:, None] - 0.5 * x.shape[1] * LOG_2PI
    return log_density.mT


def mean_variance(x: Tensor) -> float:
    """Mean over columns of the variance of x (N, D), float64; 1 where all rows are equal."""
    variance = float(x.var(dim=0, correction=0).mean())
    rounding = (1e-14 * float(x.abs().max())) ** 2  # what the variance of equal rows may come to
    return variance if variance > rounding else 1.0


def randn(like: Tensor, *shape: int, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers of the dtype and device of ``like``, drawn where the generator is."""
    device = like.device if generator is None else generator.device
    noise = torch.randn(*shape, dtype=like.dtype, device=device, generator=generator)
    return noise.to(like.device)
