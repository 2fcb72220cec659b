"""A real table with many rows that needs no download: neighbouring pixels of photos."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowzoo.interfaces.task import Splits, Task
from flowzoo.validation import check_positive
from flowzoo_bench.tasks.checks import check_seed
from flowzoo_bench.tasks.images import check_sizes
from flowzoo_bench.tasks.photos import PHOTOS, photo, photo_digest

_TILE = 32
_VALID, _TEST = 0.1, 0.2  # shares of the tiles
_LEVELS = 256
_GREY = np.array([299, 587, 114])  # luma of ITU-R BT.601, in thousandths


class PhotoPixels(Task):
    """Little squares of the photos of scikit-image as rows of a table, in colour or grey.

    A stand-in, of any size and offline, for the UCI tables: side 1 in colour has 3 columns, 2 has
    12; grey, 3 has 8 columns, 5 has 24, 7 has 48. Grey squares of side 8, the default, are made
    like BSDS300's (63 columns): levels with uniform noise U[0, 1) over 256, less the mean of the
    square, without the last pixel, which the others determine (Zoran, Weiss 2011; Uria, Murray,
    Larochelle 2013). Numbers do not compare with BSDS300's, whose photos are others. Grey is
    0.299 R + 0.587 G + 0.114 B, rounded to a level. Colours are levels with noise over 256, bins of
    width 1/256, so they have bits per dimension; columns are pixel by pixel and R, G, B.

    The photos are cut into tiles of 32 x 32 pixels, and the seed deals these out to training, 7 in
    10, validation, 1, and test, 2. Squares lie within a tile, so no pixel is in two splits, while
    each has parts of every kind of picture. Tiles side by side are alike at their border, as they
    are not if split by photo (the task ``patches`` does that). Squares of equal levels occur, in
    skies above all: the noise makes the density a bounded one there.

    Args:
        side: of a square, in pixels.
        grey: whether squares are grey, without their mean, or in colour.
        stride: pixels from one square to the next within a tile; None for half a side. Squares of
            one split overlap where it is less than the side.
        num_train: training rows, drawn from all squares there.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: an option out of its range; grey squares of one pixel.
    """

    standardize = True

    def __init__(
        self,
        *,
        side: int = 8,
        grey: bool = True,
        stride: int | None = None,
        num_train: int = 20_000,
        num_valid: int = 2_500,
        num_test: int = 5_000,
    ) -> None:
        if check_positive("side", side) > _TILE:
            raise ValueError(f"side: expected at most {_TILE}, got {side}")
        if not isinstance(grey, bool):
            raise ValueError(f"grey: expected true or false, got {grey!r}")
        if grey and side == 1:
            raise ValueError(
                "side: expected at least 2, for grey squares without their mean, got 1"
            )
        super().__init__(side**2 - 1 if grey else 3 * side**2)
        self.side, self.grey = side, grey
        self.stride = max(1, side // 2) if stride is None else check_positive("stride", stride)
        self.sizes = check_sizes(num_train, num_valid, num_test)
        self.bin_width = None if grey else 1.0 / _LEVELS

    def fingerprint(self) -> str:
        """Hash of the decoded photos: two decoders may round differently."""
        return photo_digest()

    def splits(self, seed: int) -> Splits:
        """Deal out the tiles, draw squares of each split's, add the noise.

        Raises:
            ImportError: scikit-image is not installed.
            ValueError: more rows are asked for than there are squares.
        """
        rng = np.random.default_rng(check_seed(seed))
        tiles = rng.permutation(_tiles(self.side))
        bounds = [round(len(tiles) * share) for share in (1.0 - _VALID - _TEST, 1.0 - _TEST)]
        parts = []
        for name, num, own in zip(Splits._fields, self.sizes, np.split(tiles, bounds), strict=True):
            corners = self._corners(own)
            if num > len(corners):
                raise ValueError(f"num_{name}: expected at most {len(corners)}, got {num}")
            parts.append(self._rows(rng, rng.permutation(corners)[:num]))
        return Splits(*parts)

    def _corners(self, tiles: NDArray[np.int64]) -> NDArray[np.int64]:
        """Photo, row and column (M, 3) of the squares within tiles."""
        found = []
        for which, top, left, height, width in tiles.tolist():
            rows, columns = (
                np.arange(start, start + size - self.side + 1, self.stride)
                for start, size in ((top, height), (left, width))
            )
            grid = np.stack(np.meshgrid([which], rows, columns, indexing="ij"), axis=-1)
            found.append(grid.reshape(-1, 3))
        return np.concatenate(found) if found else np.empty((0, 3), dtype=np.int64)

    def _rows(self, rng: np.random.Generator, corners: NDArray[np.int64]) -> Tensor:
        """The squares at the corners (M, 3), dequantised."""
        levels = squares(corners, self.side)
        if self.grey:
            x = (levels @ _GREY + 500) // 1000
        else:
            x = levels.reshape(len(levels), -1)
        x = (x + rng.random(x.shape)) / _LEVELS
        if self.grey:
            x = (x - x.mean(axis=1, keepdims=True))[:, :-1]
        return torch.as_tensor(x)


def _tiles(least: int) -> NDArray[np.int64]:
    """All tiles (T, 5) that so large a square fits into; those at an edge are smaller.

    Which photo, the first row and column, the numbers of both.
    """
    tiles = []
    for which, name in enumerate(PHOTOS):
        rows, columns, _ = photo(name).shape
        for top in range(0, rows, _TILE):
            for left in range(0, columns, _TILE):
                height, width = min(_TILE, rows - top), min(_TILE, columns - left)
                if min(height, width) >= least:
                    tiles.append((which, top, left, height, width))
    return np.array(tiles, dtype=np.int64)


def squares(corners: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Levels (M, side², 3) of the squares with these corners (M, 3): photo, row, column."""
    levels = np.empty((len(corners), side, side, 3), dtype=np.int64)
    within = np.arange(side)
    for which in np.unique(corners[:, 0]):
        (own,) = (corners[:, 0] == which).nonzero()
        rows = corners[own, 1, None, None] + within[:, None]
        columns = corners[own, 2, None, None] + within
        levels[own] = photo(PHOTOS[which])[rows, columns]
    return levels.reshape(len(corners), side**2, 3)
