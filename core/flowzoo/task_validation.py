"""Checks on what a task says of its data: rows, levels, images, classes."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from flowzoo.interfaces.task import Splits, Task
from flowzoo.validation import check_finite, check_rows


def check_task_data(task: Task, seed: int) -> tuple[Splits, Splits | None]:
    """The rows of ``task.splits(seed)`` and their classes, if they are what the task promises.

    Raises:
        TypeError, ValueError: what the other checks here raise, or ``labels`` itself, as a
            ValueError.

    Example:
        >>> from flowzoo import build
        >>> splits, labels = check_task_data(build("task", "digits"), 0)
        >>> labels.train.shape == splits.train.shape[:1]
        True
    """
    check_description(task)
    splits = check_splits(task, task.splits(seed))
    try:
        labels = task.labels(seed)
    except Exception as error:
        said = " ".join(str(error).split())
        raise ValueError(f"task: labels: raised {type(error).__name__}: {said}") from error
    check_dimensions(task, check_labels(splits, labels))
    return splits, labels


def check_description(task: Task) -> None:
    """That the task's attributes fit each other: features, levels, bins, logit, shape, dimension.

    Raises:
        ValueError: they do not.
    """
    shape, levels, bits = task.shape, task.levels, task.bits
    if shape is not None and (
        not isinstance(shape, tuple)
        or len(shape) != 3
        or not all(_whole(size, 1) for size in shape)
        or prod(shape) != task.features
    ):
        raise ValueError(
            f"task: shape: expected None or (C, H, W) of {task.features} entries, got {shape!r}"
        )
    if levels is not None and not _whole(levels, 1):
        raise ValueError(f"task: levels: expected None or a positive integer, got {levels!r}")
    if bits is not None and (not _whole(bits, 1) or levels != 2**bits):
        raise ValueError(
            f"task: bits: expected None or b of levels = 2^b, got {bits!r} and levels {levels!r}"
        )
    if levels is not None and task.bin_width != 1:
        raise ValueError(
            f"task: bin_width: expected 1 for whole levels, which rows round down to, "
            f"got {task.bin_width!r}"
        )
    if task.unit and (levels is None or task.logit is not None or task.standardize):
        raise ValueError(
            f"task: unit: expected levels, without logit or standardising, got levels {levels!r}, "
            f"logit {task.logit!r}, standardize {task.standardize!r}"
        )
    if task.logit is not None and (levels is None or not 0 < task.logit < 0.5):
        raise ValueError(
            f"task: logit: expected None, or a number in (0, 0.5) beside levels, "
            f"got {task.logit!r} and levels {levels!r}"
        )
    if task.dimension is not None and not (
        _whole(task.dimension, 0) and task.dimension <= task.features
    ):
        raise ValueError(
            f"task: dimension: expected None or 0 to {task.features}, got {task.dimension!r}"
        )
    if task.dimensions is not None:
        if (
            not isinstance(task.dimensions, tuple)
            or not task.dimensions
            or not all(_whole(one, 0) and one <= task.features for one in task.dimensions)
        ):
            raise ValueError(
                f"task: dimensions: expected None or a tuple of 0 to {task.features}, "
                f"got {task.dimensions!r}"
            )
        if task.dimension is not None:
            raise ValueError(
                f"task: dimension: expected None beside dimensions, got {task.dimension!r}"
            )


def check_splits(task: Task, splits: Splits) -> Splits:
    """The splits, if they are finite rows (N, D), N >= 1, in [0, levels) where there are levels.

    Raises:
        TypeError: not three tensors.
        ValueError: a wrong shape or dtype, no rows, or a row that is not finite or not in there.
    """
    if not isinstance(splits, Splits):
        raise TypeError(f"task: splits: expected Splits, got {type(splits).__name__}")
    for name, rows in zip(splits._fields, splits, strict=True):
        where = f"task: {name} rows"
        if len(check_rows(where, rows, task.features)) == 0:
            raise ValueError(f"{where}: expected at least one, got none")
        check_finite(where, rows)
        if task.levels is not None:
            low, high = float(rows.min()), float(rows.max())
            if low < 0 or high >= task.levels:
                raise ValueError(
                    f"{where}: expected values in [0, {task.levels}), as levels says, "
                    f"got {low:g} to {high:g}"
                )
    return splits


def check_labels(splits: Splits, labels: Splits | None) -> Splits | None:
    """The labels, if they are None or one class >= 0 a row, int64.

    Raises:
        TypeError: neither None nor three tensors.
        ValueError: a wrong shape or dtype, or a class below 0.
    """
    if labels is None:
        return None
    if not isinstance(labels, Splits):
        raise TypeError(f"task: labels: expected Splits or None, got {type(labels).__name__}")
    for name, rows, classes in zip(splits._fields, splits, labels, strict=True):
        where = f"task: {name} labels"
        if not isinstance(classes, Tensor):
            raise TypeError(f"{where}: expected a torch.Tensor, got {type(classes).__name__}")
        if classes.shape != (len(rows),) or classes.dtype != torch.int64:
            raise ValueError(
                f"{where}: expected int64 of shape ({len(rows)},), one a row, "
                f"got {classes.dtype} {tuple(classes.shape)}"
            )
        if bool((classes < 0).any()):
            raise ValueError(f"{where}: expected classes 0, 1, ..., got {int(classes.min())}")
    return labels


def check_dimensions(task: Task, labels: Splits | None) -> None:
    """That each class of a union of manifolds is one of those ``task.dimensions`` lists.

    Raises:
        ValueError: a class beyond them, or no classes.
    """
    if task.dimensions is None:
        return
    if labels is None:
        raise ValueError("task: labels: expected the manifold of each row beside dimensions")
    most = max(int(classes.max()) for classes in labels)
    if most >= len(task.dimensions):
        raise ValueError(
            f"task: dimensions: expected one for each class, 0 to {most}, got {task.dimensions}"
        )


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
