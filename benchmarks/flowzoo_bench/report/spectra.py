"""Variance over noise along each direction of a latent space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo_bench.report.panels import DPI, plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_FEWEST = 20  # values drawn, where there are as many
_LEAST = 1e-4
"""Of the noise's variance: smaller values, and 0, are drawn here."""


def spectra_figure(task: str, held: Mapping[str, Mapping[str, Array]]) -> Any | None:
    """The values in order on a log scale, a line a method or chart; those counted are filled.

    The noise is at 1; the true dimension is a dotted line after the last value it counts.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    found = {name: arrays for name, arrays in held.items() if "spectrum/values" in arrays}
    if not found:
        return None
    figure = Figure(figsize=(7.0, 4.2), dpi=DPI)
    axes = figure.add_subplot()
    count = _drawn(list(found.values()))
    for index, (method, arrays) in enumerate(found.items()):
        values = arrays["spectrum/values"]
        dimensions = arrays.get("spectrum/found")
        label = plain(method) if dimensions is None else f"{plain(method)}: {_listed(dimensions)}"
        for chart, line in enumerate(values):
            shown = np.maximum(line[:count], _LEAST)  # NaN stays
            place = np.arange(1, len(shown) + 1)
            colour = f"C{index % 10}"
            axes.plot(
                place,
                shown,
                color=colour,
                linestyle=("-", "--", ":", "-.")[chart % 4],
                linewidth=1.0,
                marker="o",
                markersize=4,
                markerfacecolor="white",
                label=label if chart == 0 else None,
            )
            if dimensions is not None:
                counted = place <= dimensions[chart % len(dimensions)]
                axes.plot(place[counted], shown[counted], "o", color=colour, markersize=4)
    axes.axhline(1.0, color="grey", linewidth=1.0, label="noise")
    true = next((arrays["spectrum/true"] for arrays in found.values() if _has_true(arrays)), None)
    if true is not None:
        for dimension in np.unique(true):
            axes.axvline(dimension + 0.5, color="black", linestyle=":", linewidth=1.2)
        axes.plot([], [], color="black", linestyle=":", label=f"true: {_listed(true)}")
    axes.set_yscale("log")
    axes.set_xlim(0.5, count + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("direction, largest first; filled: counted by the rule", fontsize=8)
    axes.set_ylabel(f"variance over noise (at least {_LEAST:g})", fontsize=8)
    axes.set_title(plain(f"{task}: latent spectrum and the axes counted"), fontsize=10)
    axes.legend(fontsize=7)
    figure.tight_layout()
    return figure


def _drawn(found: list[Mapping[str, Array]]) -> int:
    """How many values: twice the largest dimension, or 20, of as many as there are."""
    marks = [
        float(np.nanmax(arrays[name], initial=0.0))
        for arrays in found
        for name in ("spectrum/found", "spectrum/true")
        if name in arrays
    ]
    wanted = max([_FEWEST, *(int(2 * mark) + 1 for mark in marks if np.isfinite(mark))])
    there: int = max(arrays["spectrum/values"].shape[1] for arrays in found)
    return min(wanted, there)


def _has_true(arrays: Mapping[str, Array]) -> bool:
    return "spectrum/true" in arrays


def _listed(dimensions: Array) -> str:
    return ", ".join(f"{value:g}" for value in dimensions)
