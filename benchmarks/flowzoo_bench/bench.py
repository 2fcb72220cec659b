"""``flowzoo bench``: an experiment from its TOML to its tables."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flowzoo_bench.experiment import Experiment, UsageError, load_experiment, select

OK, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130


def bench(
    experiment: Annotated[str, typer.Argument(help="A shipped experiment's name, or a TOML file.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results.  [default: runs/NAME]")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks: a,b.")] = None,
    methods: Annotated[str | None, typer.Option(help="Only these methods, by label: a,b.")] = None,
    replicates: Annotated[int | None, typer.Option(help="How many replicates.")] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where models train.")] = "cpu",
    slots: Annotated[
        int | None, typer.Option(help="Workers at once.  [default: one per core or GPU]")
    ] = None,
    executor: Annotated[str, typer.Option(help="A registered executor.")] = "local",
    figures: Annotated[bool, typer.Option(help="Draw figures at the end.")] = True,
) -> None:
    """Train, measure and compare methods as an experiment says.

    The same command again continues: runs that ended ok, diverged or non_finite are done; those
    that failed (error, timeout, crashed, skipped) are tried again. A pack of runs that was cut off
    goes on, whole, from its checkpoint, at most 60 s of training back, or from its start where the
    checkpoint cannot be read: with the same numbers. A pack whose worker dies or exceeds the time
    limit is split and its members are tried one by one, each with the whole limit. A run whose
    record was lost or damaged after its pack had ended is trained again without the others, and
    its numbers then differ from the first ones by what rounding makes of training.

    Exit code: 0 all runs ok; 1 some are not; 2 bad usage, nothing has run; 130 interrupted.
    """
    try:
        whole = load_experiment(experiment)
        chosen = select(whole, _names("--tasks", tasks), _names("--methods", methods), replicates)
        target = out or Path("runs") / whole.name
        with _sigterm_as_interrupt():
            code = _run(whole, chosen, target, device, slots, executor, figures)
    except UsageError as error:
        print(f"flowzoo bench: error: {error}", file=sys.stderr)
        raise typer.Exit(BAD_USAGE) from None
    except OSError as error:
        where = error.filename or target
        print(
            f"flowzoo bench: error: {where}: {error.strerror or error}; finished runs are kept, "
            "the same command continues",
            file=sys.stderr,
        )
        raise typer.Exit(FAILED) from None
    raise typer.Exit(code)


def _run(
    whole: Experiment,
    chosen: Experiment,
    out: Path,
    device: Literal["cpu", "cuda"],
    slots: int | None,
    executor_name: str,
    figures: bool,
) -> int:
    interrupted = False
    try:
        with _imports_undisturbed():
            import torch  # noqa: F401 - numpy turns an interrupt during its import into another error

            from flowzoo.registry import load
            from flowzoo_bench.display import Display
            from flowzoo_bench.planner import Planner
            from flowzoo_bench.report.build import write_report
            from flowzoo_bench.session import Session, claimed
        planned = Planner(chosen, device).plan()
        if not planned:
            raise UsageError("expected at least one run, but no chosen method runs on these tasks")
        executor = _executor(load, executor_name, device, slots)
        with claimed(out), Display() as display:
            session = Session(out, whole, planned)
            try:
                with executor:
                    session.run(executor, display)
            except KeyboardInterrupt:
                interrupted = True
                display.note("interrupted: finished runs are kept; the same command continues")
            display.note("writing tables and figures" if figures else "writing tables")
            for problem in write_report(out, figures=figures).problems:
                display.note(problem)
            tally = session.tally()
            display.note(
                f"{', '.join(f'{count} {name}' for name, count in sorted(tally.items()))}; "
                f"{out / 'table.md'}"
            )
    except KeyboardInterrupt:
        return INTERRUPTED
    if interrupted:
        return INTERRUPTED
    return OK if set(tally) == {"ok"} else FAILED


def _executor(load: Any, name: str, device: str, slots: int | None) -> Any:
    try:
        return load("executor", name)(device=device, slots=slots)
    except Exception as error:
        text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"executor {name!r}: {text}") from error


def _names(option: str, text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{option}: expected at least one name, got {text!r}")
    return names


@contextmanager
def _imports_undisturbed() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the end; they then act at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    # by handlers and not by a mask: a thread that an import starts would take the signal
    before = {
        number: signal.signal(number, lambda number, frame: arrived.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for held in dict.fromkeys(arrived):
            signal.raise_signal(held)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end a bench as Ctrl-C does; only where signals can be set."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
