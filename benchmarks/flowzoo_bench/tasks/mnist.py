"""MNIST and Fashion-MNIST: 70,000 grey images of 28 x 28 pixels in ten classes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from flowzoo_bench.data import files
from flowzoo_bench.data.fetch import is_here, read
from flowzoo_bench.data.idx import parse_idx
from flowzoo_bench.tasks.images import (
    Bytes,
    ImageTask,
    Rows,
    check_bits,
    check_sizes,
    cut,
    quantize,
)

_PARTS = (("train", 60_000), ("t10k", 10_000))
_TOTAL = 70_000
_SIDE = 28


class IdxTask(ImageTask):
    """What the sets in MNIST's format share; a subclass names the files.

    Training and test images are taken together, shuffled by the seed and cut, by default 60/20/20,
    as Cunningham, Zabounidis, Agrawal, Fiterau, Sheldon (2020) did.

    Args:
        bits: of the grey levels, 1 to 8; that paper's numbers are at 3.
        num_train: training images.
        num_valid: validation images.
        num_test: test images.
        logit: lambda of the logit that models see; 0 for data scaled by training moments instead.
        root: a folder to look for the files in, before any other.
        download: fetch the files if they are nowhere on this machine.

    Raises:
        ValueError: an option out of its range, or more images than there are.
    """

    data: ClassVar[files.DataSet]

    def __init__(
        self,
        *,
        bits: int = 8,
        num_train: int = 42_000,
        num_valid: int = 14_000,
        num_test: int = 14_000,
        logit: float | None = 0.05,
        root: str = "",
        download: bool = False,
    ) -> None:
        levels = 2 ** check_bits(bits)
        super().__init__((1, _SIDE, _SIDE), levels=levels, bits=bits, logit=logit)
        self.sizes = check_sizes(num_train, num_valid, num_test)
        if sum(self.sizes) > _TOTAL:
            raise ValueError(
                f"num_train + num_valid + num_test: expected at most {_TOTAL}, "
                f"got {sum(self.sizes)}"
            )
        self.root, self.download = root, download

    def images(self) -> tuple[Bytes, NDArray[np.int64]]:
        """All images (70000, 784) and classes 0..9, the original training set first.

        Raises:
            DataNotFoundError: the files are not here; the message says how to get them.
            ValueError: a file that is found is damaged.
        """
        pixels, labels = _load(self.data.name, self.root, self.download)
        return quantize(pixels, self.levels), labels

    def choose(self, rng: np.random.Generator, labels: NDArray[np.int64]) -> Rows:
        """A cut of a random order."""
        return cut(rng, _TOTAL, self.sizes)


class FashionMNIST(IdxTask):
    """70,000 articles of clothing (Xiao, Rasul, Vollgraf 2017), 28 x 28 grey; D = 784.

    See ``IdxTask`` for the options.
    """

    data = files.FASHION_MNIST


class MNIST(IdxTask):
    """70,000 handwritten digits (LeCun, Bottou, Bengio, Haffner 1998), 28 x 28 grey; D = 784.

    See ``IdxTask`` for the options.
    """

    data = files.MNIST


@lru_cache(maxsize=2)
def _load(name: str, root: str, download: bool) -> tuple[Bytes, NDArray[np.int64]]:
    """8-bit pixels (70000, 784) and labels, not to be written to."""
    data = next(one for one in files.KNOWN if one.name == name)

    def parsed(file: str) -> NDArray[np.uint8]:
        return parse_idx(read(data, f"{file}.gz", root=root, download=download))

    images = [parsed(f"{part}-images-idx3-ubyte") for part, _ in _PARTS]
    pixels = np.concatenate(images).reshape(_TOTAL, _SIDE * _SIDE)
    labels = np.concatenate([parsed(f"{part}-labels-idx1-ubyte") for part, _ in _PARTS])
    classes = labels.astype(np.int64)
    for array in (pixels, classes):
        array.flags.writeable = False
    return pixels, classes


def example_options(data: files.DataSet) -> dict[str, int]:
    """Options of a small task for the conformance checks.

    Raises:
        NotApplicable: the files are not on this machine, and checks download nothing.
    """
    if not is_here(data):
        from flowzoo.testing import NotApplicable

        raise NotApplicable(f"the files of {data.name} are not on this machine")
    return {"num_train": 300, "num_valid": 100, "num_test": 100}


def fashion_mnist_options(folder: Path) -> dict[str, int]:
    """``example_options`` of Fashion-MNIST."""
    return example_options(files.FASHION_MNIST)


def mnist_options(folder: Path) -> dict[str, int]:
    """``example_options`` of MNIST."""
    return example_options(files.MNIST)
