"""A standard deviation that falls while training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowzoo.options import check_options
from flowzoo.validation import check_number


@dataclass(frozen=True)
class Annealing:
    r"""``start`` until ``hold``, then falling geometrically to ``end``, reached at ``until``.

    ``hold`` and ``until`` are shares of the training, in [0, 1]. Zhang et al. (2023), section 5.1,
    multiply by 0.9 every so many steps and stop at a floor; this is the same without the steps.

    Raises:
        ValueError: a level that is negative, zero at one end only, or shares out of order.

    Example:
        >>> noise = Annealing.of({"start": 0.05, "end": 0.01, "hold": 0.5})
        >>> noise.at(0.25), round(noise.at(0.75), 4), noise.at(1.0)
        (0.05, 0.0224, 0.01)
    """

    start: float
    end: float
    hold: float = 0.0
    until: float = 1.0

    def __post_init__(self) -> None:
        for name in ("start", "end", "hold", "until"):
            check_number(name, getattr(self, name))
        if not 0.0 <= self.hold <= self.until <= 1.0:
            raise ValueError(
                f"hold, until: expected 0 <= hold <= until <= 1, got {self.hold}, {self.until}"
            )
        if (self.start == 0.0) != (self.end == 0.0):
            raise ValueError(
                f"start, end: expected both zero or none, got {self.start}, {self.end}"
            )

    @classmethod
    def of(cls, value: float | Mapping[str, Any] | Annealing, name: str = "noise") -> Annealing:
        """A constant level, or a table of the fields; ``end`` alone may be left out.

        Raises:
            ValueError: neither, an unknown key, or a value out of range.
        """
        if isinstance(value, Annealing):
            return value
        if not isinstance(value, Mapping):
            level = check_number(name, value)
            return cls(level, level)
        constant = {"end": value["start"]} if "start" in value else {}
        return cls(**check_options(cls, {**constant, **value}, name))

    def at(self, progress: float) -> float:
        """The standard deviation at a share ``progress`` of the training."""
        if progress >= self.until:
            return self.end
        if progress <= self.hold or self.start == self.end:
            return self.start
        share = (progress - self.hold) / (self.until - self.hold)
        return float(self.start ** (1.0 - share) * self.end**share)
