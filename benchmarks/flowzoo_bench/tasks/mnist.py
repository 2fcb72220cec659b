"""MNIST and Fashion-MNIST: 70,000 grey images of 28 x 28 pixels in ten classes."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flowzoo_bench.data import files
from flowzoo_bench.data.fetch import read
from flowzoo_bench.data.idx import format_idx, parse_idx
from flowzoo_bench.tasks.images import (
    Bytes,
    ImageTask,
    Rows,
    check_bits,
    check_sizes,
    cut,
    quantize,
)

_PARTS = ("train", "t10k")
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
        unit: models see levels divided by their number instead of either.
        root: a folder to look for the files in, before any other. Like every option it is part of
            a run's identity; for results that do not depend on where a machine keeps its files,
            set ``FLOWZOO_DATA`` instead.
        download: fetch the files if they are nowhere on this machine; part of a run's identity
            too. Files that were fetched once are found without it.
        verify: whether the files must be the original ones; if not, those in ``root`` are taken,
            for another set in the same format: grey images of 28 x 28 pixels.

    Raises:
        ValueError: an option out of its range.
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
        unit: bool = False,
        root: str = "",
        download: bool = False,
        verify: bool = True,
    ) -> None:
        levels = 2 ** check_bits(bits)
        super().__init__((1, _SIDE, _SIDE), levels=levels, bits=bits, logit=logit, unit=unit)
        self.sizes = check_sizes(num_train, num_valid, num_test)
        self.root, self.download, self.verify = root, download, verify
        if not verify and not root:
            raise ValueError("root: expected a folder, for files that are not verified, got ''")

    def fingerprint(self) -> str:
        """Hash of the images and labels, where they are not the original ones; else empty."""
        if self.verify:
            return ""
        digest = hashlib.sha256()
        for array in self._load():
            digest.update(array.tobytes())
        return digest.hexdigest()[:16]

    def images(self) -> tuple[Bytes, NDArray[np.int64]]:
        """All images (70000, 784) and classes 0..9, the original training set first.

        Raises:
            DataNotFoundError: the files are not here; the message says how to get them.
            ValueError: a file that is found is damaged.
        """
        pixels, labels = self._load()
        return quantize(pixels, self.levels), labels

    def choose(self, rng: np.random.Generator, labels: NDArray[np.int64]) -> Rows:
        """A cut of a random order.

        Raises:
            ValueError: more images are asked for than there are.
        """
        if sum(self.sizes) > len(labels):
            raise ValueError(
                f"num_train + num_valid + num_test: expected at most {len(labels)}, "
                f"got {sum(self.sizes)}"
            )
        return cut(rng, len(labels), self.sizes)

    def _load(self) -> tuple[Bytes, NDArray[np.int64]]:
        if self.verify:
            return _verified(self.data.name, self.root, self.download)
        return _parsed(self.data, root=self.root, verify=False)


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
def _verified(name: str, root: str, download: bool) -> tuple[Bytes, NDArray[np.int64]]:
    """A set by name, not to be written to; wherever it is found it is the same."""
    data = next(one for one in files.KNOWN if one.name == name)
    found = _parsed(data, root=root, download=download)
    for array in found:
        array.flags.writeable = False
    return found


def _parsed(data: files.DataSet, **where: Any) -> tuple[Bytes, NDArray[np.int64]]:
    """8-bit pixels (N, 784) and labels (N,), the training set first."""
    images: list[Bytes] = []
    labels: list[Bytes] = []
    for part in _PARTS:
        for kind, found in (("images-idx3", images), ("labels-idx1", labels)):
            name = f"{part}-{kind}-ubyte.gz"
            found.append(parse_idx(read(data, name, **where), f"{data.name}: {name}"))
        shape = (len(labels[-1]), _SIDE, _SIDE)
        if images[-1].shape != shape or labels[-1].ndim != 1:
            raise ValueError(
                f"{data.name}: expected {part} images {shape}, one a label, got {images[-1].shape}"
            )
    pixels = np.concatenate(images).reshape(-1, _SIDE * _SIDE)
    return pixels, np.concatenate(labels).astype(np.int64)


def example_options(folder: Path) -> dict[str, Any]:
    """Options of a small task for the conformance checks, on files of noise in ``folder``."""
    rng = np.random.default_rng(0)
    for part, num in zip(_PARTS, (150, 50), strict=True):
        images = rng.integers(0, 256, (num, _SIDE, _SIDE), dtype=np.uint8)
        labels = rng.integers(0, 10, num, dtype=np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{part}-{name}-ubyte").write_bytes(format_idx(array))
    sizes = {"num_train": 120, "num_valid": 40, "num_test": 40}
    return {**sizes, "root": str(folder), "verify": False}
