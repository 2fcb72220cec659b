"""A skewed, heavy-tailed normal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowzoo import Evaluation, Splits, Task
from flowzoo.validation import check_rows


class SinhNormal(Task):
    r"""x = sinh((asinh(n) + skew) / tail) for n normal with unit variances and one correlation.

    Args:
        features: D.
        correlation: of any two coordinates of n, from 0 to below 1.
        skew: 0 for symmetric coordinates.
        tail: below 1 for tails heavier than the normal's.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: an option out of range.
    """

    oracle = Evaluation()

    def __init__(
        self,
        *,
        features: int = 2,
        correlation: float = 0.5,
        skew: float = 0.4,
        tail: float = 0.8,
        num_train: int = 5000,
        num_valid: int = 1000,
        num_test: int = 1000,
    ) -> None:
        super().__init__(features)
        if not 0 <= correlation < 1:
            raise ValueError(f"correlation: expected a number in [0, 1), got {correlation}")
        if not 0 < tail < math.inf:
            raise ValueError(f"tail: expected a finite number > 0, got {tail}")
        self.skew, self.tail = skew, tail
        self.sizes = [num_train, num_valid, num_test]
        if min(self.sizes) < 1:
            raise ValueError(f"num_train, num_valid, num_test: expected >= 1, got {self.sizes}")
        eye = torch.eye(features, dtype=torch.float64)
        self.factor = torch.linalg.cholesky(correlation + (1 - correlation) * eye)

    def splits(self, seed: int) -> Splits:
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(
            sum(self.sizes), self.features, generator=generator, dtype=torch.float64
        )
        x = torch.sinh((torch.asinh(normal @ self.factor.mT) + self.skew) / self.tail)
        return Splits(*torch.split(x, self.sizes))

    def log_prob(self, x: Tensor) -> Tensor:
        """True log-density of x (N, D) in nats, (N,)."""
        factor = self.factor.to(check_rows("x", x, self.features))
        n = torch.sinh(self.tail * torch.asinh(x) - self.skew)
        white = torch.linalg.solve_triangular(factor, n.mT, upper=False).mT
        normal = -0.5 * (white.square() + math.log(2 * math.pi)).sum(dim=1)
        volume = 0.5 * (torch.log1p(n.square()) - torch.log1p(x.square())) + math.log(self.tail)
        log_prob: Tensor = normal - factor.diagonal().log().sum() + volume.sum(dim=1)
        return log_prob
