"""Reads a benchmark folder; nothing but specs and records counts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from flowzoo_bench.records import RECORD, SPEC, Record, read_record, run_folder
from flowzoo_bench.runspec import RunSpec
from flowzoo_bench.sweep import SweepPoint, sweep_points


@dataclass(frozen=True)
class Run:
    """A planned run: its record, or why there is none."""

    spec: RunSpec
    record: Record | None
    problem: str = ""

    @property
    def status(self) -> str:
        """The record's; ``pending`` or ``unreadable`` without one."""
        if self.record is not None:
            return self.record.status
        return "unreadable" if self.problem else "pending"


@dataclass
class Results:
    """All runs of a folder, in the experiment's order where that is known.

    Attributes:
        out: the folder.
        name: of the experiment, or the folder's where that is not known.
        runs: one per planned run.
        tasks, methods: labels in order.
        sweeps: for methods that are one value of a sweep, by label.
        problems: folders that hold nothing readable.
    """

    out: Path
    name: str = ""
    runs: list[Run] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    sweeps: dict[str, SweepPoint] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def of(self, task: str, method: str) -> list[Run]:
        """The replicates of a method on a task, in order."""
        return [
            run
            for run in self.runs
            if run.spec.task_label == task and run.spec.method_label == method
        ]


def load_results(out: Path) -> Results:
    """What a folder holds; unreadable records become problems, never an exception.

    Raises:
        ValueError: the folder has no ``records``.
    """
    folder = out / "records"
    if not folder.is_dir():
        raise ValueError(f"{out}: expected a folder that flowzoo bench made (with records/ in it)")
    results = Results(out)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (run := _read(path, results)) is not None:
            results.runs.append(run)
    results.name, tasks, methods, points = _experiment(out)
    results.tasks = _sorted({run.spec.task_label for run in results.runs}, tasks)
    results.methods = _sorted({run.spec.method_label for run in results.runs}, methods)
    results.sweeps = {point.label: point for point in points if point.label in results.methods}
    results.runs.sort(
        key=lambda run: (
            results.tasks.index(run.spec.task_label),
            results.methods.index(run.spec.method_label),
            run.spec.replicate,
        )
    )
    return results


def _read(path: Path, results: Results) -> Run | None:
    record: Record | None = None
    problem = ""
    if (path / RECORD).exists():
        try:
            record = read_record(path / RECORD)
        except ValueError as error:
            problem = str(error).removeprefix(f"{results.out}/")
    try:  # labels may be newer than the record
        spec = RunSpec.model_validate_json((path / SPEC).read_bytes())
    except (OSError, ValueError):
        if record is None:
            results.problems.append(problem or f"records/{path.name}: no readable spec or record")
            return None
        spec = record.spec
    return Run(spec, record, problem)


def _experiment(out: Path) -> tuple[str, list[str], list[str], list[SweepPoint]]:
    """The experiment's name, its labels of tasks and methods in order, and its sweeps."""
    try:
        data = json.loads((out / "experiment.json").read_text("utf-8"))
        name = str(data["name"])
        tasks = [task["label"] or task["name"] for task in data["tasks"]]
        swept = [
            (method["label"], sweep_points(method["label"], method.get("sweep", {})))
            for method in data["methods"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return out.resolve().name, [], [], []
    methods = [label for name, points in swept for label in ([p.label for p in points] or [name])]
    return name, tasks, methods, [point for _, points in swept for point in points]


def _sorted(labels: set[str], order: list[str]) -> list[str]:
    return sorted(
        labels, key=lambda name: (order.index(name) if name in order else len(order), name)
    )


def files_of(out: Path, run: Run) -> Path:
    """Where a run's files are."""
    return run_folder(out, run.spec.run_id)
