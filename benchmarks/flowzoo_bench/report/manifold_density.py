"""True and learned density along a manifold."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo_bench.report.panels import DPI, plain
from flowzoo_bench.report.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_COLUMNS = 4
_LEAST = 0.1  # nats between the ends of the colour map, at least


def manifold_density_figure(
    task: str, held: Mapping[str, Mapping[str, Array]], view: View
) -> Any | None:
    """log-density of held-out rows against the manifold's own area.

    In the plane and in space the rows in the colour of their density, the truth first; else the
    learned density of each row against the true one.
    """
    from matplotlib.figure import Figure

    found = {method: arrays for method, arrays in held.items() if "density/model" in arrays}
    if not found:
        return None
    placed = view.width <= 3
    first = next(iter(found.values()))
    panels = [("the true density", first["data"], first["density/true"])] if placed else []
    panels += [
        (method, arrays["data"], arrays["density/model"]) for method, arrays in found.items()
    ]
    low, high = _range([value for _, _, value in panels] + [first["density/true"]])
    columns = min(_COLUMNS, len(panels))
    down = ceil(len(panels) / columns)
    figure = Figure(figsize=(3.4 * columns + 0.8, 3.4 * down + 0.5), dpi=DPI, layout="constrained")
    figure.suptitle(plain(f"{task}: log-density along the manifold (nats)"), fontsize=9)
    drawn = []
    for index, (name, data, value) in enumerate(panels):
        projection = view.as_points().projection if placed else None
        axes: Any = figure.add_subplot(down, columns, index + 1, projection=projection)
        known = np.isfinite(value) & np.isfinite(data).all(axis=1)
        if placed:
            points = view.place(data[known]).T
            shown = axes.scatter(
                *points, c=value[known], cmap="viridis", vmin=low, vmax=high, s=3.0, linewidths=0
            )
            drawn.append((axes, shown))
        else:
            truth = found[name]["density/true"]
            axes.scatter(truth[known], value[known], s=3.0, linewidths=0)
            axes.plot([low, high], [low, high], color="black", linewidth=0.8)
            axes.set_xlabel("true", fontsize=7)
            axes.set_ylabel("learned", fontsize=7)
        note = "" if known.all() else f" ({1 - known.mean():.1%} not finite)"
        axes.set_title(plain(name + note), fontsize=8)
        axes.tick_params(labelsize=5)
    if drawn:
        bar = figure.colorbar(drawn[0][1], ax=[axes for axes, _ in drawn], shrink=0.8)
        bar.ax.tick_params(labelsize=6)
    return figure


def _range(values: list[Array]) -> tuple[float, float]:
    """Ends of the colour map: all but the outermost hundredth of all values."""
    known = np.concatenate([value[np.isfinite(value)] for value in values])
    if not len(known):
        return 0.0, 1.0
    low, high = (float(end) for end in np.quantile(known, [0.01, 0.99]))
    slack = max(0.0, _LEAST - (high - low)) / 2
    return low - slack, high + slack
