"""The joint density of data and indices, and the inference model beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from flowzoo.interfaces import Prior
from flowzoo_plugins.continuous_mixtures.bijections import IndexedBijection
from flowzoo_plugins.continuous_mixtures.index import ConditionalIndex, IndexDistribution

InferFrom = Literal["flow", "data"]
Relax = Callable[[IndexDistribution], IndexDistribution]
"""Puts another distribution in the place of each p(u|z) and q(u|.)."""
_Pick = Callable[[int, IndexDistribution], Tensor]


class Inference(NamedTuple):
    """Of N rows with one index path each.

    Attributes:
        indices: u_1..u_L side by side, (N, sum of d_u), from data to latent space.
        log_p: log p(x, u), (N,), nats.
        log_q: log q(u|x), (N,), nats.
        latent: z_0, (N, D).
    """

    indices: Tensor
    log_p: Tensor
    log_q: Tensor
    latent: Tensor


class IndexedLayer(nn.Module):
    """A family of bijections with the distributions of its index.

    Args:
        bijection: G(.; u).
        prior: p(u|z), z on the latent side of G.
        posterior: q(u|.), see ``infer_from``; None where all u are summed over.
        infer_from: q takes ``flow``: what ``bijection.prepare`` makes of x, as the authors' code
            does, or ``data``: x, as the paper writes. One is a bijection of the other.
    """

    bijection: IndexedBijection
    prior: ConditionalIndex
    posterior: ConditionalIndex | None

    def __init__(
        self,
        bijection: IndexedBijection,
        prior: ConditionalIndex,
        posterior: ConditionalIndex | None,
        *,
        infer_from: InferFrom = "flow",
    ) -> None:
        super().__init__()
        self.bijection = bijection
        self.prior = prior
        self.posterior = posterior
        self.infer_from = infer_from


class Joint(nn.Module):
    r"""Stacked layers over a prior: log p(x, u_1..u_L) and log q(u_1..u_L | x).

    With z_L = x and z_{l-1} = G_l(z_l; u_l),

    .. math:: \log p(x, u) = \log p_{Z_0}(z_0) + \sum_l \log p(u_l \mid z_{l-1})
        + \log|\det DG_l(z_l; u_l)|, \qquad \log q(u \mid x) = \sum_l \log q(u_l \mid z_l)

    The true posterior has this form. Source: Cornish et al. (2020), eq. 5, section 3.3 and A.3;
    the base case is log p_{Z_0}, where the paper prints no logarithm.

    Args:
        layers: from the data side to the latent side.
        prior: of z_0, on R^D.

    Raises:
        ValueError: no layers.
    """

    def __init__(self, layers: Sequence[IndexedLayer], prior: Prior) -> None:
        super().__init__()
        if not layers:
            raise ValueError("layers: expected at least one, got none")
        self.layers = nn.ModuleList(layers)
        self.prior = prior
        self.support_map = prior.support_map()
        self._index_sizes = [layer.prior.index_features for layer in layers]
        self._noise_sizes = [layer.prior.noise_features for layer in layers]
        self.index_features = sum(self._index_sizes)
        self.noise_features = sum(self._noise_sizes)

    def infer(
        self,
        x: Tensor,
        noise: Tensor,
        context: Tensor | None = None,
        relax: Relax | None = None,
    ) -> Inference:
        """Indices drawn from q by reparametrisation of ``noise`` (N K, noise_features).

        K draws a row of x (N, D), one row's after another: N K rows come back. What the layer at
        the data makes of x before it sees an index is computed once a row.
        """
        parts = torch.split(noise, self._noise_sizes, dim=1)
        draws = _draws(x, noise)
        return self._through(x, context, lambda layer, q: q.draw(parts[layer]), relax, draws)

    def centre(self, x: Tensor, context: Tensor | None = None) -> Inference:
        """Indices at the centre of q."""
        return self._through(x, context, lambda layer, q: q.centre(), None, 1)

    def forward(
        self,
        x: Tensor,
        indices: Tensor,
        context: Tensor | None = None,
        relax: Relax | None = None,
    ) -> Inference:
        """Given indices, (N K, index_features), as in ``infer``."""
        parts = torch.split(indices, self._index_sizes, dim=1)
        return self._through(x, context, lambda layer, q: parts[layer], relax, _draws(x, indices))

    def enumerate(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """log p(x, u) of every path of finite indices, (N, K^L), and its z_0, (N, K^L, D).

        Path numbers have the layer at the data side as their highest digit.
        """
        rows = len(x)
        log_p = x.new_zeros(rows)
        for layer in self.indexed_layers():
            values = layer.prior.index_features
            y, volume = layer.bijection.prepare(x, context)
            log_p = (log_p + volume).repeat_interleave(values, dim=0)
            y = y.repeat_interleave(values, dim=0)
            if context is not None:
                context = context.repeat_interleave(values, dim=0)
            u = torch.eye(values, dtype=x.dtype, device=x.device).log().repeat(len(x), 1)
            x, more = layer.bijection.encode(y, u, context)
            log_p = log_p + more + layer.prior(x, context).log_prob(u)
        z, log_prior = self._to_prior(x)
        paths = self.num_paths()
        return (log_p + log_prior).reshape(rows, paths), z.reshape(rows, paths, z.shape[1])

    def num_paths(self) -> int:
        """K^L, how many paths there are of finite indices."""
        return math.prod(self._index_sizes)

    def _to_prior(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z_0 where the prior is, and its log-density there with the volume term."""
        log_p = z.new_zeros(len(z))
        if self.support_map is not None:
            z, log_p = self.support_map.encode(z)
        return z, log_p + self.prior.log_prob(z)

    def _through(
        self, x: Tensor, context: Tensor | None, pick: _Pick, relax: Relax | None, draws: int
    ) -> Inference:
        indices = []
        log_p = log_q = x.new_zeros(len(x) * draws)
        for number, layer in enumerate(self.indexed_layers()):
            if layer.posterior is None:
                raise TypeError("posterior: expected an inference model, this one has none")
            y, volume = layer.bijection.prepare(x, context)
            posterior = layer.posterior(y if layer.infer_from == "flow" else x, context)
            if relax is not None:
                posterior = relax(posterior)
            if number == 0 and draws > 1:
                y, volume = (part.repeat_interleave(draws, dim=0) for part in (y, volume))
                posterior = posterior.repeated(draws)
                if context is not None:
                    context = context.repeat_interleave(draws, dim=0)
            u = pick(number, posterior)
            x, more = layer.bijection.encode(y, u, context)
            prior = layer.prior(x, context)
            if relax is not None:
                prior = relax(prior)
            log_p = log_p + volume + more + prior.log_prob(u)
            log_q = log_q + posterior.log_prob(u)
            indices.append(u)
        x, log_prior = self._to_prior(x)
        return Inference(torch.cat(indices, dim=1), log_p + log_prior, log_q, x)

    def sample(
        self,
        num: int,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """``num`` draws of x, (num, D); the temperature scales the spread of z_0 and of every u."""
        z = self.prior.sample(num, temperature=temperature, generator=generator)
        if self.support_map is not None:
            z = self.support_map.decode(z).value
        for layer in reversed(self.indexed_layers()):
            shape = (num, layer.prior.noise_features)
            noise = torch.randn(shape, generator=generator, dtype=z.dtype, device=z.device)
            u = layer.prior(z, context).draw(noise, temperature)
            z = layer.bijection.decode(z, u, context)
        return z

    def indexed_layers(self) -> tuple[IndexedLayer, ...]:
        """From the data side to the latent side."""
        return tuple(self.layers)  # type: ignore[arg-type]


def _draws(x: Tensor, per_draw: Tensor) -> int:
    """K of rows (N, D) and numbers (N K, n); 1 of no rows."""
    return len(per_draw) // len(x) if len(x) else 1
