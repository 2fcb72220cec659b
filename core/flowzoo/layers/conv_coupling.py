"""Affine coupling of images: some channels say how the others are scaled and shifted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowzoo.interfaces import Step
from flowzoo.layers.coupling_base import Coupling
from flowzoo.layers.image_shape import ImageShape
from flowzoo.layers.scale_bound import (
    LOG_SCALE_BOUND,
    Bound,
    bound_log_scale,
    check_bound_or_none,
)
from flowzoo.nets import Activation, ConvNet


class ConvCoupling(Coupling):
    r"""Affine coupling of channels by one convolutional net, Zhang et al. (2023), eq. 40-42.

    With x_a the channels that pass, x_b the others, m of them, and p a pixel,

    .. math:: (s, t) = \mathrm{net}(x_a, c), \quad z_b = x_b \odot e^{\tilde s} + t, \quad
        \tilde s_{i, p} = s_{i, p} - \frac{1}{m} \sum_j s_{j, p}, \quad \log|\det dz/dx| = 0

    Taking the mean at each pixel keeps the volume of each pixel. Without ``volume_preserving``
    it is s itself that scales, and log|det dz/dx| is its sum. With one moved channel the centred
    scale is zero whatever s is: the net then has no outputs for s. A context is a constant image to
    the net. The net ends in a zero layer: the coupling starts as the identity. Images stay flat:
    column (c H + h) W + w. Both directions cost one pass.

    Args:
        shape: (C, H, W) of x and z, C >= 2.
        channels: channels inside the net.
        kernels: width of each of the net's convolutions.
        context_features: columns of the context.
        reverse: the last C - C // 2 channels pass instead of the first C // 2.
        activation: activation of the net.
        volume_preserving: centre the log-scales.
        log_scale_bound: bound b of s = b tanh(net / b), before it is centred; ``none`` for s = net.
        translation_bound: the same for t.

    Raises:
        ValueError: a shape that is none or of one channel, a bound that is not positive, an option
            of the net out of range.

    Example:
        >>> import torch
        >>> layer = ConvCoupling((4, 2, 3), channels=8)
        >>> x = torch.randn(5, 24)
        >>> torch.equal(layer.encode(x).value, x)  # identity at initialisation
        True
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        channels: int = 16,
        kernels: Sequence[int] = (3, 3, 3),
        context_features: int = 0,
        reverse: bool = False,
        activation: Activation = "relu",
        volume_preserving: bool = True,
        log_scale_bound: Bound = LOG_SCALE_BOUND,
        translation_bound: Bound = "none",
    ) -> None:
        image_shape = ImageShape.of(shape)
        count, height, width = image_shape
        if count < 2:
            raise ValueError(f"shape: expected at least 2 channels, got {tuple(shape)}")
        first = count // 2
        super().__init__(
            image_shape.features,
            context_features=context_features,
            reverse=reverse,
            split=first * height * width,
        )
        self.shape = image_shape
        self.passing_channels = count - first if reverse else first
        self.moved_channels = count - self.passing_channels
        self.volume_preserving = volume_preserving
        self.log_scale_bound = check_bound_or_none(log_scale_bound)
        self.translation_bound = check_bound_or_none(translation_bound, "translation_bound")
        self.scales = not volume_preserving or self.moved_channels > 1
        self.net = ConvNet(
            self.passing_channels + context_features,
            (2 if self.scales else 1) * self.moved_channels,
            channels=channels,
            kernels=kernels,
            activation=activation,
            zero_last=True,
        )

    def _move(self, moved: Tensor, inputs: Tensor, inverse: bool) -> Step:
        rows, volume = len(moved), moved.new_zeros(len(moved))
        raw = self.net(self._image(inputs))
        shift = raw[:, -self.moved_channels :].reshape(rows, self.moved_features)
        shift = bound_log_scale(shift, self.translation_bound)
        if not self.scales:
            return Step(moved - shift if inverse else moved + shift, volume)
        log_scale = bound_log_scale(raw[:, : self.moved_channels], self.log_scale_bound)
        if self.volume_preserving:
            log_scale = log_scale - log_scale.mean(dim=1, keepdim=True)
        log_scale = log_scale.reshape(rows, self.moved_features)
        if not self.volume_preserving:
            volume = log_scale.sum(dim=1)
        if inverse:
            return Step((moved - shift) * (-log_scale).exp(), volume)
        return Step(torch.addcmul(shift, moved, log_scale.exp()), volume)

    def _image(self, inputs: Tensor) -> Tensor:
        """What passes, and each context column as a constant channel, (N, channels, H, W)."""
        _, height, width = self.shape
        pixels = self.passing_channels * height * width
        image = inputs[:, :pixels].reshape(len(inputs), self.passing_channels, height, width)
        if not self.context_features:
            return image
        context = inputs[:, pixels:, None, None].expand(-1, -1, height, width)
        return torch.cat([image, context], dim=1)
