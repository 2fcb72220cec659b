"""Our table beside a paper's, and what the comparison was meant to show."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

Key = tuple[str, str, str]  # task, method, metric
UNEXPLAINED = 0.5  # nats; a larger difference from the paper is marked


@dataclass(frozen=True)
class Number:
    """A mean over trials and the half width of its 95 % interval (None for one trial)."""

    mean: float
    ci95: float | None
    oracle: float | None = None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.ci95 is None else f" ± {self.ci95:.2f}")


def published(name: str) -> dict[Key, Number]:
    """A paper's numbers by task, method and metric.

    Raises:
        ValueError: no such table.
    """
    source = files("flowzoo_bench.published") / f"{name}.csv"
    if not source.is_file():
        raise ValueError(f"published: expected the name of a shipped table, got {name!r}")
    return _numbers(source.read_text("utf-8").splitlines())


def measured(folder: Path) -> dict[Key, Number]:
    """The ``table.csv`` of a benchmark folder.

    Raises:
        ValueError: there is none.
    """
    path = folder / "table.csv"
    if not path.is_file():
        raise ValueError(f"{folder}: expected a benchmark folder with a table.csv")
    return _numbers(path.read_text("utf-8").splitlines())


def _numbers(lines: Iterable[str]) -> dict[Key, Number]:
    held: dict[Key, Number] = {}
    for row in csv.DictReader(lines):
        mean = _float(row["mean"])
        if mean is not None:
            key = (row["task"], row["method"], row["metric"])
            held[key] = Number(mean, _float(row["ci95"]), _float(row.get("oracle")))
    return held


def _float(text: str | None) -> float | None:
    return float(text) if text not in (None, "") else None


def side_by_side(ours: dict[Key, Number], theirs: dict[Key, Number], metric: str) -> list[str]:
    """A Markdown table of one metric: ours, the paper's and the difference, by task and method."""
    tasks = list(dict.fromkeys(task for task, _, name in ours if name == metric))
    methods = list(dict.fromkeys(method for _, method, name in theirs if name == metric))
    extra = [
        method
        for method in dict.fromkeys(method for _, method, name in ours if name == metric)
        if method not in (*methods, "oracle")
    ]
    lines = [
        "| set | oracle | " + " | ".join([*methods, *extra]) + " |",
        "|---" * (2 + len(methods) + len(extra)) + "|",
    ]
    for task in tasks:
        oracles = [n.oracle for (t, _, name), n in ours.items() if t == task and name == metric]
        known = [value for value in oracles if value is not None]
        cells = [task, f"{known[0]:.3f}" if known else "–"]
        for method in [*methods, *extra]:
            cells.append(
                _cell(ours.get((task, method, metric)), theirs.get((task, method, metric)))
            )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def manifold_pairs(ours: dict[Key, Number], theirs: dict[Key, Number], score: str) -> list[str]:
    """A Markdown table of the flows onto manifolds: the paper's number is the first column's alone.

    ``manifold`` is the density on the model's surface at the point a row is projected to,
    ``error`` the root mean squared distance to there, ``in space`` the thickened density.
    """
    metric = f"{score}[manifold]"
    methods = list(dict.fromkeys(method for _, method, name in theirs if name == metric))
    methods += [m for m in dict.fromkeys(m for _, m, n in ours if n == metric) if m not in methods]
    tasks = list(dict.fromkeys(task for task, _, name in ours if name == metric))
    columns = [f"{method}: {what}" for method in methods for what in ("manifold", "error", "space")]
    lines = ["| set | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for task in tasks:
        cells = [task]
        for method in methods:
            cells.append(
                _cell(ours.get((task, method, metric)), theirs.get((task, method, metric)))
            )
            error = ours.get((task, method, "reconstruction_error"))
            cells.append("–" if error is None else f"{error.mean:.3f}")
            cells.append(_cell(ours.get((task, method, score)), None))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(mine: Number | None, paper: Number | None) -> str:
    if mine is None:
        return "–" if paper is None else f"– (paper {paper})"
    if paper is None:
        return str(mine)
    mark = " **≠**" if abs(mine.mean - paper.mean) > UNEXPLAINED else ""
    return f"{mine} (paper {paper}){mark}"


def differences(
    ours: dict[Key, Number], theirs: dict[Key, Number], metric: str
) -> list[tuple[str, str, float]]:
    """Task, method and ours minus the paper's, where it exceeds 0.5 nat."""
    found = []
    for (task, method, name), paper in theirs.items():
        mine = ours.get((task, method, name))
        if name == metric and mine is not None and abs(mine.mean - paper.mean) > UNEXPLAINED:
            found.append((task, method, mine.mean - paper.mean))
    return found


def wins(folder: Path, better: str, worse: str, tasks: Iterable[str]) -> list[str]:
    """The tasks on which the paired 95 % interval of ``better`` minus ``worse`` is above zero."""
    rows = list(csv.DictReader((folder / "paired.csv").read_text("utf-8").splitlines()))
    found = []
    for task in tasks:
        for row in rows:
            if row["task"] != task or row["metric"] != "test_log_likelihood":
                continue
            pair = (row["method_a"], row["method_b"])
            mean, half = _float(row["mean_diff"]), _float(row["ci95"])
            if {*pair} != {better, worse} or mean is None or half is None:
                continue
            if (mean if pair == (better, worse) else -mean) > half:
                found.append(task)
    return found
