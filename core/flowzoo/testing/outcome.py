"""What a conformance check is, and how it can end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from flowzoo.testing.subject import Subject

Level = Literal["quick", "full"]
LEVELS: tuple[Level, ...] = get_args(Level)

Status = Literal["passed", "failed", "skipped", "expected failure", "unexpected pass"]
GOOD: frozenset[Status] = frozenset({"passed", "skipped", "expected failure"})


class CheckFailed(AssertionError):
    """A plugin breaks the contract; the message says where and by how much."""


class NotApplicable(Exception):
    """A check has nothing to look at here; the message says why."""


@dataclass(frozen=True)
class Check:
    """One named check of one plugin; calling it raises where the plugin breaks the contract.

    Attributes:
        name: what it proves, e.g. ``round-trip``.
        subject: the plugin under check.
        run: the check itself.
        reason: why the plugin declares that it fails; empty for one that must pass.
    """

    name: str
    subject: Subject
    run: Callable[[Subject], None]
    reason: str = ""

    def __call__(self) -> None:
        """Run it.

        Raises:
            CheckFailed: the contract is broken, or a declared failure passes.
            NotApplicable: there is nothing to check.
        """
        from flowzoo.testing.run import run_check

        result = run_check(self)
        if result.status == "skipped":
            raise NotApplicable(result.message)
        if result.status not in GOOD:
            raise CheckFailed(f"{self}: {result.message}") from result.error

    def __str__(self) -> str:
        return f"{self.subject.kind} {self.subject.name}: {self.name}"


def require(condition: bool, message: str) -> None:
    """Raise CheckFailed with ``message`` unless ``condition`` holds."""
    if not condition:
        raise CheckFailed(message)
