"""Checks on what a caller passes in; every message says what was expected and what came."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor


def check_rows(name: str, value: object, features: int, like: Tensor | None = None) -> Tensor:
    """Return ``value`` if it is a floating tensor of shape (N, features).

    Args:
        name: the argument's name, used in the message.
        value: what the caller passed.
        features: the expected number of columns.
        like: a tensor whose dtype and device ``value`` must share.

    Raises:
        TypeError: ``value`` is not a tensor.
        ValueError: wrong shape, dtype or device.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.ndim != 2 or value.shape[1] != features:
        raise ValueError(f"{name}: expected shape (N, {features}), got {tuple(value.shape)}")
    if not value.is_floating_point():
        raise ValueError(f"{name}: expected a floating dtype, got {value.dtype}")
    if like is not None:
        if value.dtype != like.dtype:
            raise ValueError(f"{name}: expected dtype {like.dtype}, got {value.dtype}")
        if value.device != like.device:
            raise ValueError(f"{name}: expected device {like.device}, got {value.device}")
    return value


def check_finite(name: str, value: Tensor) -> Tensor:
    """Return ``value`` (N, D) if every entry is finite; not usable under vmap.

    Raises:
        ValueError: some row holds NaN or infinity; the message counts them and names the first.
    """
    bad = ~torch.isfinite(value).flatten(1).all(dim=1)
    if value.device.type != "meta" and bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"{name}: expected finite values, got NaN or infinity in {int(bad.sum())} of "
            f"{len(value)} rows (first: row {first})"
        )
    return value


def check_context(context: Tensor | None, context_features: int, rows: int) -> Tensor | None:
    """Return ``context`` if it is None where none is taken, else (N, context_features).

    Raises:
        ValueError: context missing, unexpected, or of the wrong shape.
    """
    if context_features == 0:
        if context is not None:
            raise ValueError(
                f"context: expected None (context_features=0), got shape {tuple(context.shape)}"
            )
        return None
    if context is None:
        raise ValueError(f"context: expected shape ({rows}, {context_features}), got None")
    if context.shape != (rows, context_features):
        raise ValueError(
            f"context: expected shape ({rows}, {context_features}), got {tuple(context.shape)}"
        )
    return context


def check_chart(chart: Tensor | None, num_charts: int | None, rows: int) -> Tensor | None:
    """Return ``chart`` if it is None where no charts are declared, else int64 of shape (N,).

    Raises:
        ValueError: chart missing, unexpected, or of the wrong shape or dtype.
    """
    if num_charts is None:
        if chart is not None:
            raise ValueError("chart: expected None (the flow declares no charts), got a tensor")
        return None
    if chart is None:
        raise ValueError(f"chart: expected int64 of shape ({rows},), got None")
    if chart.shape != (rows,) or chart.dtype != torch.int64:
        raise ValueError(
            f"chart: expected int64 of shape ({rows},), got {chart.dtype} {tuple(chart.shape)}"
        )
    return chart


def check_number(
    name: str, value: float, *, least: float = 0.0, most: float = math.inf, strict: bool = False
) -> float:
    """Return ``value`` as a float if it is finite, at least ``least`` and at most ``most``.

    Args:
        name: the argument's name, used in the message.
        value: what the caller passed.
        least: smallest value allowed.
        most: largest value allowed.
        strict: whether ``least`` itself is not allowed.

    Raises:
        ValueError: it is not, or no number at all.
    """
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not least <= value <= most or (strict and value == least):
        wanted = f"a finite number {'>' if strict else '>='} {least:g}"
        if most != math.inf:
            wanted = f"a number in {'(' if strict else '['}{least:g}, {most:g}]"
        raise ValueError(f"{name}: expected {wanted}, got {value!r}")
    return float(value)


def check_draw(num: int, temperature: float) -> None:
    """Check the arguments of a density model's ``sample``.

    Raises:
        ValueError: ``num`` is no count, or ``temperature`` is not positive and finite.
    """
    if isinstance(num, bool) or not isinstance(num, int) or num < 0:
        raise ValueError(f"num: expected >= 0, an integer, got {num!r}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature: expected > 0 and finite, got {temperature}")


def check_step(step: object, rows: int, features: int, owner: str) -> None:
    """Check what a flow's direction returned: a value (N, features) and a volume term (N,).

    Raises:
        TypeError: not a pair of tensors.
        ValueError: wrong shapes.
    """
    if (
        not isinstance(step, tuple)
        or len(step) != 2
        or not all(isinstance(t, Tensor) for t in step)
    ):
        raise TypeError(
            f"{owner}: expected Step(value, log_abs_det) of tensors, got {type(step).__name__}"
        )
    value, log_abs_det = step
    if value.shape != (rows, features) or log_abs_det.shape != (rows,):
        raise ValueError(
            f"{owner}: expected shapes ({rows}, {features}) and ({rows},), "
            f"got {tuple(value.shape)} and {tuple(log_abs_det.shape)}"
        )


def check_positive(name: str, value: int) -> int:
    """Return ``value`` if it is an integer of at least 1.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")
    return value
