"""The coordinates models see, and what they do to a log-density."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from flowzoo.interfaces.task import Task
from flowzoo_bench.tasks.logit import Logit
from flowzoo_bench.tasks.standardize import Standardizer


class Coordinates(Protocol):
    """A smooth map z = f(x) of rows, with its inverse:

    .. math:: \\log p_X(x) = \\log p_Z(f(x)) + \\log |\\det f'(x)|
    """

    def encode(self, x: Tensor) -> Tensor:
        """x (N, D) in original units to z (N, D), in x's dtype and on its device."""

    def decode(self, z: Tensor) -> Tensor:
        """z (N, D) to x (N, D) in original units, in z's dtype and on its device."""

    def log_abs_det(self, x: Tensor) -> Tensor:
        """log|det dz/dx| at x (N, D) in original units, in nats: (N,) float64."""


def coordinates(task: Task, train: Tensor) -> Coordinates:
    """What models of ``task`` see: logit or share of levels, standardised data, or raw data.

    Raises:
        ValueError: the task asks for two of them, or for the logit of data without levels.
    """
    if task.logit is not None:
        if task.standardize:
            raise ValueError("logit: expected None for a task that standardises, got both")
        if task.levels is None:
            raise ValueError("levels: expected their number for a task with logit, got None")
        return Logit(task.logit, task.levels)
    if task.unit:
        if task.levels is None or task.standardize:
            raise ValueError("unit: expected a task with levels that does not standardise")
        return Standardizer.shared(task.features, float(task.levels))
    if task.standardize:
        return Standardizer.fit(train)
    return Standardizer.identity(task.features)


def changes_measure(task: Task) -> bool:
    """Whether densities against other than Lebesgue measure are unknown in original units.

    A surface is stretched by amounts that its log-density does not know of.
    """
    return task.standardize or task.unit or task.logit is not None
