"""Samples of one seed at every value of a sampling knob."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flowzoo_bench.report.panels import grid, sheets
from flowzoo_bench.report.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Knob = Literal["temperature", "manifold_temperature", "noise_scale"]
_ACROSS, _SIZE = 10, 2.0
_SYMBOL = {"temperature": "t", "manifold_temperature": "t", "noise_scale": "s"}
_TITLE = {
    "temperature": "samples by temperature",
    "manifold_temperature": "samples on the manifold, by temperature",
    "noise_scale": "samples by noise scale",
}


def knob_samples_figure(
    task: str,
    held: Mapping[str, Mapping[str, Array]],
    view: View,
    knob: Knob,
) -> Any | None:
    """A sheet a method with a line of images a value; points: a line a method, a panel a value.

    Down a column of images, and from panel to panel, only the knob differs: the noise is the same.
    """
    found = {
        method: {float(name.partition("/")[2]): name for name in arrays if _is(name, knob)}
        for method, arrays in held.items()
    }
    found = {method: dict(sorted(names.items())) for method, names in found.items() if names}
    if not found:
        return None
    title, symbol = f"{task}: {_TITLE[knob]}", _SYMBOL[knob]
    if view.pixels is None:
        values = sorted({value for names in found.values() for value in names})
        none = np.zeros((0, view.width))
        panels = [
            (f"{method}, {symbol} = {value:g}", held[method].get(names.get(value, ""), none), None)
            for method, names in found.items()
            for value in values
        ]
        return grid(title, panels, view, columns=len(values), size=_SIZE)
    across = min(_ACROSS, *(len(held[m][n]) for m, names in found.items() for n in names.values()))
    pages = []
    for method, names in found.items():
        lines = np.concatenate([held[method][name][:across] for name in names.values()])
        named = [f"{symbol} = {value:g}" for value in names]
        pages.append((method, view.pixels.images(lines), named))
    return sheets(title, pages, across)


def _is(name: str, knob: str) -> bool:
    return name.startswith(f"{knob}/")
