"""Scores against the value of a swept option: one panel a metric, one line a family."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Any

from flowzoo.interfaces.measure import LEBESGUE
from flowzoo_bench.report.load import Results
from flowzoo_bench.report.panels import DPI, plain
from flowzoo_bench.report.table import TableRow, is_main

_COLUMNS, _WIDE = 2, 100.0


@dataclass
class _Line:
    """A family's means and half-intervals by value, in the order of the sweep."""

    values: list[Any] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    halves: list[float] = field(default_factory=list)


def sweep_figure(results: Results, rows: list[TableRow], task: str, option: str) -> Any | None:
    """Scores on the task against the option's value, or None; other methods are level lines.

    Panels are the metrics that have a better and a worse end or are in nats, under the default
    evaluation; not counts of rows, and not gaps, which draw the score a second time. Densities
    against different measures are in different panels.
    """
    drawn = {
        metric.name
        for run in results.runs
        for metric in (run.record.metrics if run.record else ())
        if (metric.direction != "none" or metric.unit == "nats")
        and metric.unit != "rows"
        and not metric.name.startswith("gap_to_oracle")
        and is_main(metric.name)
    }
    lines: dict[str, dict[str, _Line]] = {}
    levels: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.task != task or row.metric not in drawn or row.mean is None:
            continue
        panel = row.metric
        if row.measure not in (None, str(LEBESGUE)):
            panel = f"{row.metric}, {row.measure}"
        point = results.sweeps.get(row.method)
        if point is None:
            levels.setdefault(panel, {})[row.method] = row.mean
        elif point.option == option:
            line = lines.setdefault(panel, {}).setdefault(point.family, _Line())
            line.values.append(point.value)
            line.means.append(row.mean)
            line.halves.append(row.ci95 or 0.0)
    return _draw(f"{task}: against {option}", option, lines, levels) if lines else None


def _draw(
    title: str,
    option: str,
    lines: dict[str, dict[str, _Line]],
    levels: dict[str, dict[str, float]],
) -> Any:
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(lines))
    height = ceil(len(lines) / columns)
    figure = Figure(figsize=(5.0 * columns, 3.6 * height + 0.4), dpi=DPI)
    figure.suptitle(plain(title))
    for index, (metric, families) in enumerate(lines.items()):
        axes = figure.add_subplot(height, columns, index + 1)
        values = list(dict.fromkeys(value for line in families.values() for value in line.values))
        numeric = all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in values
        )
        if numeric and min(values) > 0 and max(values) >= 8 * min(values):
            axes.set_xscale("log", base=2)
        if numeric:
            axes.set_xticks(sorted(values), [f"{value:g}" for value in sorted(values)])
        for number, (family, line) in enumerate(families.items()):
            at = line.values if numeric else [str(value) for value in line.values]
            axes.errorbar(
                at,
                line.means,
                line.halves,
                color=f"C{number}",
                marker="o",
                capsize=3,
                label=plain(family),
            )
        for number, (method, mean) in enumerate(levels.get(metric, {}).items()):
            style = ("--", ":", "-.")[number % 3]
            axes.axhline(mean, color="0.4", linestyle=style, linewidth=0.9, label=plain(method))
        means = [mean for line in families.values() for mean in line.means]
        if max(means) - min(means) > _WIDE:
            axes.set_yscale("symlog", linthresh=1.0)
        axes.set_title(plain(f"{metric} (mean, 95 % interval)"), fontsize=9)
        axes.set_xlabel(option.rsplit(".", 1)[-1])
        axes.legend(fontsize=7)
    figure.tight_layout()
    return figure
