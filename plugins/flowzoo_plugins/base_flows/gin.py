"""Volume-preserving flow of affine couplings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from flowzoo.interfaces import BaseFlow
from flowzoo.layers import LOG_SCALE_BOUND, Bound, Composition, VolumePreservingCoupling
from flowzoo.nets import Activation
from flowzoo.validation import check_positive
from flowzoo_plugins.base_flows.stack import Normalization, Order, Stack, ordered

Couplings = Literal["both", "single"]


class GIN(Stack):
    r"""Blocks of two volume-preserving couplings, Sorrenson et al. (2020), section 3.2.

    .. math:: z_b = x_b \odot e^{s - \bar s} + t \text{ in each coupling}, \qquad
        \log|\det dz/dx| = 0

    A block moves one half of the columns by the other, then the other by the first; ``layers()``
    returns one element per block. With ``couplings = "single"`` it moves one half only, and the
    next block the other, as in Zhang et al. (2023), tables 1 and 2. A coupling that moves a single
    column is additive (see ``VolumePreservingCoupling``): for D <= 2 this flow is NICE with as many
    couplings, and for D = 3 every other coupling scales. No batch-norm stands between the
    couplings, as it changes volume. Both directions cost one pass.

    Args:
        features: D.
        context_features: C; the context enters every net.
        layers: number of blocks.
        hidden: hidden widths of every net.
        scale_activation: activation of the scale nets.
        translation_activation: activation of the translation nets.
        log_scale_bound: bound on each coupling's |log-scale| before the mean is taken off; ``none``
            for none.
        order: which columns pass: "halves", first and last half in turn; "random", halves drawn
            anew for each block; "rotation", halves after a learned rotation a block (each pair of
            them, where a block is a single coupling).
        couplings: "both" halves move in a block, or a "single" one.

    Raises:
        ValueError: an option out of range or of an unknown name.

    Example:
        >>> import torch
        >>> GIN(4, layers=2, hidden=(16,)).encode(torch.randn(2, 4)).log_abs_det
        tensor([0., 0.])
    """

    def __init__(
        self,
        features: int,
        *,
        context_features: int = 0,
        layers: int = 5,
        hidden: Sequence[int] = (128, 128),
        scale_activation: Activation = "tanh",
        translation_activation: Activation = "relu",
        log_scale_bound: Bound = LOG_SCALE_BOUND,
        order: Order = "halves",
        couplings: Couplings = "both",
    ) -> None:
        if couplings not in get_args(Couplings):
            raise ValueError(f"couplings: expected one of {get_args(Couplings)}, got {couplings!r}")
        single = couplings == "single"
        moves: list[BaseFlow] = [
            VolumePreservingCoupling(
                features,
                hidden=hidden,
                context_features=context_features,
                reverse=index % 2 == 1,
                scale_activation=scale_activation,
                translation_activation=translation_activation,
                log_scale_bound=log_scale_bound,
            )
            for index in range(check_positive("layers", layers) * (1 if single else 2))
        ]
        if not single:
            moves = [Composition(pair) for pair in zip(moves[::2], moves[1::2], strict=True)]
        super().__init__(
            ordered(moves, order, every=2 if single else 1), Normalization("none", 0.1)
        )
