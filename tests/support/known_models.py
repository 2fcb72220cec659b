"""Small models that training is tried on, well behaved and not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flowzoo.interfaces import Evaluation, Mixture, Stage
from flowzoo.training import TrainingOptions


class InPlaceNorm(nn.Module):
    """Running mean updated in place, as the stage contract asks."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            batch = x.mean(0)
            self.mean.mul_(0.9).add_(batch.detach(), alpha=0.1)
            return x - batch
        return x - self.mean


class Shifted(Mixture):
    """N(m(x), I) with a small net; enough state to notice every mistake."""

    evaluations: Mapping[str, Evaluation] = {"exact": Evaluation()}

    def __init__(self, features: int = 2, *, poison: bool = False, **options: object) -> None:
        super().__init__(features)
        self.options = {"epochs": 3, "batch_size": 32, "lr": 1e-2, **options}
        self.norm = InPlaceNorm(features)
        self.net = nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, features))
        self.frozen = nn.Dropout(0.5)
        self.register_buffer("static", torch.tensor([-math.inf, 0.0]))
        self.register_buffer("poison", torch.tensor(float(poison)))

    def loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        y = self.norm(self.frozen(x))
        value = ((y - self.net(torch.roll(y, 1, 1)) + 0.01 * noise) ** 2).sum(1)
        return value / torch.where(self.poison > 0, 0.0, 1.0) if progress > 0.5 else value

    def stages(self) -> tuple[Stage, ...]:
        options = TrainingOptions.of(self.options)
        return (
            options.stage("fit", self.loss, groups=("net", "norm"), noise_features=self.features),
        )

    def _log_prob(self, x, evaluation, num_samples, generator):
        return -self.loss(x, torch.zeros_like(x), 0.0)

    def _sample(self, num, temperature, generator):
        return torch.zeros(num, self.features)


class Fixed(Mixture):
    """The standard normal: nothing to learn, not even a buffer."""

    evaluations: Mapping[str, Evaluation] = {"exact": Evaluation()}

    def stages(self) -> tuple[Stage, ...]:
        return ()

    def _log_prob(self, x, evaluation, num_samples, generator):
        return torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(dim=1)

    def _sample(self, num, temperature, generator):
        return torch.randn(num, self.features, generator=generator)


class Replaced(Shifted):
    """Puts a new tensor in a buffer's place, which the stage contract forbids."""

    def loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        self.norm.mean = 0.9 * self.norm.mean + 0.1 * x.detach().mean(0)
        return super().loss(x, noise, progress)


class Dropped(Shifted):
    """Draws from the global generators while it trains."""

    packable = False

    def loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        return super().loss(nn.functional.dropout(x, 0.5), noise, progress)


def rows(seed: int, n: int = 100) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
