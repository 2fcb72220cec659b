"""One line of what ``flowzoo doctor`` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What was looked at, and how it is.

    Attributes:
        level: ``ok``; ``note``, worth knowing but not wrong; or ``problem``.
        about: what was looked at.
        text: one plain line, with the way out where there is one.
    """

    level: Literal["ok", "note", "problem"]
    about: str
    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", " ".join(self.text.split()))


def ok(about: str, text: str) -> Finding:
    """As it should be."""
    return Finding("ok", about, text)


def note(about: str, text: str) -> Finding:
    """Worth knowing, but not wrong."""
    return Finding("note", about, text)


def problem(about: str, text: str) -> Finding:
    """Wrong."""
    return Finding("problem", about, text)
