"""Affine coupling: some columns pass unchanged and say how the others are scaled and shifted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowzoo.interfaces import BaseFlow, Step
from flowzoo.layers.scale_bound import LOG_SCALE_BOUND, bound_log_scale, check_bound
from flowzoo.nets import MLP, Activation


class AffineCoupling(BaseFlow):
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
        log_scale_bound: bound on |s|.

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
        log_scale_bound: float = LOG_SCALE_BOUND,
    ) -> None:
        super().__init__(features, context_features=context_features)
        self.split = features // 2
        self.reverse = reverse and features > 1
        self.log_scale_bound = check_bound(log_scale_bound)
        passing = features - self.split if self.reverse else self.split
        inputs = max(1, passing + context_features)
        self.scale_net = MLP(
            inputs,
            features - passing,
            hidden=hidden,
            activation=scale_activation,
            zero_last=True,
        )
        self.translation_net = MLP(
            inputs,
            features - passing,
            hidden=hidden,
            activation=translation_activation,
            zero_last=True,
        )

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        passing, moved = self._divide(x)
        log_scale, shift = self._scale_and_shift(passing, context)
        return Step(
            self._join(passing, torch.addcmul(shift, moved, log_scale.exp())), log_scale.sum(dim=1)
        )

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        passing, moved = self._divide(z)
        log_scale, shift = self._scale_and_shift(passing, context)
        return Step(self._join(passing, (moved - shift) * (-log_scale).exp()), log_scale.sum(dim=1))

    def _divide(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Passing and moved columns."""
        first, second = torch.split(value, [self.split, self.features - self.split], dim=1)
        return (second, first) if self.reverse else (first, second)

    def _join(self, passing: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([moved, passing] if self.reverse else [passing, moved], dim=1)

    def _scale_and_shift(self, passing: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        inputs = passing
        if context is not None:
            inputs = torch.cat([passing, context], dim=1)
        elif self.features == 1:
            inputs = passing.new_ones(len(passing), 1)
        log_scale = bound_log_scale(self.scale_net(inputs), self.log_scale_bound)
        return log_scale, self.translation_net(inputs)
