"""Ends a worker's whole process group when the bench that started it is gone."""

from __future__ import annotations

import os
import signal

PARENT_PIPE = "FLOWZOO_PARENT_PIPE"
"""Names the file descriptor whose end of file tells a worker that its parent is gone."""
LOG = "log.txt"
"""Where a worker's output goes, in its pack's folder."""


def tie_to_parent(variable: str) -> None:
    """Fork a watcher that kills this process group at the end of file of the parent's pipe.

    A process, not a thread: it cannot be held up by a busy interpreter, and it is in the group
    before anything heavy is imported. Call it before any thread exists. Without the environment
    variable (a worker started by hand) it does nothing.
    """
    text = os.environ.pop(variable, None)
    if text is None:
        return
    pipe = int(text)
    if os.getpgrp() != os.getpid():
        raise RuntimeError("expected to lead a process group of its own")
    if os.fork() == 0:
        _watch(pipe)
    os.close(pipe)


def _watch(pipe: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for descriptor in (0, 1, 2):  # hold none of the worker's output
        os.close(descriptor)
    try:
        while os.read(pipe, 1):  # nothing is ever written: this ends when the writer does
            pass
    finally:
        os.killpg(os.getpgrp(), signal.SIGKILL)
