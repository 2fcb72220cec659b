"""Finite indices: categorical distributions, and their Concrete relaxation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowzoo.nets import MLP, Activation
from flowzoo_plugins.continuous_mixtures.index import ConditionalIndex, joined


def chosen(index: Tensor, num_values: int) -> Tensor:
    """log of the one-hot vectors of ``index`` (N,) int64: 0 and -inf, (N, K)."""
    values = torch.arange(num_values, device=index.device)
    return torch.where(index[:, None] == values, 0.0, -math.inf)


def gumbel(noise: Tensor) -> Tensor:
    """Standard Gumbel numbers from standard normal ones, of the same shape."""
    # log Phi with its digits in both tails; torch's log_ndtr does not run under vmap
    tail = 0.5 * torch.erfc(noise.abs() * math.sqrt(0.5))
    log_uniform = torch.where(noise < 0, tail.log(), torch.log1p(-tail))
    finite = torch.finfo(noise.dtype)
    return -(-log_uniform).clamp(min=finite.tiny, max=finite.max).log()


class Categorical(NamedTuple):
    """A distribution of u in 1..K, written as the log of a one-hot vector.

    Attributes:
        log_share: log p(k), (N, K), normalised.
    """

    log_share: Tensor

    def draw(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """One value a row, (N, K), by noise (N, K); at temperature t of p^{1/t}; no gradient."""
        index = (self.log_share / temperature + gumbel(noise)).argmax(dim=1)
        return chosen(index, self.log_share.shape[1]).to(self.log_share)

    def centre(self) -> Tensor:
        """The most probable value, (N, K)."""
        index = self.log_share.argmax(dim=1)
        return chosen(index, self.log_share.shape[1]).to(self.log_share)

    def log_prob(self, u: Tensor) -> Tensor:
        """log p of values u (N, K), (N,)."""
        return (u.exp() * self.log_share).sum(dim=1)

    def repeated(self, draws: int) -> Categorical:
        """The same for ``draws`` copies of each row."""
        return Categorical(self.log_share.repeat_interleave(draws, dim=0))

    def relaxed(self, tau: float) -> Concrete:
        """The Concrete distribution of these shares."""
        return Concrete(self.log_share, tau)


class Concrete(NamedTuple):
    r"""The Concrete distribution, of the logarithm u of a point on the simplex.

    .. math:: u = \log\mathrm{softmax}((\log p + g) / \tau), \qquad
        \log q(u) = \log (K-1)! + (K - 1) \log \tau + \sum_k (\log p_k - \tau u_k)
        - K \log \sum_k e^{\log p_k - \tau u_k}

    with Gumbel g. As tau goes to 0 it becomes the categorical one. Source: Maddison, Mnih, Teh
    (2017), eq. 26 (ExpConcrete): a density of the differences u_k - u_K, k < K.

    Attributes:
        log_share: log p, (N, K).
        tau: the relaxation's temperature.
    """

    log_share: Tensor
    tau: float

    def draw(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """u, (N, K), by noise (N, K); differentiable."""
        return ((self.log_share / temperature + gumbel(noise)) / self.tau).log_softmax(dim=1)

    def centre(self) -> Tensor:
        """Without Gumbel noise, (N, K)."""
        return (self.log_share / self.tau).log_softmax(dim=1)

    def log_prob(self, u: Tensor) -> Tensor:
        """log-density of u (N, K) in nats, (N,)."""
        num_values = u.shape[1]
        score = self.log_share - self.tau * u
        constant = math.lgamma(num_values) + (num_values - 1) * math.log(self.tau)
        return score.sum(dim=1) - num_values * score.logsumexp(dim=1) + constant

    def repeated(self, draws: int) -> Concrete:
        """The same for ``draws`` copies of each row."""
        return Concrete(self.log_share.repeat_interleave(draws, dim=0), self.tau)


class ConditionalCategorical(ConditionalIndex):
    r"""p(u = k | h) = softmax(net(h))_k.

    Args:
        features: D, columns of h.
        num_values: K.
        hidden: hidden widths of the network.
        context_features: C.
        activation: of the network.

    Raises:
        ValueError: a width below 1 or an unknown activation.

    Example:
        >>> net = ConditionalCategorical(2, 3, hidden=(8,))
        >>> net(torch.zeros(5, 2)).log_share.exp().sum(dim=1).detach().round(decimals=4)
        tensor([1., 1., 1., 1., 1.])
    """

    def __init__(
        self,
        features: int,
        num_values: int,
        *,
        hidden: Sequence[int],
        context_features: int = 0,
        activation: Activation = "tanh",
    ) -> None:
        super().__init__(num_values, num_values)
        self.net = MLP(
            features + context_features, num_values, hidden=hidden, activation=activation
        )

    def forward(self, h: Tensor, context: Tensor | None = None) -> Categorical:
        """The distribution for h (N, D)."""
        return Categorical(F.log_softmax(self.net(joined(h, context)), dim=1))


class Table(nn.Module):
    """Raw s_k and t_k, one row for each value of the index; a mean of them for a relaxed index.

    Args:
        features: D.
        num_values: K.
    """

    def __init__(self, features: int, num_values: int) -> None:
        super().__init__()
        shift = 0.3 * torch.randn(num_values, features)  # apart from the start, or all stay alike
        self.rows = nn.Parameter(torch.cat([torch.zeros(num_values, features), shift], dim=1))

    def forward(self, u: Tensor) -> Tensor:
        """(N, 2 D) for u (N, K), logarithms of weights."""
        return u.exp() @ self.rows
