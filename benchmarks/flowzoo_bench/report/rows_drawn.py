"""Pictures of rows: data and samples, charts, what each layer does, reconstructions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo_bench.report.panels import Panel, grid, sheets
from flowzoo_bench.report.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Held = Mapping[str, Mapping[str, Array]]

_ACROSS = 12


def samples_figure(task: str, held: Held, view: View) -> Any:
    """Held-out data, then the samples of each method."""
    panels: list[Panel] = [("held-out data", next(iter(held.values()))["data"], None)]
    panels += [(method, arrays["samples"], None) for method, arrays in held.items()]
    return grid(f"{task}: samples", panels, view)


def charts_figure(task: str, held: Held, view: View) -> Any | None:
    """Data and samples of each method with charts, in the colours of the charts."""
    panels = [
        (f"{method}: {what}", arrays[name], arrays[chart])
        for method, arrays in held.items()
        for what, name, chart in (
            ("data", "data", "data_charts"),
            ("samples", "samples", "sample_charts"),
        )
        if chart in arrays
    ]
    return grid(f"{task}: charts in colour", panels, view.as_points()) if panels else None


def layers_figure(task: str, method: str, arrays: Mapping[str, Array]) -> Any | None:
    """The data after each layer of one method, coloured by chart, or by where they began."""
    layers = sorted(name for name in arrays if name.startswith("layers/"))
    if not layers:
        return None
    colours = arrays.get("data_charts")
    if colours is None:
        colours = _by_place(arrays["layers/00"])
    steps = [
        ("data" if index == 0 else f"after layer {index}", arrays[name], colours)
        for index, name in enumerate(layers)
    ]
    return grid(f"{task}: {method}, layer by layer", steps, View(arrays[layers[0]], None))


def reconstructions_figure(task: str, held: Held, view: View) -> Any | None:
    """Held-out rows and their reconstructions: images below each other, points colour by colour."""
    found = {
        method: arrays for method, arrays in held.items() if len(arrays.get("reconstructions", ()))
    }
    if not found:
        return None
    title = f"{task}: held-out rows and their reconstructions"
    if view.pixels is None:
        first = next(iter(found.values()))
        shown = first["data"][: len(first["reconstructions"])]
        panels: list[Panel] = [("held-out data", shown, _by_place(shown))]
        for method, arrays in found.items():
            model = arrays["reconstructions"]
            panels.append((method, model, _by_place(arrays["data"][: len(model)])))
        return grid(title, panels, view)
    count = min(len(arrays["reconstructions"]) for arrays in found.values())
    across = min(_ACROSS, count)
    starts = range(0, count - across + 1, across)  # whole lines: a row stands above its own
    pages = []
    for method, arrays in found.items():
        lines = [
            arrays[kind][start : start + across]
            for start in starts
            for kind in ("data", "reconstructions")
        ]
        names = ["data", "model"] * len(starts)
        pages.append((method, view.pixels.images(np.concatenate(lines)), names))
    return sheets(title, pages, across)


def _by_place(x: Array) -> Array:
    """Ten colours along the first coordinate, to follow points by where they began."""
    return np.argsort(np.argsort(x[:, 0])) * 10 // max(len(x), 1)
