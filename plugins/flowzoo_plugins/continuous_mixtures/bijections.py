"""Families of bijections G(x; u), one map of R^D for each index u."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from flowzoo.interfaces import BaseFlow, Step
from flowzoo.layers.scale_bound import Bound, bound_log_scale
from flowzoo.nets import MLP, Activation
from flowzoo_plugins.continuous_mixtures.index import joined


class IndexedBijection(nn.Module, ABC):
    """G(.; u): what does not depend on u comes first, and once for all u.

    Attributes:
        features: D.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    @abstractmethod
    def prepare(self, x: Tensor, context: Tensor | None) -> Step:
        """The part of G that does not depend on u: y (N, D) and its volume term (N,)."""

    @abstractmethod
    def encode(self, y: Tensor, u: Tensor, context: Tensor | None) -> Step:
        """The rest: z (N, D) of y (N, D) and u (N, d_u), and its volume term (N,)."""

    @abstractmethod
    def decode(self, z: Tensor, u: Tensor, context: Tensor | None) -> Tensor:
        """x = G^{-1}(z; u), (N, D)."""


class Affine(IndexedBijection):
    r"""One flow scaled and shifted by functions of the index.

    .. math:: G(x; u) = e^{s(u)} \odot g(x) + t(u), \qquad
        \log|\det DG| = \log|\det Dg| + \sum_i s_i(u)

    Source: Cornish et al. (2020), eq. 6; without g, appendix C.

    Args:
        features: D.
        flow: g, of D columns; None for the identity.
        shift: the map of u (N, d_u) and context to raw s and t, (N, 2 D).
        log_scale_bound: b of s = b tanh(raw / b).
    """

    def __init__(
        self,
        features: int,
        flow: BaseFlow | None,
        shift: nn.Module,
        *,
        log_scale_bound: Bound = "none",
    ) -> None:
        super().__init__(features)
        self.flow = flow
        self.shift = shift
        self.log_scale_bound = log_scale_bound

    def prepare(self, x: Tensor, context: Tensor | None) -> Step:
        """g(x) and log|det Dg|."""
        if self.flow is None:
            return Step(x, x.new_zeros(len(x)))
        return self.flow.encode(x, context if self.flow.context_features else None)

    def encode(self, y: Tensor, u: Tensor, context: Tensor | None) -> Step:
        """e^s y + t and sum s."""
        s, t = self._scale_and_shift(u, context)
        return Step(y * s.exp() + t, s.sum(dim=1))

    def decode(self, z: Tensor, u: Tensor, context: Tensor | None) -> Tensor:
        """g^{-1}((z - t) e^{-s})."""
        s, t = self._scale_and_shift(u, context)
        y = (z - t) * (-s).exp()
        if self.flow is None:
            return y
        return self.flow.decode(y, context if self.flow.context_features else None).value

    def _scale_and_shift(self, u: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        raw, t = self.shift(joined(u, context)).chunk(2, dim=1)
        return bound_log_scale(raw, self.log_scale_bound), t


class Conditioned(IndexedBijection):
    """A conditional flow that takes the index as its context.

    Source: Cornish et al. (2020), appendix C.

    Args:
        flow: a flow with ``context_features`` of d_u plus those of the context.
    """

    def __init__(self, flow: BaseFlow) -> None:
        super().__init__(flow.features)
        self.flow = flow

    def prepare(self, x: Tensor, context: Tensor | None) -> Step:
        """x itself."""
        return Step(x, x.new_zeros(len(x)))

    def encode(self, y: Tensor, u: Tensor, context: Tensor | None) -> Step:
        """The flow under [u, context]."""
        return self.flow.encode(y, joined(u, context))

    def decode(self, z: Tensor, u: Tensor, context: Tensor | None) -> Tensor:
        """Its inverse under [u, context]."""
        return self.flow.decode(z, joined(u, context)).value


def scale_and_shift_net(
    features: int,
    index_features: int,
    *,
    hidden: Sequence[int],
    context_features: int = 0,
    activation: Activation = "tanh",
) -> MLP:
    """One network with heads s and t: (N, d_u + C) to (N, 2 D)."""
    return MLP(
        index_features + context_features, 2 * features, hidden=hidden, activation=activation
    )
