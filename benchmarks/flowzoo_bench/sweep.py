"""One method at several values of one option: how an experiment's ``sweep`` becomes methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SweepPoint:
    """One value of a swept option.

    Attributes:
        label: of the method at this value, e.g. ``kmeans num_charts=8``.
        family: the label of the method that is swept.
        option: dotted path into the method's options.
        value: the option's value.
    """

    label: str
    family: str
    option: str
    value: Any

    def into(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with the value set; ``options`` is left as it is.

        Raises:
            ValueError: the path leads through something that is not a table.
        """
        root = dict(options)
        table = root
        *path, last = self.option.split(".")
        for depth, name in enumerate(path):
            inner = table.get(name, {})
            if not isinstance(inner, Mapping):
                where = ".".join(path[: depth + 1])
                raise ValueError(
                    f"sweep {self.option!r}: expected a table at {where!r}, got {inner!r}"
                )
            table[name] = dict(inner)
            table = table[name]
        table[last] = self.value
        return root


def sweep_points(family: str, sweep: Mapping[str, list[Any]]) -> list[SweepPoint]:
    """The points of a sweep in order; none when nothing is swept.

    Raises:
        ValueError: more than one option, or values that are not distinct numbers or texts.
    """
    if len(sweep) > 1:
        raise ValueError(f"sweep: expected one option, got {sorted(sweep)}")
    found: list[SweepPoint] = []
    for option, values in sweep.items():
        name = option.rsplit(".", 1)[-1]
        if not all(option.split(".")):
            raise ValueError(f"sweep: expected an option such as 'layers' or 'a.b', got {option!r}")
        if not values:
            raise ValueError(f"sweep {option!r}: expected at least one value, got none")
        for value in values:
            if not isinstance(value, bool | int | float | str):
                raise ValueError(f"sweep {option!r}: expected numbers or texts, got {value!r}")
            found.append(SweepPoint(f"{family} {name}={value}", family, option, value))
    labels = [point.label for point in found]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"sweep: expected distinct values, got {label!r} more than once")
    return found
