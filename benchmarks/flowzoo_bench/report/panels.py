"""Pictures of many panels: rows as points or as a sheet of images, a panel each."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from flowzoo_bench.report.images import draw_sheet
from flowzoo_bench.report.view import View, point_panel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

DPI = 100
_COLUMNS, _SIDE = 4, 6

Panel = tuple[str, "Array", "Array | None"]
"""Title, rows, and a number for each row that decides its colour."""


def plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")


def grid(
    title: str, panels: Sequence[Panel], view: View, *, columns: int = _COLUMNS, size: float = 3.2
) -> Any:
    """A figure of panels, ``size`` inches each; points after a layer have a box of their own."""
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = ceil(len(panels) / columns)
    figure = Figure(figsize=(size * columns, (size + 0.2) * rows + 0.5), dpi=DPI)
    figure.suptitle(plain(title))
    for index, (name, x, colours) in enumerate(panels):
        if view.pixels is not None:
            axes = figure.add_subplot(rows, columns, index + 1)
            draw_sheet(axes, view.pixels.images(x[: _SIDE**2]), _SIDE)
        else:
            axes = figure.add_subplot(rows, columns, index + 1, projection=view.projection)
            point_panel(axes, x, colours, view, own_box=name.startswith("after layer"))
        axes.set_title(plain(name), fontsize=8)
    figure.tight_layout(h_pad=2.0)
    return figure


def sheets(title: str, panels: Sequence[tuple[str, Array, Sequence[str]]], columns: int) -> Any:
    """A figure of sheets of images (N, H, W, 3), ``columns`` wide, whose rows have names."""
    from matplotlib.figure import Figure

    across = min(2, len(panels))
    down = ceil(len(panels) / across)
    lines = max(ceil(len(images) / columns) for _, images, _ in panels)
    size = (across * (0.45 * columns + 0.8), down * (0.45 * lines + 0.4) + 0.5)
    figure = Figure(figsize=size, dpi=DPI)
    figure.suptitle(plain(title))
    for index, (name, images, names) in enumerate(panels):
        axes = figure.add_subplot(down, across, index + 1)
        draw_sheet(axes, images, columns, names)
        axes.set_title(plain(name), fontsize=8)
    figure.tight_layout()
    return figure
