"""What stages monitor, beside their objective."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from flowzoo_bench.records import Point
from flowzoo_bench.report.load import Results
from flowzoo_bench.report.panels import DPI, plain

_COLUMNS = 3
_OBJECTIVE = "validation objective"


def monitored_figure(results: Results, task: str) -> Any | None:
    """By epoch, a panel a method and stage: thin lines are replicates; None without any.

    All of a stage stands in one panel with its validation objective: a bound and what it bounds
    are seen to cross.
    """
    from matplotlib.figure import Figure

    panels: dict[str, list[tuple[Point, ...]]] = {}
    for method in results.methods:
        for run in results.of(task, method):
            for curve in run.record.curves if run.record else ():
                if any(point.monitored for point in curve.points):
                    panels.setdefault(f"{method}, {curve.stage}", []).append(curve.points)
    if not panels:
        return None
    columns = min(_COLUMNS, len(panels))
    rows = ceil(len(panels) / columns)
    figure = Figure(figsize=(4.5 * columns, 3.4 * rows + 0.4), dpi=DPI)
    figure.suptitle(plain(f"{task}: monitored in training"))
    for index, (title, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        _panel(axes, curves)
        axes.set_title(plain(title), fontsize=9)
        axes.set_xlabel("epoch")
    figure.tight_layout()
    return figure


def _panel(axes: Any, curves: list[tuple[Point, ...]]) -> None:
    # the objective may equal what is monitored: dashed, and over the rest, it leaves both in sight
    lines: dict[str, list[list[tuple[int, float]]]] = {}
    for points in curves:
        names = dict.fromkeys(name for point in points for name in point.monitored)
        for name in ("valid", *names):
            found = [
                (point.epoch, value)
                for point in points
                if (value := point.valid if name == "valid" else point.monitored.get(name))
                is not None
            ]
            if found:
                label = _OBJECTIVE if name == "valid" else name
                lines.setdefault(label, []).append(found)
    values = []
    monitored = [label for label in lines if label != _OBJECTIVE]
    colours = {label: f"C{number % 10}" for number, label in enumerate(monitored)}
    for label, replicates in lines.items():
        objective = label == _OBJECTIVE
        for replicate, found in enumerate(replicates):
            epochs, heights = zip(*found, strict=True)
            values += list(heights)
            axes.plot(
                epochs,
                heights,
                color="black" if objective else colours[label],
                linestyle="--" if objective else "-",
                linewidth=0.7 if objective else 1.2,
                zorder=3 if objective else 2,
                marker="." if len(found) == 1 else None,
                label=plain(label) if replicate == 0 else None,
            )
    if values:
        low, high = np.quantile(values, [0.01, 0.99])
        pad = 0.05 * max(high - low, 1e-6)
        axes.set_ylim(low - pad, high + pad)
        axes.legend(fontsize=6)
