"""Affine coupling whose log-scales sum to zero."""

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


class VolumePreservingCoupling(Coupling):
    r"""Affine coupling that keeps volume, as in GIN, Sorrenson et al. (2020), section 3.2.

    .. math:: z_a = x_a, \quad z_b = x_b \odot e^{s(x_a, c) - \bar s(x_a, c)} + t(x_a, c),
        \quad \log|\det dz/dx| = 0

    with :math:`\bar s` the mean of s over the moved columns (GIN lets the last column's log-scale
    balance the others; the mean treats all alike, as Zhang et al. (2023), Spread Flows, eq. 42,
    does). s = bound * tanh(scale_net / bound), so a centred log-scale lies in (-2 bound, 2
    bound). With one moved column the centred scale is zero whatever s is: the coupling is additive,
    and has no scale net. That is D <= 2, and the smaller half of D = 3. Both nets end in a zero
    layer: the coupling starts as the identity. Both directions cost one pass.

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
        >>> layer = VolumePreservingCoupling(4, hidden=(8,))
        >>> x = torch.randn(3, 4)
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
        self.scale_net: MLP | None = None
        if self.moved_features > 1:
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
        shift = self.translation_net(inputs)
        no_change = moved.new_zeros(len(moved))
        if self.scale_net is None:
            return Step(moved - shift if inverse else moved + shift, no_change)
        log_scale = bound_log_scale(self.scale_net(inputs), self.log_scale_bound)
        log_scale = log_scale - log_scale.mean(dim=1, keepdim=True)
        if inverse:
            return Step((moved - shift) * (-log_scale).exp(), no_change)
        return Step(torch.addcmul(shift, moved, log_scale.exp()), no_change)
