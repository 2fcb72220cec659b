"""Intervals over replicates."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan, sqrt
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean and the half width of its t-interval.

    Attributes:
        mean: of the values.
        half_width: None for one value, NaN where a value is not finite.
        n: how many values.
    """

    mean: float
    half_width: float | None
    n: int

    @property
    def low(self) -> float | None:
        """Lower end, None for one value."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end, None for one value."""
        return None if self.half_width is None else self.mean + self.half_width


def mean_and_t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and Student-t interval: half width t(n - 1) s / sqrt(n), 2.776 s / sqrt(5) for n = 5.

    A non-finite value is not dropped: mean and half width say so.

    Args:
        values: one number a replicate.
        level: coverage, in (0, 1).

    Raises:
        ValueError: no values, or the level is not in (0, 1).

    Example:
        >>> mean_and_t_interval([1.0, 2.0, 3.0]).mean
        2.0
    """
    from scipy.special import stdtrit

    if not 0 < level < 1:
        raise ValueError(f"level: expected a number in (0, 1), got {level!r}")
    numbers = [float(value) for value in values]
    count = len(numbers)
    if count == 0:
        raise ValueError("values: expected at least one, got none")
    if not all(isfinite(number) for number in numbers):
        return Interval(sum(numbers) / count, None if count == 1 else nan, count)
    mean = sum(numbers) / count
    if count == 1:
        return Interval(mean, None, 1)
    variance = sum((number - mean) ** 2 for number in numbers) / (count - 1)
    quantile = float(stdtrit(count - 1, (1 + level) / 2))
    return Interval(mean, quantile * sqrt(variance / count), count)


def paired_difference(
    first: Sequence[float], second: Sequence[float], level: float = 0.95
) -> Interval:
    """Mean and t-interval of ``first[i] - second[i]``, i a replicate that both ran on.

    Raises:
        ValueError: different numbers of values, none, or the level is not in (0, 1).
    """
    if len(first) != len(second):
        raise ValueError(f"second: expected {len(first)} values, got {len(second)}")
    return mean_and_t_interval([a - b for a, b in zip(first, second, strict=True)], level)
