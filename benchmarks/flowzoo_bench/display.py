"""What a bench shows while it runs: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from flowzoo_bench.records import Record


class Display:
    """Writes to stderr; a context manager, so that the terminal is left as it was."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console  # here: importing it draws from Python's global generator

        self.console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._bar: TaskID | None = None
        self._lines: dict[str, TaskID] = {}
        self._done = self._total = 0

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def begin(self, total: int, done: int) -> None:
        """Say how many runs there are, and how many already have a result."""
        self._total, self._done = total, done
        self.note(f"{total} runs, {done} already done")
        if self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
            from rich.progress import TimeElapsedColumn as Elapsed

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                Elapsed(),
                console=self.console,
                transient=True,
            )
            self._progress.start()
            self._bar = self._progress.add_task("runs", total=total, completed=done)

    def ended(self, record: Record) -> None:
        """A run has its record."""
        self._done += 1
        spec = record.spec
        line = f"[{self._done}/{self._total}] {spec.task_label} | {spec.method_label} | "
        line += f"replicate {spec.replicate}: {record.status}"
        self.note(line + (f" ({record.reason})" if record.reason else ""))
        for curve in record.curves:
            for message in curve.warnings:
                self.note(f"  warning: stage {curve.stage!r}: {message}")
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=self._done)

    def running(self, jobs: Sequence[tuple[str, str]]) -> None:
        """What trains now, and how far it is; shown on a terminal only."""
        if self._progress is None:
            return
        titles = dict(jobs)
        for title in [title for title in self._lines if title not in titles]:
            self._progress.remove_task(self._lines.pop(title))
        for title, state in jobs:
            if title not in self._lines:
                self._lines[title] = self._progress.add_task(title, total=None)
            stage, _, steps = state.rpartition(" ")
            step, _, total = steps.partition("/")
            if stage and step.isdigit() and total.isdigit():
                self._progress.update(
                    self._lines[title],
                    description=f"  {title}: {stage}",
                    completed=int(step),
                    total=int(total),
                )

    def note(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
