"""Masked affine autoregressive layer: each column scaled and shifted by those before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowzoo.layers.masked_autoregressive import MaskedAutoregressive
from flowzoo.layers.scale_bound import LOG_SCALE_BOUND, bound_log_scale, check_bound
from flowzoo.nets import Activation


class MaskedAffineAutoregressive(MaskedAutoregressive):
    r"""One layer of a masked autoregressive flow, Papamakarios et al. (2017), eq. 3-5.

    .. math:: z_i = (x_i - \mu_i(x_{<i}, c))\, e^{-\alpha_i(x_{<i}, c)}, \qquad
        \log|\det dz/dx| = -\sum_i \alpha_i

    mu and -alpha come from one MADE; -alpha = bound * tanh(raw / bound), so each factor lies in
    (e^-bound, e^bound). The layer starts as the identity unless ``start`` > 0. Cost: ``encode``
    one pass of the MADE, ``decode`` D passes.

    Args:
        features: D.
        hidden: hidden widths of the MADE.
        context_features: C; the context conditions every column, the first included.
        reverse: order the columns from last to first.
        activation: activation of the MADE.
        log_scale_bound: bound on |alpha|.
        start: standard deviation of the weights of the MADE's last layer at the start.

    Raises:
        ValueError: a width or bound that is not positive, a negative ``start``, or an unknown
            activation.

    Example:
        >>> import torch
        >>> layer = MaskedAffineAutoregressive(3, hidden=(16,))
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
        activation: Activation = "relu",
        log_scale_bound: float = LOG_SCALE_BOUND,
        start: float = 0.0,
    ) -> None:
        super().__init__(
            features,
            hidden=hidden,
            outputs=2,
            context_features=context_features,
            reverse=reverse,
            activation=activation,
            start=start,
        )
        self.log_scale_bound = check_bound(log_scale_bound)

    def _move(self, value: Tensor, raw: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        mu, log_scale = self._shift_and_scale(raw)
        moved = value * (-log_scale).exp() + mu if inverse else (value - mu) * log_scale.exp()
        return moved, log_scale

    def _shift_and_scale(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """mu and -alpha, (N, D) each."""
        mu, raw_scale = torch.split(raw, self.features, dim=1)
        return mu, bound_log_scale(raw_scale, self.log_scale_bound)
