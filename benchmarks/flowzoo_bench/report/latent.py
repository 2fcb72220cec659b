"""Latent rows of the data beside draws of the prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo_bench.report.panels import DPI, plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_COLUMNS, _POINTS = 4, 2500
_PRIOR, _DATA = "tab:blue", "tab:red"


def latent_figure(task: str, held: Mapping[str, Mapping[str, Array]]) -> Any | None:
    """Codes of held-out rows (red) over draws of the prior (blue), a panel each in space.

    All axes of a method have one scale, so that a prior without width in a direction looks it.
    """
    from matplotlib.figure import Figure

    found = {method: arrays for method, arrays in held.items() if "codes/data" in arrays}
    if not found:
        return None
    panels: list[tuple[str, list[tuple[Array, str]], list[tuple[float, float]]]] = []
    for method, arrays in found.items():
        prior, data = _finite(arrays["codes/prior"]), _finite(arrays["codes/data"])
        box = _cube(np.concatenate([prior, data]))
        if data.shape[1] == 3:
            panels.append((f"{method}: data", [(data, _DATA)], box))
            panels.append((f"{method}: prior", [(prior, _PRIOR)], box))
        else:
            panels.append((method, [(prior, _PRIOR), (data, _DATA)], box))
    columns = min(_COLUMNS, len(panels))
    down = ceil(len(panels) / columns)
    figure = Figure(figsize=(3.4 * columns, 3.6 * down + 0.5), dpi=DPI)
    title = f"{task}: latent space\ncodes of held-out rows red, draws of the prior blue"
    figure.suptitle(plain(title), fontsize=9)
    for index, (name, clouds, box) in enumerate(panels):
        projection = "3d" if len(box) == 3 else None
        axes = figure.add_subplot(down, columns, index + 1, projection=projection)
        _panel(axes, clouds, box)
        axes.set_title(plain(name), fontsize=8)
    figure.tight_layout()
    return figure


def _panel(
    axes: Any, clouds: Sequence[tuple[Array, str]], box: Sequence[tuple[float, float]]
) -> None:
    for points, colour in clouds:
        low, high = np.array(box)[: points.shape[1]].T
        inside = ((low <= points) & (points <= high)).all(axis=1)  # 3-D axes do not clip
        placed = points[inside][:_POINTS].T
        if len(placed) == 1:
            placed = np.concatenate([placed, np.zeros_like(placed)])
        axes.scatter(*placed, s=2.0, c=colour, linewidths=0)
    for setter, limits in zip(("set_xlim", "set_ylim", "set_zlim"), box, strict=False):
        getattr(axes, setter)(*limits)
    if len(box) == 3:
        axes.set_box_aspect((1, 1, 1))
    else:
        axes.set_aspect("equal")
    axes.tick_params(labelsize=5)


def _finite(x: Array) -> Array:
    kept: Array = x[np.isfinite(x).all(axis=1)]
    return kept


def _cube(points: Array) -> list[tuple[float, float]]:
    """A box with equal sides around all but stray points, for one column as well a square."""
    width = max(points.shape[1], 2)
    low, high = np.zeros(width), np.zeros(width)
    if len(points):
        ends = np.quantile(points, [0.005, 0.995], axis=0)
        low[: points.shape[1]], high[: points.shape[1]] = ends
    half = 0.6 * max(float((high - low).max()), 1e-6)
    centre = (low + high) / 2
    return [(float(c - half), float(c + half)) for c in centre]
