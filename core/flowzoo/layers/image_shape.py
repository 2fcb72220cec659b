"""The sizes of an image that is kept as one row of columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from flowzoo.validation import check_positive


class ImageShape(NamedTuple):
    """(C, H, W); the column of a pixel is ``(c H + h) W + w``."""

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, shape: Sequence[int]) -> ImageShape:
        """``shape`` as (C, H, W).

        Raises:
            ValueError: it is not three positive integers.
        """
        if isinstance(shape, str) or len(shape) != 3:
            raise ValueError(f"shape: expected (C, H, W), got {shape!r}")
        return cls(*(check_positive("shape", size) for size in shape))

    @classmethod
    def square(cls, features: int) -> ImageShape:
        """(1, S, S) of so many columns.

        Raises:
            ValueError: they are no square number.
        """
        side = math.isqrt(check_positive("features", features))
        if side * side != features:
            raise ValueError(f"shape: expected (C, H, W), as {features} columns are no grey square")
        return cls(1, side, side)

    @property
    def features(self) -> int:
        """C H W, the number of columns."""
        return self.channels * self.height * self.width

    def image(self, rows: Tensor) -> Tensor:
        """Rows (N, C H W) as images (N, C, H, W)."""
        return rows.reshape(len(rows), *self)
