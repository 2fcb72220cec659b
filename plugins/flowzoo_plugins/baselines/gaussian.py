"""One Gaussian with full covariance."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.validation import check_rows
from flowzoo_plugins.baselines.closed_form import ClosedForm, mean_variance, normal_log_prob, randn


class Gaussian(ClosedForm):
    r"""Maximum-likelihood Gaussian, slightly inflated so that flat directions stay finite.

    .. math:: p(x) = N(x; \hat\mu, \hat\Sigma + \rho \bar v I)

    with the sample mean, the sample covariance (divided by N) and its mean variance
    :math:`\bar v = \mathrm{tr}\hat\Sigma / D` (1 where all rows are equal).

    ``sample`` at temperature t scales the covariance by t^2.

    Args:
        features: D.
        regularisation: rho, > 0, relative to the mean variance.

    Raises:
        ValueError: ``regularisation`` is not positive.

    Example:
        >>> model = Gaussian(1)
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> model.stages()[0].prepare(x, x, torch.Generator())
        >>> model.log_prob(torch.zeros(1, 1))
        tensor([-0.9189])
    """

    mean: Tensor
    scale_tril: Tensor
    capabilities: ClassVar[frozenset[str]] = frozenset({"sample_and_log_prob", "embed"})

    def __init__(self, features: int, *, regularisation: float = 1e-6) -> None:
        super().__init__(features)
        if not 0 < regularisation < float("inf"):
            raise ValueError(f"regularisation: expected a finite number > 0, got {regularisation}")
        self.regularisation = regularisation
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale_tril", torch.eye(features))

    def embed(self, x: Tensor) -> Tensor:
        """z = L^-1 (x - mu), (N, D): the map to the standard normal.

        Raises:
            ValueError: x has the wrong shape, dtype or device.
        """
        check_rows("x", x, self.features, self.mean)
        centred = (x - self.mean).mT
        z: Tensor = torch.linalg.solve_triangular(self.scale_tril, centred, upper=False).mT
        return z

    def _fit(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        x = x_train.to(torch.float64)
        mean = x.mean(dim=0)
        covariance = (x - mean).mT @ (x - mean) / len(x)
        covariance.diagonal().add_(self.regularisation * mean_variance(x))
        self.mean.copy_(mean)
        self.scale_tril.copy_(torch.linalg.cholesky(covariance))

    def _score(self, x: Tensor) -> Tensor:
        return normal_log_prob(x, self.mean[None], self.scale_tril[None])[:, 0]

    def _row_cost(self) -> int:
        return 2 * self.features

    def _sample(self, num: int, temperature: float, generator: torch.Generator | None) -> Tensor:
        noise = randn(self.mean, num, self.features, generator=generator)
        return self.mean + temperature * noise @ self.scale_tril.mT
