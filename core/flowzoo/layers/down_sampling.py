"""Four neighbouring pixels as four channels of one pixel."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flowzoo.interfaces import BaseFlow, Step
from flowzoo.layers.image_shape import ImageShape


class DownSampling(BaseFlow):
    r"""Images (C, H, W) to (4 C, H / 2, W / 2), as in i-RevNet, Jacobsen et al. (2018), 3.1.

    .. math:: z_{(2 i + j) C + c,\, h,\, w} = x_{c,\, 2 h + i,\, 2 w + j},
        \qquad i, j \in \{0, 1\}, \qquad \log|\det dz/dx| = 0

    So the first C channels are the upper left pixels of all blocks of 2 x 2, then come the upper
    right, lower left and lower right ones. Images stay flat: column (c H + h) W + w.

    Args:
        shape: (C, H, W) of x, H and W even.

    Raises:
        ValueError: a shape that is none, or an odd height or width.

    Example:
        >>> import torch
        >>> DownSampling((1, 2, 4)).encode(torch.arange(8.0)[None]).value
        tensor([[0., 2., 1., 3., 4., 6., 5., 7.]])
    """

    def __init__(self, shape: Sequence[int]) -> None:
        image_shape = ImageShape.of(shape)
        channels, height, width = image_shape
        if height % 2 or width % 2:
            raise ValueError(f"shape: expected an even height and width, got {tuple(shape)}")
        super().__init__(image_shape.features)
        self.shape = image_shape
        self.latent_shape = ImageShape(4 * channels, height // 2, width // 2)

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        _, height, width = self.latent_shape
        blocks = x.reshape(len(x), self.shape.channels, height, 2, width, 2)
        z = blocks.permute(0, 3, 5, 1, 2, 4).reshape(len(x), self.features)
        return Step(z, x.new_zeros(len(x)))

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        _, height, width = self.latent_shape
        blocks = z.reshape(len(z), 2, 2, self.shape.channels, height, width)
        x = blocks.permute(0, 3, 4, 1, 5, 2).reshape(len(z), self.features)
        return Step(x, z.new_zeros(len(z)))
