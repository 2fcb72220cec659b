"""How rows become points of a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo_bench.records import DataInfo
from flowzoo_bench.report.images import Pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_POINTS = 2500


class View:
    """How rows become a picture: images, 3-D points, 2-D points, or principal components.

    Args:
        data: held-out rows, which decide the box and the components.
        info: of the record; None where rows are in other coordinates than the data's.
    """

    def __init__(self, data: Array, info: DataInfo | None) -> None:
        self.width = data.shape[1]
        self.pixels = Pixels.of(info, data)
        finite = data[np.isfinite(data).all(axis=1)]
        self.centre = finite.mean(axis=0) if len(finite) else np.zeros(self.width)
        self.axes: Array | None = None
        if self.width > 3:
            self.axes, self.scale = np.eye(2, self.width), np.ones(self.width)
        if self.width > 3 and len(finite) > 1:
            spread = finite.std(axis=0)
            self.scale = np.where(spread > 0, spread, 1.0)
            scaled = (finite - self.centre) / self.scale
            self.axes = np.linalg.svd(scaled, full_matrices=False)[2][:2]
        self.data = finite

    def as_points(self) -> View:
        """The same view without images."""
        return View(self.data, None)

    @property
    def projection(self) -> str | None:
        """Matplotlib's name for the axes."""
        return "3d" if self.width == 3 and self.pixels is None else None

    def place(self, x: Array) -> Array:
        """Rows as 1, 2 or 3 coordinates."""
        if self.axes is not None:
            return np.asarray(((x - self.centre) / self.scale) @ self.axes.T)
        return x if x.shape[1] > 1 else np.concatenate([x, np.zeros_like(x)], axis=1)

    def limits(self) -> list[tuple[float, float]]:
        """Box of the data, a little wider: stray samples fall outside instead of shrinking it."""
        if not len(self.data):
            return []
        placed = self.place(self.data)
        low, high = placed.min(axis=0), placed.max(axis=0)
        margin = 0.15 * np.maximum(high - low, 1e-3)
        return [(float(a), float(b)) for a, b in zip(low - margin, high + margin, strict=True)]


def point_panel(axes: Any, x: Array, colours: Array | None, view: View, *, own_box: bool) -> None:
    """The finite rows of x, in the box of the data or in their own; says how many are outside."""
    keep = np.isfinite(x).all(axis=1)
    points = view.place(x[keep])[:_POINTS]
    shown = "tab:blue" if colours is None else colours[keep][:_POINTS] % 20
    given = {} if colours is None else {"cmap": "tab20", "vmin": 0, "vmax": 19}
    limits = [] if own_box else view.limits()
    if limits:  # points outside the box would be drawn outside 3-D axes
        inside = np.all(
            [
                (low <= points[:, i]) & (points[:, i] <= high)
                for i, (low, high) in enumerate(limits)
            ],
            axis=0,
        )
        points = points[inside]
        if colours is not None:
            shown = np.asarray(shown)[inside]
        missing = 1.0 - inside.mean() if len(inside) else 0.0
        if missing > 0:
            note = f"{missing:.1%} outside"
            place: Callable[..., Any] = getattr(axes, "text2D", axes.text)
            place(0.02, 0.02, note, transform=axes.transAxes, fontsize=6)
        for setter, limit in zip(("set_xlim", "set_ylim", "set_zlim"), limits, strict=False):
            getattr(axes, setter)(*limit)
    if len(points):
        axes.scatter(*points.T, s=1.0, c=shown, linewidths=0, **given)
    axes.tick_params(labelsize=5)
