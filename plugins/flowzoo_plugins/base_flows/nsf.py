"""Neural spline flows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from flowzoo.interfaces import BaseFlow
from flowzoo.layers import SplineAutoregressive, SplineCoupling, SplineShape
from flowzoo.nets import Activation
from flowzoo.validation import check_positive
from flowzoo_plugins.base_flows.stack import Normalization, Order, Stack, ordered


class NSFCoupling(Stack):
    r"""Rational-quadratic spline couplings with alternating halves, Durkan et al. (2019).

    .. math:: \log p(x) = \log q(z) + \sum_l \log|\det J f^l(x^{l-1})|

    A spline acts on [-B, B] and is the identity outside, so it wants data of unit scale: with
    ``normalization="batch"`` there is a batch-norm before the first layer and after each, and raw
    data are fine; with "none" the data should be standardised. Both directions cost one pass.

    Args:
        features: D.
        context_features: C; the context enters every net.
        layers: number of couplings.
        hidden: hidden widths of every net.
        order: which columns pass: "halves", first and last half in turn; "random", halves drawn
            anew for each pair of couplings; "rotation", halves after a learned rotation a pair.
        normalization: "batch" or "none".
        momentum: of the batch-norms' running statistics (weight of the new batch).
        activation: activation of the nets.
        num_bins: bins of each spline, at least 2.
        tail_bound: B, half-width of the splines' box.
        min_bin_size: smallest bin width and height, as a share of the box's side.
        min_derivative: smallest derivative at a knot.

    Raises:
        ValueError: an option out of range or of an unknown name.

    Example:
        >>> import torch
        >>> flow = NSFCoupling(3, layers=2, hidden=(16, 16)).eval()
        >>> step = flow.encode(torch.randn(4, 3))
        >>> step.value.shape, step.log_abs_det.shape
        (torch.Size([4, 3]), torch.Size([4]))
    """

    def __init__(
        self,
        features: int,
        *,
        context_features: int = 0,
        layers: int = 5,
        hidden: Sequence[int] = (128, 128),
        order: Order = "halves",
        normalization: Literal["batch", "none"] = "batch",
        momentum: float = 0.1,
        activation: Activation = "relu",
        num_bins: int = 8,
        tail_bound: float = 5.0,
        min_bin_size: float = 1e-3,
        min_derivative: float = 1e-3,
    ) -> None:
        spline = SplineShape(num_bins, tail_bound, min_bin_size, min_derivative)
        couplings: list[BaseFlow] = [
            SplineCoupling(
                features,
                hidden=hidden,
                context_features=context_features,
                reverse=index % 2 == 1,
                activation=activation,
                spline=spline,
            )
            for index in range(check_positive("layers", layers))
        ]
        super().__init__(
            ordered(couplings, order), Normalization(normalization, momentum), normalize_input=True
        )


class NSFAutoregressive(Stack):
    r"""Masked autoregressive rational-quadratic splines, Durkan et al. (2019).

    .. math:: \log p(x) = \log q(z) + \sum_l \log|\det J f^l(x^{l-1})|

    The column order is reversed from layer to layer, by the masks. ``encode`` costs one pass,
    ``decode`` D passes. On the splines' box and the batch-norms see ``NSFCoupling``.

    Args:
        features: D.
        context_features: C; the context enters every MADE.
        layers: number of MADEs.
        hidden: hidden widths of every MADE.
        normalization: "batch" or "none".
        momentum: of the batch-norms' running statistics (weight of the new batch).
        activation: activation of the MADEs.
        num_bins: bins of each spline, at least 2.
        tail_bound: B, half-width of the splines' box.
        min_bin_size: smallest bin width and height, as a share of the box's side.
        min_derivative: smallest derivative at a knot.

    Raises:
        ValueError: an option out of range or of an unknown name.

    Example:
        >>> import torch
        >>> flow = NSFAutoregressive(3, layers=2, hidden=(16,)).eval()
        >>> x = torch.randn(4, 3)
        >>> torch.allclose(flow.decode(flow.encode(x).value).value, x, atol=1e-4)
        True
    """

    def __init__(
        self,
        features: int,
        *,
        context_features: int = 0,
        layers: int = 5,
        hidden: Sequence[int] = (128,),
        normalization: Literal["batch", "none"] = "batch",
        momentum: float = 0.1,
        activation: Activation = "relu",
        num_bins: int = 8,
        tail_bound: float = 5.0,
        min_bin_size: float = 1e-3,
        min_derivative: float = 1e-3,
    ) -> None:
        spline = SplineShape(num_bins, tail_bound, min_bin_size, min_derivative)
        mades: list[BaseFlow] = [
            SplineAutoregressive(
                features,
                hidden=hidden,
                context_features=context_features,
                reverse=index % 2 == 1,
                activation=activation,
                spline=spline,
            )
            for index in range(check_positive("layers", layers))
        ]
        super().__init__(mades, Normalization(normalization, momentum), normalize_input=True)
