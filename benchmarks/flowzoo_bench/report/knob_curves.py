"""A score against a sampling knob: a line a method."""

from __future__ import annotations

from typing import Any

from flowzoo_bench.report.knobs import KnobScores
from flowzoo_bench.report.panels import DPI, plain
from flowzoo_bench.report.table import REAL


def knob_curves_figure(task: str, scores: KnobScores) -> Any | None:
    """Means with their intervals; methods without the knob, and real data, are level lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.2), dpi=DPI)
    axes = figure.add_subplot()
    drawn = 0
    for number, (method, line) in enumerate(scores.lines.items()):
        known = [(value, row.mean, row.ci95) for value, row in line.items() if row.mean is not None]
        if not known:
            continue
        drawn += 1
        values, means, halves = zip(*known, strict=True)
        axes.errorbar(
            values,
            means,
            [half or 0.0 for half in halves],
            color=f"C{number % 10}",
            marker="os^"[number // 10 % 3],
            markersize=4,
            capsize=3,
            label=plain(method),
        )
    if not drawn:
        return None
    for number, (method, row) in enumerate(scores.levels.items()):
        if row.mean is None:
            continue
        real = method == REAL
        colour = "black" if real else f"C{(len(scores.lines) + number) % 10}"
        style = "--" if real else ":"
        axes.axhline(row.mean, color=colour, linestyle=style, linewidth=1.0, label=plain(method))
        if row.ci95 is not None:
            axes.axhspan(row.mean - row.ci95, row.mean + row.ci95, color=colour, alpha=0.1, lw=0)
    beside = f", {scores.fixed}" if scores.fixed else ""
    axes.set_title(plain(f"{task}: {scores.metric}{beside} (mean, 95 % interval)"), fontsize=9)
    axes.set_xlabel(f"{scores.knob} {scores.symbol} (1: the model as trained)")
    axes.legend(fontsize=7)
    figure.tight_layout()
    return figure
