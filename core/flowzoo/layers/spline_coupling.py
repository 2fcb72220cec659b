"""Rational-quadratic spline coupling."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flowzoo.interfaces import Step
from flowzoo.layers.coupling_base import Coupling
from flowzoo.layers.rational_quadratic import SplineShape, apply_spline, build_knots
from flowzoo.nets import MLP, Activation


class SplineCoupling(Coupling):
    r"""Coupling whose moved columns go through splines, Durkan et al. (2019), section 3.1.

    .. math:: z_a = x_a, \qquad z_{b,i} = g_{\theta_i(x_a, c)}(x_{b,i}), \qquad
        \log|\det dz/dx| = \sum_i \log g_{\theta_i}'(x_{b,i})

    with g monotone, rational-quadratic on [-B, B] and the identity outside, so data should have
    about unit scale. The net ends in a zero layer: the coupling starts as the identity. Both
    directions cost one pass.

    Args:
        features: D.
        hidden: hidden widths of the net.
        context_features: C, columns concatenated to the net's input.
        reverse: the last D - D // 2 columns pass instead of the first D // 2.
        activation: activation of the net.
        spline: bins, box and minimums.

    Raises:
        ValueError: a width that is not positive or an unknown activation.

    Example:
        >>> import torch
        >>> layer = SplineCoupling(3, hidden=(16, 16))
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
        super().__init__(features, context_features=context_features, reverse=reverse)
        self.spline = SplineShape() if spline is None else spline
        self.net = MLP(
            self.net_inputs,
            self.spline.outputs * self.moved_features,
            hidden=hidden,
            activation=activation,
            zero_last=True,
        )

    def _move(self, moved: Tensor, inputs: Tensor, inverse: bool) -> Step:
        knots = build_knots(self.net(inputs), self.spline)
        moved, log_slope = apply_spline(moved, knots, self.spline.tail_bound, inverse=inverse)
        return Step(moved, log_slope.sum(dim=1))
