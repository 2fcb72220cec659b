"""The joint density of data and indices, and the inference model beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from flowzoo.interfaces import Prior
from flowzoo_plugins.continuous_mixtures.bijections import IndexedBijection
from flowzoo_plugins.continuous_mixtures.index import ConditionalIndex, IndexDistribution

InferFrom = Literal["flow", "data"]
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
        posterior: q(u|.), see ``infer_from``.
        infer_from: q takes ``flow``: what ``bijection.prepare`` makes of x, as the authors' code
            does, or ``data``: x, as the paper writes. One is a bijection of the other.
    """

    def __init__(
        self,
        bijection: IndexedBijection,
        prior: ConditionalIndex,
        posterior: ConditionalIndex,
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
        self._index_sizes = [layer.posterior.index_features for layer in layers]
        self._noise_sizes = [layer.posterior.noise_features for layer in layers]
        self.index_features = sum(self._index_sizes)
        self.noise_features = sum(self._noise_sizes)

    def infer(self, x: Tensor, noise: Tensor, context: Tensor | None = None) -> Inference:
        """Indices drawn from q by reparametrisation of ``noise`` (N, noise_features)."""
        parts = torch.split(noise, self._noise_sizes, dim=1)
        return self._through(x, context, lambda layer, q: q.draw(parts[layer]))

    def centre(self, x: Tensor, context: Tensor | None = None) -> Inference:
        """Indices at the centre of q."""
        return self._through(x, context, lambda layer, q: q.centre())

    def forward(self, x: Tensor, indices: Tensor, context: Tensor | None = None) -> Inference:
        """Given indices, (N, index_features)."""
        parts = torch.split(indices, self._index_sizes, dim=1)
        return self._through(x, context, lambda layer, q: parts[layer])

    def _through(self, x: Tensor, context: Tensor | None, pick: _Pick) -> Inference:
        indices = []
        log_p = log_q = x.new_zeros(len(x))
        for number, layer in enumerate(self._layers()):
            y, volume = layer.bijection.prepare(x, context)
            posterior = layer.posterior(y if layer.infer_from == "flow" else x, context)
            u = pick(number, posterior)
            x, more = layer.bijection.encode(y, u, context)
            log_p = log_p + volume + more + layer.prior(x, context).log_prob(u)
            log_q = log_q + posterior.log_prob(u)
            indices.append(u)
        if self.support_map is not None:
            x, volume = self.support_map.encode(x)
            log_p = log_p + volume
        log_p = log_p + self.prior.log_prob(x)
        return Inference(torch.cat(indices, dim=1), log_p, log_q, x)

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
        for layer in reversed(self._layers()):
            shape = (num, layer.prior.noise_features)
            noise = torch.randn(shape, generator=generator, dtype=z.dtype, device=z.device)
            u = layer.prior(z, context).draw(noise, temperature)
            z = layer.bijection.decode(z, u, context)
        return z

    def _layers(self) -> tuple[IndexedLayer, ...]:
        return tuple(self.layers)  # type: ignore[arg-type]
