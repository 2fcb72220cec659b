"""Natural colour images: patches of the photos that scikit-image carries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flowzoo.validation import check_positive
from flowzoo_bench.tasks.images import (
    Bytes,
    ImageTask,
    Rows,
    check_bits,
    check_sizes,
    quantize,
)
from flowzoo_bench.tasks.photos import PHOTOS, photo, photo_digest


class Patches(ImageTask):
    """Colour patches of five photos in scikit-image, 25,689 of 32 x 32 pixels, dequantised.

    Patches overlap, so the splits share no photo: validation and test patches come from photos of
    their own, training patches from the others. Which patches of a photo are used, and their order,
    is drawn by the seed. Labels are the index of the photo in ``PHOTOS``. D = 3 size².

    Args:
        bits: of the levels of each colour, 1 to 8.
        size: height and width of a patch in pixels.
        stride: pixels from one patch to the next.
        num_train: training patches.
        num_valid: validation patches.
        num_test: test patches.
        valid_photos: where validation patches come from.
        test_photos: where test patches come from.
        logit: lambda of the logit that models see; 0 for data scaled by training moments instead.

    Raises:
        ValueError: an option out of its range, an unknown photo, one in two splits, or none left.
    """

    def __init__(
        self,
        *,
        bits: int = 8,
        size: int = 32,
        stride: int = 8,
        num_train: int = 10_000,
        num_valid: int = 1_500,
        num_test: int = 3_000,
        valid_photos: Sequence[str] = ("chelsea",),
        test_photos: Sequence[str] = ("coffee",),
        logit: float | None = 0.05,
    ) -> None:
        if check_positive("size", size) > 256:
            raise ValueError(f"size: expected at most 256, got {size}")
        self.size, self.stride = size, check_positive("stride", stride)
        self.sizes = check_sizes(num_train, num_valid, num_test)
        valid, test = _photos("valid_photos", valid_photos), _photos("test_photos", test_photos)
        if valid & test:
            raise ValueError(f"test_photos: expected none of {sorted(valid)}, got {sorted(test)}")
        train = set(PHOTOS) - valid - test
        if not train:
            raise ValueError("test_photos: expected a photo left to train on, got all of them")
        self.photos = (train, valid, test)
        levels = 2 ** check_bits(bits)
        super().__init__((3, size, size), levels=levels, bits=bits, logit=logit)

    def fingerprint(self) -> str:
        """Hash of the decoded photos: two decoders may round differently."""
        return photo_digest()

    def images(self) -> tuple[Bytes, NDArray[np.int64]]:
        """All patches (N, 3 size²), photo by photo and row by row, and their photos' indices.

        Raises:
            ImportError: scikit-image is not installed.
        """
        cut = [self._cut(photo(name)) for name in PHOTOS]
        labels = np.repeat(np.arange(len(PHOTOS)), [len(patches) for patches in cut])
        return quantize(np.concatenate(cut), self.levels), labels

    def choose(self, rng: np.random.Generator, labels: NDArray[np.int64]) -> Rows:
        """So many patches of each split's photos, in random order.

        Raises:
            ValueError: the photos have fewer.
        """
        chosen = []
        for name, num, photos in zip(
            ("train", "valid", "test"), self.sizes, self.photos, strict=True
        ):
            (rows,) = np.isin(labels, [PHOTOS.index(photo) for photo in photos]).nonzero()
            if num > len(rows):
                raise ValueError(
                    f"num_{name}: expected at most {len(rows)}, the patches of "
                    f"{', '.join(sorted(photos))}, got {num}"
                )
            chosen.append(rng.permutation(rows)[:num])
        train, valid, test = chosen
        return train, valid, test

    def _cut(self, photo: Bytes) -> Bytes:
        """Patches of a photo (H, W, 3), each with its colours one after another."""
        windows = np.lib.stride_tricks.sliding_window_view(photo, (self.size, self.size), (0, 1))
        patches = windows[:: self.stride, :: self.stride]  # (rows, columns, 3, size, size)
        return patches.reshape(-1, 3 * self.size**2)


def _photos(name: str, given: Sequence[str]) -> set[str]:
    if isinstance(given, str) or not given or not set(given) <= set(PHOTOS):
        raise ValueError(f"{name}: expected some of {list(PHOTOS)}, got {given!r}")
    return set(given)
