"""What a stage that watches its own numbers says of them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

from flowzoo.interfaces.stage import Watch
from flowzoo.training.results import StageResult

_NUMBER = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?")


class TrainingWarning(UserWarning):
    """A model's training looks wrong by its own numbers, for example by a collapse."""


def watch_stage(
    watch: Watch, result: StageResult, means: Mapping[str, float], member: int | None
) -> None:
    """Ask ``watch`` about an epoch's means; its message is warned and kept in ``result`` once.

    Args:
        watch: the stage's.
        result: of the member's stage, with the epoch in its curve.
        means: by name.
        member: its index in a pack; None alone.
    """
    message = watch(means)
    if message is None or _kind(message) in map(_kind, result.warnings):
        return
    _warn(message, result, member, f", epoch {result.epochs}")


def warn_of(said: object, result: StageResult, member: int | None) -> None:
    """Warn of the messages that a stage's ``prepare`` has returned, and keep them in ``result``."""
    if isinstance(said, list | tuple):
        for message in said:
            _warn(str(message), result, member, "")


def _warn(message: str, result: StageResult, member: int | None, when: str) -> None:
    result.warnings.append(message)
    who = "" if member is None else f"member {member}, "
    text = f"{who}stage {result.name!r}{when}: {message}"
    warnings.warn(text, TrainingWarning, stacklevel=3)


def _kind(message: str) -> str:
    """A message without its numbers, which change from epoch to epoch."""
    return _NUMBER.sub("#", message)
