"""Scores against a sampling knob: a panel a metric, a line a method."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from flowzoo_bench.report.knobs import KnobScores
from flowzoo_bench.report.panels import DPI, plain
from flowzoo_bench.report.table import REAL

_COLUMNS = 3


def knob_curves_figure(task: str, measured: Sequence[KnobScores]) -> Any | None:
    """Means with their intervals; methods without the knob, and real data, are level lines.

    Args:
        task: its label.
        measured: metrics against one knob, the other the same in all.
    """
    from matplotlib.figure import Figure

    shown = [scores for scores in measured if _known(scores)]
    if not shown:
        return None
    columns = min(_COLUMNS, len(shown))
    rows = ceil(len(shown) / columns)
    figure = Figure(figsize=(5.0 * columns, 3.6 * rows + 0.4), dpi=DPI)
    first = shown[0]
    beside = f" at {first.fixed}" if first.fixed else ""
    figure.suptitle(plain(f"{task}: against the {first.knob}{beside} (mean, 95 % interval)"))
    names = list(dict.fromkeys(name for one in shown for name in (*one.lines, *one.levels)))
    colours = {name: f"C{index % 10}" for index, name in enumerate(n for n in names if n != REAL)}
    for index, scores in enumerate(shown):
        _panel(figure.add_subplot(rows, columns, index + 1), scores, {**colours, REAL: "black"})
    figure.tight_layout()
    return figure


def _known(scores: KnobScores) -> bool:
    return any(row.mean is not None for line in scores.lines.values() for row in line.values())


def _panel(axes: Any, scores: KnobScores, colours: dict[str, str]) -> None:
    """One metric; a method has one colour in all panels."""
    for method, line in scores.lines.items():
        known = [(value, row.mean, row.ci95) for value, row in line.items() if row.mean is not None]
        if known:
            values, means, halves = zip(*known, strict=True)
            axes.errorbar(
                values,
                means,
                [half or 0.0 for half in halves],
                color=colours[method],
                marker="o",
                markersize=4,
                capsize=3,
                label=plain(method),
            )
    for method, row in scores.levels.items():
        if row.mean is None:
            continue
        colour, style = colours[method], "--" if method == REAL else ":"
        axes.axhline(row.mean, color=colour, linestyle=style, linewidth=1.2, label=plain(method))
        if row.ci95 is not None:
            axes.axhspan(row.mean - row.ci95, row.mean + row.ci95, color=colour, alpha=0.1, lw=0)
    axes.set_title(plain(scores.metric), fontsize=9)
    axes.set_xlabel(f"{scores.knob} {scores.symbol} (1: the model as trained)", fontsize=8)
    axes.legend(fontsize=7)
