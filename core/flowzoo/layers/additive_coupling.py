"""Additive coupling: the moved columns are shifted, which keeps volume."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flowzoo.interfaces import Step
from flowzoo.layers.coupling_base import Coupling
from flowzoo.nets import MLP, Activation


class AdditiveCoupling(Coupling):
    r"""Additive coupling, Dinh et al. (2014), eq. 9; volume preserving.

    .. math:: z_a = x_a, \qquad z_b = x_b + t(x_a, c), \qquad \log|\det dz/dx| = 0

    The net ends in a zero layer: the coupling starts as the identity. For D = 1 it is a shift, by
    a learned constant or a function of the context. Both directions cost one pass.

    Args:
        features: D.
        hidden: hidden widths of the net.
        context_features: C, columns concatenated to the net's input.
        reverse: the last D - D // 2 columns pass instead of the first D // 2.
        activation: activation of the net.

    Raises:
        ValueError: a width that is not positive or an unknown activation.

    Example:
        >>> import torch
        >>> AdditiveCoupling(2, hidden=(8,)).encode(torch.ones(1, 2)).log_abs_det
        tensor([0.])
    """

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int],
        context_features: int = 0,
        reverse: bool = False,
        activation: Activation = "relu",
    ) -> None:
        super().__init__(features, context_features=context_features, reverse=reverse)
        self.net = MLP(
            self.net_inputs,
            self.moved_features,
            hidden=hidden,
            activation=activation,
            zero_last=True,
        )

    def _move(self, moved: Tensor, inputs: Tensor, inverse: bool) -> Step:
        shift = self.net(inputs)
        return Step(moved - shift if inverse else moved + shift, moved.new_zeros(len(moved)))
