"""Densities over the plane, a panel a method."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo_bench.report.images import NOT_FINITE
from flowzoo_bench.report.panels import DPI, plain
from flowzoo_bench.report.table import ORACLE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_COLUMNS, _POINTS = 4, 400
_ABOVE = 0.01  # of the mass, where the colour scale is at its end
_LARGEST = 700.0  # nats: beyond, a density is no float64

Box = tuple[float, float, float, float]


def plane_figure(
    task: str, held: Mapping[str, Mapping[str, Array]], scores: Mapping[str, str]
) -> Any | None:
    """The data, the true density where it is known, then each method's, in one colour scale.

    The scale ends at the density that a hundredth of the true mass lies above; without the truth at
    the median of what the methods say of themselves, so that no spike sets it.

    Args:
        task: label.
        held: arrays of a run of each method.
        scores: test log-likelihoods as the table shows them, by method.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    found = {method: arrays for method, arrays in held.items() if "plane/model" in arrays}
    if not found:
        return None
    first = next(iter(found.values()))
    panels = [(method, method, arrays["plane/model"], arrays) for method, arrays in found.items()]
    known = [arrays for arrays in found.values() if "plane/true" in arrays]
    top = float(np.median([_level(value) for _, _, value, _ in panels]))
    if known:
        truth = known[0]["plane/true"]
        top = _level(truth)
        panels.insert(0, (ORACLE, "the true density", truth, known[0]))
    top = top if top > 0 else 1.0
    columns = min(_COLUMNS, 1 + len(panels))
    down = ceil((1 + len(panels)) / columns)
    figure = Figure(figsize=(3.0 * columns + 0.8, 3.2 * down + 0.6), dpi=DPI, layout="constrained")
    title = f"{task}: density of one replicate; test log-likelihood in nats over all"
    figure.suptitle(plain(title), fontsize=9)
    axes = figure.add_subplot(down, columns, 1)
    _data_panel(axes, first["data"], _box(first))
    drawn = [axes]
    colours = colormaps["viridis"].with_extremes(bad=NOT_FINITE)
    for index, (method, name, value, arrays) in enumerate(panels):
        axes = figure.add_subplot(down, columns, index + 2)
        image = axes.imshow(
            _density(value),
            cmap=colours,
            vmin=0.0,
            vmax=top,
            origin="lower",
            extent=_box(arrays),
            aspect="auto",
            interpolation="nearest",
        )
        axes.set_title(plain(_title(method, name, value, arrays, scores)), fontsize=8)
        axes.tick_params(labelsize=5)
        drawn.append(axes)
    bar = figure.colorbar(image, ax=drawn, shrink=0.8, extend="max")
    bar.ax.tick_params(labelsize=6)
    return figure


def _title(
    method: str, name: str, value: Array, arrays: Mapping[str, Array], scores: Mapping[str, str]
) -> str:
    """The method, its number, and what a reader should know of the picture."""
    lines = [name, f"{scores[method]} nats" if method in scores else ""]
    if method != ORACLE and "plane/draws" in arrays:
        lines.append(f"here by {int(arrays['plane/draws'][0])} draws a point")
    bad = 1.0 - _is_density(value).mean()
    if bad > 0:
        lines.append(f"{bad:.1%} not finite")
    return "\n".join(line for line in lines if line)


def _data_panel(axes: Any, data: Array, box: Box) -> None:
    points = data[np.isfinite(data).all(axis=1)][:_POINTS]
    axes.scatter(*points.T, s=3.0, alpha=0.4, linewidths=0)
    axes.set_xlim(*box[:2])
    axes.set_ylim(*box[2:])
    axes.set_title("data", fontsize=8)
    axes.tick_params(labelsize=5)


def _box(arrays: Mapping[str, Array]) -> Box:
    """Ends of the grid, whose cells lie around the points that were scored."""
    ends = []
    for axis in (arrays["plane/first"], arrays["plane/second"]):
        half = float(axis[-1] - axis[0]) / (len(axis) - 1) / 2
        ends += [float(axis[0]) - half, float(axis[-1]) + half]
    left, right, low, high = ends
    return left, right, low, high


def _is_density(value: Array) -> Array:
    """Where a log-density is one: finite, or minus infinity."""
    found: Array = ~(np.isnan(value) | np.isposinf(value))
    return found


def _density(value: Array) -> Array:
    """exp of log-densities, NaN where they are none."""
    found: Array = np.exp(np.minimum(value.astype(np.float64), _LARGEST))
    return np.where(_is_density(value), found, np.nan)


def _level(value: Array) -> float:
    """The density with a hundredth of the grid's mass above it; 0 without any mass."""
    density = np.sort(_density(value)[_is_density(value)])
    if not len(density):
        return 0.0
    mass = np.cumsum(density)
    return float(density[np.searchsorted(mass, (1.0 - _ABOVE) * mass[-1])])
