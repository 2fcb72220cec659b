"""Rows of pixels as images, and images as a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isqrt, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo_bench.records import DataInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

NOT_FINITE = (1.0, 0.0, 1.0)
"""Colour of a pixel that is no number: none that a grey image has."""


@dataclass(frozen=True)
class Pixels:
    """How a row is an image.

    Attributes:
        shape: (C, H, W); three channels are red, green, blue, of other numbers the mean is shown.
        levels: of integer data, whose dequantisation noise is taken off before it is shown.
        low, high: values of black and white for data whose levels are not known.
    """

    shape: tuple[int, int, int]
    levels: int | None
    low: float
    high: float

    @classmethod
    def of(cls, info: DataInfo | None, data: Array) -> Pixels | None:
        """From a record; None where rows are no images. Records without a shape mean squares."""
        width, shape = data.shape[1], None if info is None else info.shape
        if info is None or (shape is not None and prod(shape) != width):
            return None
        if shape is None:
            side = isqrt(width)
            if not info.bin_width or side * side != width or side < 4:
                return None
            shape = (1, side, side)
        finite = data[np.isfinite(data)]
        low, high = np.quantile(finite, [0.01, 0.99]) if finite.size else (0.0, 1.0)
        return cls(shape, info.levels, float(low), float(high))

    def images(self, x: Array) -> Array:
        """Rows (N, D) as red, green and blue in [0, 1], (N, H, W, 3)."""
        finite = np.isfinite(x)
        held = np.where(finite, x, 0.0).astype(np.float64)
        if self.levels is not None:
            shade = np.floor(held) / max(self.levels - 1, 1)
        else:
            shade = (held - self.low) / max(self.high - self.low, 1e-12)
        shade = np.clip(shade, 0.0, 1.0).reshape(-1, *self.shape)
        if self.shape[0] != 3:
            shade = np.repeat(shade.mean(axis=1, keepdims=True), 3, axis=1)
        picture = np.moveaxis(shade, 1, -1)
        broken = ~finite.reshape(-1, *self.shape).all(axis=1)
        picture[broken] = NOT_FINITE
        return picture


def sheet(images: Array, columns: int, gap: int = 1) -> Array:
    """Images (N, H, W, 3) row by row on white, ``gap`` pixels apart, (height, width, 3)."""
    count, height, width, _ = images.shape
    rows = max(1, ceil(count / columns))
    page = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        page[top : top + height, left : left + width] = image
    return page


def draw_sheet(axes: Any, images: Array, columns: int, names: Sequence[str] = ()) -> None:
    """The sheet on these axes; ``names`` stand left of its rows."""
    axes.imshow(sheet(images, columns), interpolation="nearest")
    if not names:
        axes.set_axis_off()
        return
    step = images.shape[1] + 1
    axes.set_yticks([step * i + (step - 2) / 2 for i in range(len(names))], names, fontsize=7)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
