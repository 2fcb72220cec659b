"""Masked affine autoregressive layer: each column scaled and shifted by those before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowzoo.interfaces import BaseFlow, Step
from flowzoo.layers.scale_bound import LOG_SCALE_BOUND, bound_log_scale, check_bound
from flowzoo.nets import MADE, Activation


class MaskedAffineAutoregressive(BaseFlow):
    r"""One layer of a masked autoregressive flow, Papamakarios et al. (2017), eq. 3-5.

    .. math:: z_i = (x_i - \mu_i(x_{<i}, c))\, e^{-\alpha_i(x_{<i}, c)}, \qquad
        \log|\det dz/dx| = -\sum_i \alpha_i

    mu and -alpha come from one MADE; -alpha = bound * tanh(raw / bound), so each factor lies in
    (e^-bound, e^bound). The MADE ends in a zero layer: the layer starts as the identity. Cost:
    ``encode`` one pass of the MADE, ``decode`` D passes.

    Args:
        features: D.
        hidden: hidden widths of the MADE.
        context_features: C; the context conditions every column, the first included.
        reverse: order the columns from last to first.
        activation: activation of the MADE.
        log_scale_bound: bound on |alpha|.

    Raises:
        ValueError: a width or bound that is not positive, or an unknown activation.

    Example:
        >>> import torch
        >>> layer = MaskedAffineAutoregressive(3, hidden=(16,))
        >>> x = torch.randn(4, 3)
        >>> torch.equal(layer.encode(x).value, x)  # identity at initialisation
        True
    """

    degrees: Tensor

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int],
        context_features: int = 0,
        reverse: bool = False,
        activation: Activation = "relu",
        log_scale_bound: float = LOG_SCALE_BOUND,
    ) -> None:
        super().__init__(features, context_features=context_features, fast="encode")
        self.log_scale_bound = check_bound(log_scale_bound)
        order = range(features, 0, -1) if reverse else range(1, features + 1)
        self.made = MADE(
            features,
            hidden=hidden,
            outputs=2,
            context_features=context_features,
            order=order,
            activation=activation,
            zero_last=True,
        )
        self.register_buffer("degrees", torch.tensor(list(order)))

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        mu, log_scale = self._shift_and_scale(x, context)
        return Step((x - mu) * log_scale.exp(), log_scale.sum(dim=1))

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        x = torch.zeros_like(z)
        log_scale = x
        for degree in range(1, self.features + 1):
            # Columns of lower degree are final, so those of this degree become so. Later ones stay
            # zero: what they would hold now could overflow, and 0 * inf in the masks is NaN.
            mu, log_scale = self._shift_and_scale(x, context)
            moved = z * (-log_scale).exp() + mu
            x = torch.where(self.degrees <= degree, moved, torch.zeros_like(z))
        return Step(x, log_scale.sum(dim=1))

    def _shift_and_scale(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """mu and -alpha, (N, D) each."""
        mu, raw = torch.split(self.made(x, context), self.features, dim=1)
        return mu, bound_log_scale(raw, self.log_scale_bound)
