"""The contract of what carries jobs to processors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Job:
    """One pack to be trained: a folder with ``pack.json`` in, records out; never a pickled closure.

    Attributes:
        id: unique among the jobs of one executor.
        folder: the pack's folder, where logs and checkpoints go too.
        timeout: wall-clock seconds the job may take; None: as long as it likes.
        cost: an estimate in any unit; the costliest waiting job starts first.
    """

    id: str
    folder: Path
    timeout: float | None = None
    cost: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a job's process ended; what it achieved is in the records.

    Attributes:
        job: the job.
        status: ``finished`` (exit code 0), ``crashed`` (any other end) or ``timeout``.
        reason: one line, e.g. ``killed by SIGKILL`` or ``exit code 3: MemoryError``.
        seconds: wall-clock.
    """

    job: Job
    status: Literal["finished", "crashed", "timeout"]
    reason: str
    seconds: float


class Executor(ABC):
    """Runs jobs until each has one outcome. A context manager: leaving it ends what still runs.

    The constructor takes ``device`` (``cpu`` or ``cuda``) and ``slots`` (how many jobs at once;
    None: the executor's choice).
    """

    slots: int

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            RuntimeError: the executor is closed.
        """

    @abstractmethod
    def next_outcome(self, wait_seconds: float) -> Outcome | None:
        """The next outcome, or None when there is none within ``wait_seconds``."""

    @abstractmethod
    def running(self) -> tuple[Job, ...]:
        """The jobs that run now."""

    @abstractmethod
    def pending(self) -> int:
        """How many jobs wait or run."""

    @abstractmethod
    def close(self) -> None:
        """End every job, leave no process behind, and drop what waits."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
