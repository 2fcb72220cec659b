"""Convolutional network that keeps the image's size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from flowzoo.nets.activations import Activation, build_activation
from flowzoo.validation import check_positive


class ConvNet(nn.Module):
    """Convolutions with an activation after each but the last: (N, in, H, W) to (N, out, H, W).

    Images are padded with zeros by half a kernel, so that they keep their size.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        channels: channels between the convolutions.
        kernels: width of each convolution's square kernel, odd.
        activation: name of the activation.
        zero_last: start the last convolution at zero, so that the net starts as the zero function.

    Raises:
        ValueError: a number of channels below 1, no kernel or an even one, an unknown activation.

    Example:
        >>> import torch
        >>> ConvNet(2, 4, channels=16, kernels=(3, 1, 3))(torch.zeros(5, 2, 8, 6)).shape
        torch.Size([5, 4, 8, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int,
        kernels: Sequence[int] = (3, 3, 3),
        activation: Activation = "relu",
        zero_last: bool = False,
    ) -> None:
        super().__init__()
        check_positive("channels", channels)
        kernels = tuple(kernels)
        if not kernels or any(check_positive("kernels", one) % 2 == 0 for one in kernels):
            raise ValueError(f"kernels: expected odd numbers, at least one, got {kernels}")
        widths = [
            check_positive("in_channels", in_channels),
            *[channels] * (len(kernels) - 1),
            check_positive("out_channels", out_channels),
        ]
        convolutions = [
            nn.Conv2d(a, b, kernel, padding=kernel // 2)
            for (a, b), kernel in zip(pairwise(widths), kernels, strict=True)
        ]
        if zero_last:
            for parameter in convolutions[-1].parameters():
                nn.init.zeros_(parameter)
        self.convolutions = nn.ModuleList(convolutions)
        self.activation = build_activation(activation)

    def forward(self, image: Tensor) -> Tensor:
        """The network's output, (N, out_channels, H, W)."""
        *first, last = self.convolutions
        for convolution in first:
            image = self.activation(convolution(image))
        out: Tensor = last(image)
        return out
