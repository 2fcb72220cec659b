"""Ends a check that does not end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flowzoo.testing.outcome import CheckFailed


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise CheckFailed in the block after ``seconds``, and each second until it is left.

    By an alarm, so only in a process's main thread and where the system has alarms; elsewhere, and
    for None, there is no limit. A wait inside compiled code ends when that code returns.

    Raises:
        CheckFailed: the time is over.
    """
    alarms = hasattr(signal, "setitimer")
    if seconds is None or not alarms or threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(number: int, frame: FrameType | None) -> None:
        raise CheckFailed(f"no end after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again: a plugin may swallow the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
