"""Embeddings of labelled rows in the plane."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo_bench.report.panels import DPI, plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_COLUMNS = 4


def embeddings_figure(task: str, held: Mapping[str, Mapping[str, Array]]) -> Any | None:
    """The data themselves, then each method's embeddings of them, coloured by class.

    Each panel is the plane that parts the classes of its own training rows best, so distances in
    one are not those in another.
    """
    from matplotlib.figure import Figure

    found = {method: arrays for method, arrays in held.items() if "embeddings/plane" in arrays}
    if not found:
        return None
    first = next(iter(found.values()))
    panels = [("the data themselves", first["embeddings/data_plane"], first["embeddings/classes"])]
    panels += [
        (method, arrays["embeddings/plane"], arrays["embeddings/classes"])
        for method, arrays in found.items()
    ]
    colours = _colours(np.unique(np.concatenate([classes for _, _, classes in panels])))
    columns = min(_COLUMNS, len(panels))
    down = ceil(len(panels) / columns)
    figure = Figure(figsize=(3.2 * columns, 3.2 * down + 0.5), dpi=DPI)
    figure.suptitle(plain(f"{task}: embeddings of held-out rows by discriminant analysis"))
    for index, (name, plane, classes) in enumerate(panels):
        axes = figure.add_subplot(down, columns, index + 1)
        known = np.isfinite(plane).all(axis=1)
        for label in np.unique(classes):
            points = plane[known & (classes == label)]
            colour = colours[int(label)]
            axes.scatter(
                points[:, 0], points[:, 1], s=3.0, color=colour, linewidths=0, label=str(int(label))
            )
        if not known.all():
            note = f"{1 - known.mean():.1%} not finite"
            axes.text(0.02, 0.02, note, transform=axes.transAxes, fontsize=6)
        axes.set_title(plain(name), fontsize=8)
        axes.tick_params(labelsize=5)
        if index == 0:
            axes.legend(fontsize=5, markerscale=2.0, loc="best")
    figure.tight_layout()
    return figure


def _colours(classes: Array) -> dict[int, Any]:
    """A colour for each class that is shown, the same in all panels; no two alike up to 20."""
    from matplotlib import colormaps

    chosen = colormaps["tab10" if len(classes) <= 10 else "tab20"]
    return {int(label): chosen(index % chosen.N) for index, label in enumerate(classes)}
