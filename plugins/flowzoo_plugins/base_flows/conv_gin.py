"""Volume-preserving flow of images: couplings of channels, then of columns."""

from __future__ import annotations

from collections.abc import Sequence

from flowzoo.interfaces import BaseFlow
from flowzoo.layers import (
    AffineCoupling,
    Bound,
    ChannelPermutation,
    Composition,
    ConvCoupling,
    DownSampling,
    ImageShape,
    VolumePreservingCoupling,
)
from flowzoo.nets import Activation
from flowzoo.validation import check_positive
from flowzoo_plugins.base_flows.stack import Normalization, Stack


class ConvGIN(Stack):
    r"""The image flow of spread flows, Zhang et al. (2023), appendix C.1, tables 3 and 4.

    .. math:: (C, H, W) \to (4C, H/2, W/2) \xrightarrow{\text{conv}} \dots \to
        4^L C \cdot H/2^L \cdot W/2^L \xrightarrow{\text{fully connected}} z, \qquad
        \log|\det dz/dx| = 0

    Each scale starts with a down-sampling, then come its couplings of channels, with a random,
    fixed permutation of the channels after each but the last; couplings of all columns end the
    flow. The halves that pass alternate. With ``volume_preserving = false`` the log-scales are not
    centred and log|det dz/dx| is their sum: the paper's baseline, the same nets. ``layers()``
    returns one element per coupling. Images come flat: column (c H + h) W + w. Both directions cost
    one pass.

    The default bound on the log-scales is the tanh of the paper's public code; the paper has none.

    Args:
        features: D = C H W.
        shape: (C, H, W); H and W are divisible by 2 for each scale. One square channel when None.
        context_features: columns of the context, which enters every net.
        couplings: number of couplings of each scale.
        channels: channels inside the convolutional nets.
        kernels: widths of their convolutions.
        flat_couplings: number of couplings of all columns, 0 for none.
        hidden: hidden widths of their nets.
        activation: activation of every net.
        permute: permute channels between the couplings of a scale.
        volume_preserving: centre the log-scales.
        log_scale_bound: bound on the |log-scales| before they are centred; ``none`` for none.
        translation_bound: bound on the translations of the couplings of channels.
        flat_log_scale_bound: ``log_scale_bound`` of the couplings of all columns; the same when
            None.

    Raises:
        ValueError: a shape of other than D columns or with an odd side to be halved, no coupling,
            an option out of range.

    Example:
        >>> import torch
        >>> flow = ConvGIN(64, shape=(1, 8, 8), couplings=(2, 2), hidden=(24,))
        >>> flow.encode(torch.randn(2, 64)).log_abs_det
        tensor([0., 0.])
    """

    def __init__(
        self,
        features: int,
        *,
        shape: Sequence[int] | None = None,
        context_features: int = 0,
        couplings: Sequence[int] = (2, 2),
        channels: int = 16,
        kernels: Sequence[int] = (3, 3, 3),
        flat_couplings: int = 2,
        hidden: Sequence[int] = (24, 24, 24),
        activation: Activation = "leaky-relu-0.2",
        permute: bool = True,
        volume_preserving: bool = True,
        log_scale_bound: Bound = 1.0,
        translation_bound: Bound = "none",
        flat_log_scale_bound: Bound | None = None,
    ) -> None:
        size = ImageShape.square(features) if shape is None else ImageShape.of(shape)
        if size.features != features:
            raise ValueError(
                f"features: expected {size.features} for {tuple(size)}, got {features}"
            )
        if flat_couplings < 0 or not (couplings or flat_couplings):
            raise ValueError(
                f"couplings: expected at least one, got {list(couplings)} and flat_couplings = "
                f"{flat_couplings}"
            )
        flows: list[BaseFlow] = []
        for count in couplings:
            down = DownSampling(size)
            size = down.latent_shape
            for index in range(check_positive("couplings", count)):
                coupling = ConvCoupling(
                    size,
                    channels=channels,
                    kernels=kernels,
                    context_features=context_features,
                    reverse=index % 2 == 1,
                    activation=activation,
                    volume_preserving=volume_preserving,
                    log_scale_bound=log_scale_bound,
                    translation_bound=translation_bound,
                )
                parts: list[BaseFlow] = [coupling]
                if index == 0:
                    parts.insert(0, down)
                if permute and index < count - 1:
                    parts.append(ChannelPermutation(size, order="random"))
                flows.append(Composition(parts) if len(parts) > 1 else coupling)
        coupling_class = VolumePreservingCoupling if volume_preserving else AffineCoupling
        flows.extend(
            coupling_class(
                features,
                hidden=hidden,
                context_features=context_features,
                reverse=index % 2 == 1,
                scale_activation=activation,
                translation_activation=activation,
                log_scale_bound=(
                    log_scale_bound if flat_log_scale_bound is None else flat_log_scale_bound
                ),
            )
            for index in range(flat_couplings)
        )
        super().__init__(flows, Normalization("none", 0.1))
