"""Masked autoregressive flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from flowzoo.interfaces import BaseFlow
from flowzoo.layers import MaskedAffineAutoregressive
from flowzoo.layers.scale_bound import LOG_SCALE_BOUND
from flowzoo.nets import Activation
from flowzoo.validation import check_positive
from flowzoo_plugins.base_flows.stack import Normalization, Stack


class MAF(Stack):
    r"""Masked affine autoregressive layers with batch-norm, Papamakarios et al. (2017).

    .. math:: \log p(x) = \log q(z) + \sum_l \log|\det J f^l(x^{l-1})|

    The column order is reversed from layer to layer, by the masks. ``encode`` costs one pass,
    ``decode`` D passes. The defaults are the preset of the VQ-Flows paper: 5 MADEs of 1 hidden
    layer of 128, ReLU. Its likely reference code applies two hidden activations at "1 hidden
    layer"; that reading is ``hidden=(128, 128)``.

    Args:
        features: D.
        context_features: C; the context enters every MADE.
        layers: number of MADEs.
        hidden: hidden widths of every MADE.
        normalization: "batch" or "none".
        momentum: of the batch-norm's running statistics (weight of the new batch).
        activation: activation of the MADEs.
        log_scale_bound: bound on each layer's |log-scale|.
        start: standard deviation of the weights that end each MADE, at the start. 0 starts as the
            identity. For two or more layers and standardised columns that are independent of
            each other and not Gaussian that is a saddle of the likelihood, which training may
            not leave; 0.01 leaves it.

    Raises:
        ValueError: an option out of range or of an unknown name.

    Example:
        >>> import torch
        >>> flow = MAF(3, layers=2, hidden=(16,)).eval()
        >>> x = torch.randn(4, 3)
        >>> torch.allclose(flow.decode(flow.encode(x).value).value, x, atol=1e-5)
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
        log_scale_bound: float = LOG_SCALE_BOUND,
        start: float = 0.0,
    ) -> None:
        mades: list[BaseFlow] = [
            MaskedAffineAutoregressive(
                features,
                hidden=hidden,
                context_features=context_features,
                reverse=index % 2 == 1,
                activation=activation,
                log_scale_bound=log_scale_bound,
                start=start,
            )
            for index in range(check_positive("layers", layers))
        ]
        super().__init__(mades, Normalization(normalization, momentum))
