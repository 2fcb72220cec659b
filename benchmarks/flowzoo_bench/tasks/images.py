"""What image tasks share: grey levels, dequantisation, labels in step with the rows."""

from __future__ import annotations

from abc import abstractmethod
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowzoo.interfaces.task import Splits, Task
from flowzoo.validation import check_positive
from flowzoo_bench.tasks.checks import check_seed

Bytes = NDArray[np.uint8]
Rows = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
_CHUNK = 2**21  # numbers that are drawn at a time


class ImageTask(Task):
    """Images of integer levels 0 .. L-1, each entry dequantised to level + U[0, 1).

    With ``bits`` the levels are those of 8-bit images divided down, L = 2^bits:

    .. math:: \\mathrm{level} = \\lfloor \\mathrm{pixel} / 2^{8 - \\mathrm{bits}} \\rfloor

    A model's density integrated over a unit cube is the probability of an image, so bits per
    dimension are ``-log p(x) / (D ln 2)``, comparable between equal ``bits`` only. Rows are
    shuffled and the noise drawn anew for each seed; ``labels`` follow the rows.

    Models see ``logit(lambda + (1 - 2 lambda) x / L)`` (Dinh et al. 2017, section 4.1), with
    ``unit`` x / L or, without either, data scaled by training moments; scores are in levels always.

    Args:
        shape: (C, H, W); rows have C H W columns, a pixel's being (c H + h) W + w.
        levels: L.
        bits: log2 of L, where that is a whole number.
        logit: lambda in (0, 0.5); None or 0 for none.
        unit: x / L in place of the logit.
    """

    bin_width = 1.0
    levels: int

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        levels: int,
        bits: int | None,
        logit: float | None,
        unit: bool = False,
    ) -> None:
        super().__init__(prod(shape))
        self.shape, self.levels, self.bits = shape, levels, bits
        self.logit = None if unit else check_logit(logit)
        self.unit = unit
        self.standardize = self.logit is None and not unit

    @abstractmethod
    def images(self) -> tuple[Bytes, NDArray[np.int64]]:
        """All images as levels (N, D) and their labels (N,), in a fixed order."""

    @abstractmethod
    def choose(self, rng: np.random.Generator, labels: NDArray[np.int64]) -> Rows:
        """Which images are training, validation and test rows, in this order."""

    def splits(self, seed: int) -> Splits:
        """Shuffle, cut, dequantise: (N, D) float64 in [0, L)."""
        rng = np.random.default_rng(check_seed(seed))
        images, labels = self.images()
        return Splits(*(dequantize(images, rows, rng) for rows in self.choose(rng, labels)))

    def labels(self, seed: int) -> Splits:
        """Labels of the rows of ``splits(seed)``, (N,) int64 each."""
        rng = np.random.default_rng(check_seed(seed))
        _, labels = self.images()
        return Splits(*(torch.as_tensor(labels[rows]) for rows in self.choose(rng, labels)))


def dequantize(images: Bytes, rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
    """Levels (N, D) plus U[0, 1), of the rows named; floor gives the levels back.

    Example:
        >>> levels = np.array([[0, 7], [3, 255]], dtype=np.uint8)
        >>> x = dequantize(levels, np.array([1, 0]), np.random.default_rng(0))
        >>> x.floor()
        tensor([[  3., 255.],
                [  0.,   7.]], dtype=torch.float64)
    """
    x = np.empty((len(rows), images.shape[1]))
    step = max(1, _CHUNK // images.shape[1])
    for start in range(0, len(rows), step):  # a large set fits in memory only once
        levels = images[rows[start : start + step]].astype(np.float64)
        part = x[start : start + step]
        rng.random(out=part)
        part += levels
        # level + u rounds up to the next level if u is within 2^-48 of 1: keep the bin half-open
        np.minimum(part, np.nextafter(levels + 1, 0), out=part)
    return torch.as_tensor(x)


def quantize(images: Bytes, levels: int) -> Bytes:
    """8-bit values to levels 0 .. L-1 of equal width, L a power of two.

    Example:
        >>> quantize(np.array([0, 31, 32, 255], dtype=np.uint8), 8)
        array([0, 0, 1, 7], dtype=uint8)
    """
    return images // np.uint8(256 // levels) if levels < 256 else images


def cut(rng: np.random.Generator, total: int, sizes: tuple[int, int, int]) -> Rows:
    """Three random sets of so many of ``total`` rows, none in two of them."""
    order = rng.permutation(total)
    first, second, third = sizes
    return (
        order[:first],
        order[first : first + second],
        order[first + second : first + second + third],
    )


def check_sizes(num_train: int, num_valid: int, num_test: int) -> tuple[int, int, int]:
    """The three numbers of rows, each at least 1.

    Raises:
        ValueError: one is not.
    """
    return (
        check_positive("num_train", num_train),
        check_positive("num_valid", num_valid),
        check_positive("num_test", num_test),
    )


def check_bits(bits: int) -> int:
    """Return ``bits`` if it is one of 1..8.

    Raises:
        ValueError: it is not.
    """
    if check_positive("bits", bits) > 8:
        raise ValueError(f"bits: expected 1 to 8, got {bits!r}")
    return bits


def check_logit(logit: float | None) -> float | None:
    """Return lambda, None where there is none (None or 0).

    Raises:
        ValueError: no number in (0, 0.5).
    """
    if logit is None or (logit == 0 and not isinstance(logit, bool)):
        return None
    if isinstance(logit, bool) or not isinstance(logit, int | float) or not 0 < logit < 0.5:
        raise ValueError(f"logit: expected 0, None or a number in (0, 0.5), got {logit!r}")
    return float(logit)
