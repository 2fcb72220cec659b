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
    """

    features: int
    standardize: bool = False
    oracle: Evaluation | None = None
    noise_scale: float | None = None
    bin_width: float | None = None

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
