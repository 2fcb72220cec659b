"""RealNVP for flat data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from flowzoo.interfaces import BaseFlow
from flowzoo.layers import LOG_SCALE_BOUND, AffineCoupling, Bound
from flowzoo.nets import Activation
from flowzoo.validation import check_positive
from flowzoo_plugins.base_flows.stack import Normalization, Order, Stack, ordered


class RealNVP(Stack):
    r"""Affine couplings with alternating halves, Dinh et al. (2017), each followed by batch-norm.

    .. math:: \log p(x) = \log q(z) + \sum_l \log|\det J f^l(x^{l-1})|

    Both directions cost one pass. The defaults are the preset of the VQ-Flows paper: 5 couplings,
    nets of 2 hidden layers of 128, tanh in the scale net and ReLU in the translation net.

    Args:
        features: D.
        context_features: C; the context enters every net.
        layers: number of couplings.
        hidden: hidden widths of every net.
        order: which columns pass: "halves", first and last half in turn; "random", halves drawn
            anew for each pair of couplings; "rotation", halves after a learned rotation a pair.
        normalization: "batch" or "none".
        momentum: of the batch-norm's running statistics (weight of the new batch).
        scale_activation: activation of the scale nets.
        translation_activation: activation of the translation nets.
        log_scale_bound: bound on each coupling's |log-scale|; ``none`` for none.

    Raises:
        ValueError: an option out of range or of an unknown name.

    Example:
        >>> import torch
        >>> flow = RealNVP(3, layers=2, hidden=(16, 16)).eval()
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
        scale_activation: Activation = "tanh",
        translation_activation: Activation = "relu",
        log_scale_bound: Bound = LOG_SCALE_BOUND,
    ) -> None:
        couplings: list[BaseFlow] = [
            AffineCoupling(
                features,
                hidden=hidden,
                context_features=context_features,
                reverse=index % 2 == 1,
                scale_activation=scale_activation,
                translation_activation=translation_activation,
                log_scale_bound=log_scale_bound,
            )
            for index in range(check_positive("layers", layers))
        ]
        super().__init__(ordered(couplings, order), Normalization(normalization, momentum))
