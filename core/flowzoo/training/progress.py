"""The progress bar of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flowzoo.training.trainer import OnEvent, TrainingEvent


@contextmanager
def progress_bar(*, enabled: bool = True) -> Iterator[OnEvent | None]:
    """A rich bar on stderr, one line per stage; yields the function to pass as ``progress``."""
    if not enabled:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TextColumn("{task.fields[objective]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        lines: dict[str, TaskID] = {}

        def report(event: TrainingEvent) -> None:
            if event.stage not in lines:
                lines[event.stage] = bar.add_task(
                    event.stage, total=event.total_steps, objective=""
                )
            objective = "" if event.valid is None else f"valid {event.valid:.3f} nats"
            if event.members > 1:
                objective += f" · {event.running}/{event.members} running"
            bar.update(lines[event.stage], completed=event.step, objective=objective)

        yield report
