"""Checks on task options; every message says what was expected and what came."""

from __future__ import annotations

from math import isfinite


def check_noise(noise: float) -> float:
    """Return ``noise`` as a float if it is a finite number of at least 0.

    Raises:
        ValueError: it is not.
    """
    if isinstance(noise, bool) or not isinstance(noise, int | float):
        raise ValueError(f"noise: expected a number >= 0, got {noise!r}")
    if not isfinite(noise) or noise < 0:
        raise ValueError(f"noise: expected a finite number >= 0, got {noise!r}")
    return float(noise)


def check_seed(seed: int) -> int:
    """Return ``seed`` if it is an integer of at least 0.

    Raises:
        ValueError: it is not.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed: expected an integer >= 0, got {seed!r}")
    return seed


def split_sizes(total: int, valid_fraction: float, test_fraction: float) -> tuple[int, int, int]:
    """Rows of train, validation and test; the fractions are rounded, training takes the rest.

    Raises:
        ValueError: a fraction is not in (0, 1), or a split would be empty.
    """
    for name, value in (("valid_fraction", valid_fraction), ("test_fraction", test_fraction)):
        if isinstance(value, bool) or not 0 < value < 1:
            raise ValueError(f"{name}: expected a number in (0, 1), got {value!r}")
    valid, test = round(total * valid_fraction), round(total * test_fraction)
    sizes = (total - valid - test, valid, test)
    if min(sizes) < 1:
        raise ValueError(
            f"valid_fraction, test_fraction: expected at least one row in each split, "
            f"got {sizes} of {total} rows"
        )
    return sizes
