"""Masked autoregressive layer of rational-quadratic splines."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flowzoo.layers.masked_autoregressive import MaskedAutoregressive
from flowzoo.layers.rational_quadratic import SplineShape, apply_spline, build_knots
from flowzoo.nets import Activation


class SplineAutoregressive(MaskedAutoregressive):
    r"""Every column goes through a spline chosen by those before it, Durkan et al. (2019).

    .. math:: z_i = g_{\theta_i(x_{<i}, c)}(x_i), \qquad
        \log|\det dz/dx| = \sum_i \log g_{\theta_i}'(x_i)

    with g monotone, rational-quadratic on [-B, B] and the identity outside, so data should have
    about unit scale. The 3 K - 1 parameters a column come from one MADE, which ends in a zero
    layer: the layer starts as the identity. Cost: ``encode`` one pass of the MADE, ``decode`` D
    passes.

    Args:
        features: D.
        hidden: hidden widths of the MADE.
        context_features: C; the context conditions every column, the first included.
        reverse: order the columns from last to first.
        activation: activation of the MADE.
        spline: bins, box and minimums.

    Raises:
        ValueError: a width that is not positive or an unknown activation.

    Example:
        >>> import torch
        >>> layer = SplineAutoregressive(3, hidden=(16,))
        >>> x = 3 * torch.randn(4, 3)
        >>> torch.allclose(layer.encode(x).value, x, atol=1e-5)  # identity at initialisation
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
        spline: SplineShape | None = None,
    ) -> None:
        spline = SplineShape() if spline is None else spline
        super().__init__(
            features,
            hidden=hidden,
            outputs=spline.outputs,
            context_features=context_features,
            reverse=reverse,
            activation=activation,
        )
        self.spline = spline

    def _move(self, value: Tensor, raw: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        knots = build_knots(raw, self.spline)
        return apply_spline(value, knots, self.spline.tail_bound, inverse=inverse)
