"""Distributions of the index u given a row: what p(u|z) and q(u|x) are."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from flowzoo.layers.scale_bound import Bound, bound_log_scale
from flowzoo.nets import MLP, Activation

_LOG_2PI = math.log(2.0 * math.pi)


class IndexDistribution(Protocol):
    """A distribution of u for each of N rows."""

    def draw(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """One draw a row, (N, d_u), from standard normal numbers; differentiable."""

    def centre(self) -> Tensor:
        """A typical value, (N, d_u)."""

    def log_prob(self, u: Tensor) -> Tensor:
        """log-density of u (N, d_u) in nats, (N,)."""

    def repeated(self, draws: int) -> IndexDistribution:
        """The same for ``draws`` copies of each row, one row's after another."""


class ConditionalIndex(nn.Module, ABC):
    """A distribution of u that a network chooses by a row h (N, D) and a context (N, C).

    Attributes:
        index_features: d_u, columns of u.
        noise_features: standard normal numbers that a draw takes.
    """

    def __init__(self, index_features: int, noise_features: int) -> None:
        super().__init__()
        self.index_features = index_features
        self.noise_features = noise_features

    @abstractmethod
    def forward(self, h: Tensor, context: Tensor | None = None) -> IndexDistribution:
        """The distribution for each row of h."""


class DiagonalGaussian(NamedTuple):
    """N(mean, e^{2 log_std}), column by column.

    Attributes:
        mean: (N, d_u).
        log_std: (N, d_u).
    """

    mean: Tensor
    log_std: Tensor

    def draw(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """mean + t std noise, (N, d_u), for noise (N, d_u)."""
        return torch.addcmul(self.mean, self.log_std.exp(), noise, value=temperature)

    def centre(self) -> Tensor:
        """The mean, (N, d_u)."""
        return self.mean

    def log_prob(self, u: Tensor) -> Tensor:
        """log-density of u (N, d_u) in nats, (N,)."""
        white = (u - self.mean) * (-self.log_std).exp()
        squares = (white.square() + 2.0 * self.log_std).sum(dim=1)
        return -0.5 * (squares + u.shape[1] * _LOG_2PI)

    def repeated(self, draws: int) -> DiagonalGaussian:
        """The same for ``draws`` copies of each row."""
        return DiagonalGaussian(*(part.repeat_interleave(draws, dim=0) for part in self))


class ConditionalGaussian(ConditionalIndex):
    r"""A mean-field Gaussian whose moments are two heads of one network.

    .. math:: u \mid h \sim N(\mu(h), \mathrm{diag}\, \sigma(h)^2), \qquad
        \log \sigma = b \tanh(\mathrm{head}(h) / b)

    Source: Cornish et al. (2020), appendix D.1; their sigma has no bound b, as here at "none".

    Args:
        features: D, columns of h.
        index_features: d_u.
        hidden: hidden widths of the network.
        context_features: C.
        activation: of the network.
        log_scale_bound: b.

    Raises:
        ValueError: a width below 1 or an unknown activation.

    Example:
        >>> net = ConditionalGaussian(2, 1, hidden=(8,))
        >>> net(torch.zeros(5, 2)).mean.shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        features: int,
        index_features: int,
        *,
        hidden: Sequence[int],
        context_features: int = 0,
        activation: Activation = "tanh",
        log_scale_bound: Bound = "none",
    ) -> None:
        super().__init__(index_features, index_features)
        self.log_scale_bound = log_scale_bound
        self.net = MLP(
            features + context_features, 2 * index_features, hidden=hidden, activation=activation
        )

    def forward(self, h: Tensor, context: Tensor | None = None) -> DiagonalGaussian:
        """Mean and log-std for h (N, D)."""
        mean, raw = self.net(joined(h, context)).chunk(2, dim=1)
        return DiagonalGaussian(mean, bound_log_scale(raw, self.log_scale_bound))


def joined(h: Tensor, context: Tensor | None) -> Tensor:
    """h (N, D) and context (N, C) side by side."""
    return h if context is None else torch.cat([h, context], dim=1)
