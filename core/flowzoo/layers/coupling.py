"""Affine coupling: some columns pass unchanged and say how the others are scaled and shifted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowzoo.interfaces import Step
from flowzoo.layers.coupling_base import Coupling
from flowzoo.layers.scale_bound import (
    LOG_SCALE_BOUND,
    Bound,
    bound_log_scale,
    check_bound_or_none,
)
from flowzoo.nets import MLP, Activation


class AffineCoupling(Coupling):
    r"""Affine coupling with separate scale and translation nets, Dinh et al. (2017), eq. 4-8.

    With x_a the columns that pass and x_b the others,

    .. math:: z_a = x_a, \quad z_b = x_b \odot e^{s(x_a, c)} + t(x_a, c), \quad
        \log|\det dz/dx| = \sum s(x_a, c)

    s = bound * tanh(scale_net / bound), so each factor lies in (e^-bound, e^bound). Both nets end
    in a zero layer: the coupling starts as the identity. For D = 1 nothing passes: the nets see
    only the context, or a constant one where there is none.

    Args:
        features: D.
        hidden: hidden widths of both nets.
        context_features: C, columns concatenated to both nets' inputs.
        reverse: the last D - D // 2 columns pass instead of the first D // 2.
        scale_activation: activation of the scale net.
        translation_activation: activation of the translation net.
        log_scale_bound: bound on |s|; ``none`` for s = scale_net.

    Raises:
        ValueError: a width or bound that is not positive, or an unknown activation.

    Example:
        >>> import torch
        >>> layer = AffineCoupling(3, hidden=(16, 16))
        >>> x = torch.randn(4, 3)
        >>> torch.equal(layer.encode(x).value, x)  # identity at initialisation
        True
    """

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int],
        context_features: int = 0,
        reverse: bool = False,
        scale_activation: Activation = "tanh",
        translation_activation: Activation = "relu",
        log_scale_bound: Bound = LOG_SCALE_BOUND,
    ) -> None:
        super().__init__(features, context_features=context_features, reverse=reverse)
        self.log_scale_bound = check_bound_or_none(log_scale_bound)
        self.scale_net = MLP(
            self.net_inputs,
            self.moved_features,
            hidden=hidden,
            activation=scale_activation,
            zero_last=True,
        )
        self.translation_net = MLP(
            self.net_inputs,
            self.moved_features,
            hidden=hidden,
            activation=translation_activation,
            zero_last=True,
        )

    def _move(self, moved: Tensor, inputs: Tensor, inverse: bool) -> Step:
        log_scale = bound_log_scale(self.scale_net(inputs), self.log_scale_bound)
        shift = self.translation_net(inputs)
        if inverse:
            moved = (moved - shift) * (-log_scale).exp()
        else:
            moved = torch.addcmul(shift, moved, log_scale.exp())
        return Step(moved, log_scale.sum(dim=1))
