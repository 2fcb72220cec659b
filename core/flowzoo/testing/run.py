"""Runs checks and says how each ended."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from flowzoo.testing.isolation import own_globals
from flowzoo.testing.outcome import GOOD, Check, CheckFailed, NotApplicable, Status
from flowzoo.testing.time_limit import time_limit

SEED = 20_220_311


@dataclass(frozen=True)
class Result:
    """How one check ended.

    Attributes:
        name: the check's.
        status: ``passed``, ``failed``, ``skipped`` (nothing to check), ``expected failure`` (as the
            plugin declares) or ``unexpected pass`` (a declared failure that is none).
        message: what was found, or why there was nothing to check; empty for ``passed``.
        seconds: how long it took.
        error: what the check raised.
    """

    name: str
    status: Status
    message: str = ""
    seconds: float = 0.0
    error: BaseException | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.status in GOOD


@dataclass(frozen=True)
class Report:
    """The results of every check of one plugin."""

    kind: str
    name: str
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(result.ok for result in self.results)

    @property
    def failures(self) -> tuple[Result, ...]:
        """What is wrong."""
        return tuple(result for result in self.results if not result.ok)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "kind": self.kind,
            "name": self.name,
            "ok": self.ok,
            "checks": [
                {
                    "name": result.name,
                    "status": result.status,
                    "message": result.message,
                    "seconds": round(result.seconds, 3),
                }
                for result in self.results
            ],
        }


def run_check(check: Check, timeout: float | None = None) -> Result:
    """Run one check in a random stream of its own; whatever it raises becomes the result.

    Args:
        check: the check.
        timeout: seconds after which it has failed; None: as long as it likes.
    """
    began = time.perf_counter()
    status: Status = "passed"
    message = ""
    error: BaseException | None = None
    try:
        # eval-mode warnings of other libraries are not what is checked
        with own_globals(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(SEED)
            with time_limit(timeout):
                check.run(check.subject)
    except NotApplicable as reason:
        status, message = "skipped", str(reason)
        if check.reason:
            message = f"declared to fail ({check.reason}), and has nothing to look at: {reason}"
    except CheckFailed as failure:
        status, message, error = "failed", str(failure), failure
    except (Exception, SystemExit) as failure:
        status, error = "failed", failure
        message = f"{_one_line(failure)} ({_where(failure)})"
    if check.reason and status != "skipped":
        if status == "failed":
            status, message = "expected failure", f"{check.reason} [{message}]"
        else:
            status = "unexpected pass"
            message = f"declared to fail, and passes: {check.reason}"
    return Result(check.name, status, message, time.perf_counter() - began, error)


def run_all(
    kind: str,
    name: str,
    checks: Iterable[Check],
    on_result: Callable[[Result], None] | None = None,
    timeout: float | None = None,
) -> Report:
    """Run checks in order; ``on_result`` hears of each as it ends, late ones have failed."""
    results: list[Result] = []
    broken = False
    for check in checks:
        if broken:
            results.append(Result(check.name, "skipped", "build fails"))
        else:
            results.append(run_check(check, timeout))
            broken = check.name == "build" and results[-1].error is not None
        if on_result is not None:
            on_result(results[-1])
    return Report(kind, name, tuple(results))


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def _where(error: BaseException) -> str:
    """File and line of the innermost frame."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere"
