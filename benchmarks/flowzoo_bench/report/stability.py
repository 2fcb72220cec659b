"""How steady training is: the change of the validation objective from epoch to epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from flowzoo_bench.records import Curve, Record
from flowzoo_bench.report.load import Results
from flowzoo_bench.report.panels import DPI, plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_LEAST = 20  # epochs: a shorter curve says nothing of how it ends
_WINDOW = 0.05  # of the epochs


def main_curve(record: Record) -> Curve | None:
    """Of the last stage that was trained: the likelihood's, after those that prepare it."""
    trained = [curve for curve in record.curves if curve.points]
    return trained[-1] if trained else None


def late_change(curve: Curve) -> float | None:
    r"""Median of \|v_e - v_{e-1}\| over the last quarter of the epochs, in nats.

    v_e is the validation objective after epoch e; its draws are the same in every epoch. Infinite
    where half of the changes are from or to an epoch without a finite v; None for fewer than 20
    epochs.
    """
    if len(curve.points) < _LEAST:
        return None
    epochs, changes = _changes(curve)
    return float(np.median(changes[epochs > 0.75 * epochs[-1]]))


def stability_figure(results: Results, task: str) -> Any | None:
    """Running median of the change by epoch, nats on a log axis; thin lines are replicates.

    Of methods with a main stage of 20 epochs or more; None for fewer than two of them. Cornish et
    al. (2020), figure 2 of the first version (Localised Generative Flows), as numbers.
    """
    from matplotlib.figure import Figure

    found: dict[str, list[Curve]] = {}
    for method in results.methods:
        for run in results.of(task, method):
            curve = main_curve(run.record) if run.record else None
            if curve is not None and len(curve.points) >= _LEAST:
                found.setdefault(method, []).append(curve)
    if len(found) < 2:
        return None
    figure = Figure(figsize=(6.5, 4.2), dpi=DPI)
    figure.suptitle(plain(f"{task}: how steady training is"), fontsize=10)
    axes = figure.add_subplot(1, 1, 1)
    axes.set_yscale("log")
    for number, (method, curves) in enumerate(found.items()):
        for replicate, curve in enumerate(curves):
            epochs, changes = _changes(curve)
            median = _running_median(changes, len(curve.points))
            axes.plot(
                epochs,
                np.where(np.isfinite(median) & (median > 0), median, np.nan),
                color=f"C{number % 10}",
                linestyle=("-", "--", ":")[number // 10 % 3],
                linewidth=0.8,
                label=plain(method) if replicate == 0 else None,
            )
    axes.set_title(
        "change of the validation objective, running median over 5 % of the epochs", fontsize=8
    )
    axes.set_xlabel("epoch")
    axes.set_ylabel("nats from one epoch to the next", fontsize=8)
    beside: dict[str, Any] = {}
    if len(found) > 8:  # a long list would hide the curves
        beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    axes.legend(fontsize=6, **beside)
    figure.tight_layout()
    return figure


def _changes(curve: Curve) -> tuple[Array, Array]:
    """Epochs 2, 3, ... and the size of the change to each (E - 1,), infinite where unknown."""
    epochs = np.array([point.epoch for point in curve.points])
    valid = np.array([np.nan if p.valid is None else p.valid for p in curve.points])
    change = np.abs(np.diff(valid))
    return epochs[1:], np.where(np.isnan(change), np.inf, change)


def _running_median(values: Array, epochs: int) -> Array:
    """Over a window around each value, cut off at the ends."""
    half = round(_WINDOW * epochs) // 2
    padded = np.pad(values, half, constant_values=np.nan)
    found: Array = np.nanmedian(sliding_window_view(padded, 2 * half + 1), axis=1)
    return found
