"""The contract of a data set that methods are compared on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from flowzoo.interfaces.measure import Evaluation
from flowzoo.validation import check_positive


class Splits(NamedTuple):
    """Train, validation and test rows, each (N, D) float64, in the task's original units."""

    train: Tensor
    valid: Tensor
    test: Tensor


class Task(ABC):
    """A data set with its splits and, where the truth is known, its true density.

    Attributes:
        features: D.
        standardize: whether models see data scaled by training moments; scores are always
            reported in the original units.
        oracle: kind and measure of ``log_prob``; None when the truth is unknown.
        noise_scale: standard deviation of the noise around the support; None when there is none.
        bin_width: width of the integer bins of dequantised data in original units, which makes
            bits per dimension meaningful; None for continuous data.
        bits: of the levels of dequantised data, which lie in [0, 2^bits); None where there are
            none, or their number is no power of two. Bits per dimension compare at equal ``bits``.
        levels: number of integer levels of dequantised data, which lies in [0, levels); its
            ``bin_width`` is 1.
        logit: lambda, for data in [0, levels): models see logit(lambda + (1 - 2 lambda) x / levels)
            and scores are reported in the original units; None for no such map.
        unit: whether models see data in [0, levels) divided by levels, and scores are reported in
            the original units: one scale for all columns, however little some of them vary.
        shape: (C, H, W) of image rows, a pixel's column being (c H + h) W + w; None for others.
        dimension: of the manifold the data lie on or near, where it is known.
        dimensions: of each class's manifold, in the order of ``labels``, for a union of manifolds;
            ``dimension`` is then None.
    """

    features: int
    standardize: bool = False
    oracle: Evaluation | None = None
    noise_scale: float | None = None
    bin_width: float | None = None
    bits: int | None = None
    levels: int | None = None
    logit: float | None = None
    unit: bool = False
    shape: tuple[int, int, int] | None = None
    dimension: int | None = None
    dimensions: tuple[int, ...] | None = None

    def __init__(self, features: int) -> None:
        self.features = check_positive("features", features)

    @abstractmethod
    def splits(self, seed: int) -> Splits:
        """The splits of one replicate; equal seeds give equal data."""

    def fingerprint(self) -> str:
        """What tells apart data that the options do not determine, e.g. a file's hash; else empty.

        It is part of a run's identity: results on other data are never taken for these.
        """
        return ""

    def labels(self, seed: int) -> Splits | None:
        """Classes 0, 1, ... of the rows of ``splits(seed)``, (N,) int64 each; None without any."""
        return None

    def log_prob(self, x: Tensor) -> Tensor:
        """True log-density of x (N, D) in nats, (N,), against ``oracle.measure``.

        Raises:
            TypeError: the truth is unknown.
        """
        raise TypeError(f"{type(self).__name__} has no known density")

    def distance(self, x: Tensor) -> Tensor:
        """Distance of x (N, D) to the noiseless support, (N,).

        Raises:
            TypeError: the support is unknown.
        """
        raise TypeError(f"{type(self).__name__} has no known support")
