"""Rows in the coordinates a model embeds them in."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo_bench.report.panels import DPI, plain, sheets
from flowzoo_bench.report.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Held = Mapping[str, Mapping[str, Array]]

_COLUMNS, _ACROSS, _LINES = 4, 12, 2


def representations_figure(task: str, held: Held, view: View) -> Any | None:
    """The data, then their embeddings, in one colour map: a row has one colour in all panels.

    It follows the data's first principal coordinate, against which an embedding of one column is
    drawn as well.
    """
    from matplotlib.figure import Figure

    found = _found(held)
    if not found:
        return None
    points = view.as_points()
    data = next(iter(found.values()))["data"]
    colours = _principal(data, points)
    panels = [("the data themselves", points.place(data))]
    panels += [(method, arrays["representations"]) for method, arrays in found.items()]
    columns = min(_COLUMNS, len(panels))
    down = ceil(len(panels) / columns)
    figure = Figure(figsize=(3.2 * columns, 3.4 * down + 0.5), dpi=DPI)
    figure.suptitle(plain(f"{task}: held-out rows as models embed them"), fontsize=10)
    for index, (name, x) in enumerate(panels):
        projection = "3d" if x.shape[1] == 3 else None
        axes: Any = figure.add_subplot(down, columns, index + 1, projection=projection)
        if x.shape[1] == 1:
            x = np.concatenate([x, colours[:, None]], axis=1)
            axes.set_xlabel("embedding", fontsize=7)
            axes.set_ylabel("first principal coordinate", fontsize=7)
        known = np.isfinite(x).all(axis=1) & np.isfinite(colours)
        axes.scatter(*x[known].T, c=colours[known], cmap="viridis", s=3.0, linewidths=0)
        if not known.all():
            name += f" ({1 - known.mean():.1%} not finite)"
        axes.set_title(plain(name), fontsize=8)
        axes.tick_params(labelsize=5)
    figure.tight_layout()
    return figure


def sorted_images_figure(task: str, held: Held, view: View) -> Any | None:
    """Held-out images in the order of an embedding of one column, evenly spaced by rank."""
    found = {m: arrays for m, arrays in _found(held).items() if _single(arrays)}
    if not found or view.pixels is None:
        return None
    pages = []
    for method, arrays in found.items():
        place = arrays["representations"][:, 0]
        order = np.argsort(place)[: int(np.isfinite(place).sum())]  # NaN comes last
        count = min(_ACROSS * _LINES, len(order))
        if count == 0:
            continue
        chosen = order[np.linspace(0, len(order) - 1, count).round().astype(int)]
        names = [f"{place[chosen[at]]:.2g}" for at in range(0, count, _ACROSS)]
        pages.append((method, view.pixels.images(arrays["data"][chosen]), names))
    if not pages:
        return None
    return sheets(f"{task}: held-out images along the embedding", pages, _ACROSS)


def _found(held: Held) -> dict[str, Mapping[str, Array]]:
    return {method: arrays for method, arrays in held.items() if "representations" in arrays}


def _single(arrays: Mapping[str, Array]) -> bool:
    return bool(arrays["representations"].shape[1] == 1)


def _principal(data: Array, points: View) -> Array:
    """The data's first principal coordinate, (N,); of more than three columns the view's."""
    if data.shape[1] > 3:
        first: Array = points.place(data)[:, 0]
        return first
    known = np.isfinite(data).all(axis=1)
    centred = data - (data[known].mean(axis=0) if known.any() else 0.0)
    axis = np.eye(1, data.shape[1])
    if known.sum() > 1:
        axis = np.linalg.svd(centred[known], full_matrices=False)[2][:1]
    along: Array = centred @ axis[0]
    return along
