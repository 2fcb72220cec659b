"""Learning curves."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowzoo_bench.report.load import Results
from flowzoo_bench.report.panels import DPI, plain


def learning_figure(results: Results, task: str) -> Any | None:
    """Validation objective by epoch, a panel a stage name; thin lines are replicates."""
    from matplotlib.figure import Figure

    stages: dict[str, dict[str, list[list[tuple[int, float]]]]] = {}
    for method in results.methods:
        for run in results.of(task, method):
            for curve in run.record.curves if run.record else ():
                points = [(p.epoch, p.valid) for p in curve.points if p.valid is not None]
                if points:
                    by_method = stages.setdefault(curve.stage, {})
                    by_method.setdefault(method, []).append(points)
    if not stages:
        return None
    figure = Figure(figsize=(5.5 * len(stages), 4.0), dpi=DPI)
    figure.suptitle(plain(f"{task}: validation objective (training coordinates)"))
    for index, (stage, by_method) in enumerate(stages.items()):
        axes = figure.add_subplot(1, len(stages), index + 1)
        values = []
        for number, (method, lines) in enumerate(by_method.items()):
            for replicate, points in enumerate(lines):
                epochs, valid = zip(*points, strict=True)
                values += list(valid)
                axes.plot(
                    epochs,
                    valid,
                    color=f"C{number % 10}",
                    linestyle=("-", "--", ":")[number // 10 % 3],
                    linewidth=0.8,
                    label=plain(method) if replicate == 0 else None,
                )
        low, high = np.quantile(values, [0.0, 0.98])
        pad = 0.05 * max(high - low, 1e-6)
        axes.set_ylim(low - pad, high + pad)
        axes.set_title(plain(stage), fontsize=9)
        axes.set_xlabel("epoch")
        beside: dict[str, Any] = {}
        if len(by_method) > 8:  # a long list would hide the curves
            beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
        axes.legend(fontsize=6, **beside)
    figure.tight_layout()
    return figure
