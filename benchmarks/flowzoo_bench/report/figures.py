"""PNG figures from the arrays beside the records; matplotlib without its global state."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil, isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo_bench.records import ARRAYS, Record
from flowzoo_bench.report.load import Results, Run, files_of
from flowzoo_bench.report.sweeps import plain, sweep_figure
from flowzoo_bench.report.table import TableRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[Any]

_DPI, _COLUMNS, _POINTS = 100, 4, 2500


def draw_figures(results: Results, rows: list[TableRow]) -> list[str]:
    """Samples, charts, layers, learning curves and sweeps of each task.

    Returns:
        What could not be drawn and why: a picture that fails costs no other.
    """
    folder = _Folder(results.out / "figures", _slugs(results.tasks), _slugs(results.methods))
    for task in results.tasks:
        arrays: dict[str, Mapping[str, Array]] = {}
        record: Record | None = None
        for method in results.methods:
            run = _first_ok(results.of(task, method))
            if run is None:
                continue
            held = _arrays(files_of(results.out, run) / ARRAYS)
            if held is not None:
                arrays[method] = held
                record = record or run.record
        if arrays and record is not None:
            _data_figures(folder, task, arrays, record)
        folder.draw(task, "curves", partial(_curves, results, task))
        for option in dict.fromkeys(point.option for point in results.sweeps.values()):
            draw = partial(sweep_figure, results, rows, task, option)
            folder.draw(task, f"sweep-{_slug(option)}", draw)
    return folder.problems


@dataclass
class _Folder:
    """Where pictures go, and what went wrong."""

    path: Path
    tasks: Mapping[str, str]
    methods: Mapping[str, str]
    problems: list[str] = field(default_factory=list)

    def draw(self, task: str, kind: str, make: Callable[[], Any | None]) -> None:
        """Write ``TASK-KIND.png`` unless there is nothing to draw."""
        from flowzoo.training.checkpoint import write_atomically

        name = f"{self.tasks[task]}-{kind}.png"
        try:
            figure = make()
            if figure is None:
                return
            picture = io.BytesIO()
            figure.savefig(picture, format="png")  # a bare Figure brings its own Agg canvas
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            self.problems.append(f"figures/{name} not drawn: {type(error).__name__}: {text}")
            return
        write_atomically(self.path / name, picture.getvalue())


def _data_figures(
    folder: _Folder, task: str, arrays: Mapping[str, Mapping[str, Array]], record: Record
) -> None:
    data = next(iter(arrays.values()))["data"]
    view = _View(data, record)
    panels: list[tuple[str, Array, Array | None]] = [("held-out data", data, None)]
    panels += [(method, held["samples"], None) for method, held in arrays.items()]
    folder.draw(task, "samples", partial(_grid, f"{task}: samples", panels, view))
    charts = [
        (f"{method}: {what}", held[name], held[chart])
        for method, held in arrays.items()
        for what, name, chart in (
            ("data", "data", "data_charts"),
            ("samples", "samples", "sample_charts"),
        )
        if chart in held
    ]
    if charts:
        title = f"{task}: charts in colour"
        folder.draw(task, "charts", partial(_grid, title, charts, view.as_points()))
    for method, held in arrays.items():
        layers = sorted(name for name in held if name.startswith("layers/"))
        if layers:
            colours = held.get("data_charts")
            if colours is None:  # follow points by where they began
                colours = np.argsort(np.argsort(held["layers/00"][:, 0])) * 10 // len(data)
            steps = [
                ("data" if index == 0 else f"after layer {index}", held[name], colours)
                for index, name in enumerate(layers)
            ]
            title, own = f"{task}: {method}, layer by layer", _View(held[layers[0]], None)
            kind = f"layers-{folder.methods[method]}"
            folder.draw(task, kind, partial(_grid, title, steps, own))


class _View:
    """How rows become a picture: 3-D points, 2-D points, principal components, or images."""

    def __init__(self, data: Array, record: Record | None) -> None:
        self.width = data.shape[1]
        side = isqrt(self.width)
        pixels = record is not None and record.data is not None and record.data.bin_width
        self.images = bool(pixels) and side * side == self.width and side >= 4
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

    def as_points(self) -> _View:
        """The same view without images."""
        return _View(self.data, None)

    @property
    def projection(self) -> str | None:
        """Matplotlib's name for the axes."""
        return "3d" if self.width == 3 else None

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


def _grid(title: str, panels: Sequence[tuple[str, Array, Array | None]], view: _View) -> Any:
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = ceil(len(panels) / columns)
    figure = Figure(figsize=(3.2 * columns, 3.2 * rows + 0.5), dpi=_DPI)
    figure.suptitle(plain(title))
    for index, (name, x, colours) in enumerate(panels):
        if view.images:
            axes = figure.add_subplot(rows, columns, index + 1)
            _image_panel(axes, x)
        else:
            axes = figure.add_subplot(rows, columns, index + 1, projection=view.projection)
            _point_panel(axes, x, colours, view, own_box=name.startswith("after layer"))
        axes.set_title(plain(name), fontsize=8)
    figure.tight_layout()
    return figure


def _image_panel(axes: Any, x: Array, side_count: int = 6) -> None:
    side = isqrt(x.shape[1])
    rows = x[: side_count**2]
    rows = np.where(np.isfinite(rows), rows, 0.0)
    sheet = np.zeros((side_count**2, side, side))
    sheet[: len(rows)] = rows.reshape(-1, side, side)
    tiles = sheet.reshape(side_count, side_count, side, side).transpose(0, 2, 1, 3)
    low, high = np.quantile(rows, [0.01, 0.99]) if len(rows) else (0.0, 1.0)
    axes.imshow(
        tiles.reshape(side_count * side, side_count * side), cmap="gray", vmin=low, vmax=high
    )
    axes.set_axis_off()


def _point_panel(axes: Any, x: Array, colours: Array | None, view: _View, *, own_box: bool) -> None:
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


def _curves(results: Results, task: str) -> Any | None:
    """Validation objective by epoch, a panel a stage name; thin lines are replicates."""
    from matplotlib.figure import Figure

    stages: dict[str, dict[str, list[list[tuple[int, float]]]]] = {}
    for method in results.methods:
        for run in results.of(task, method):
            for curve in run.record.curves if run.record else ():
                points = [(p.epoch, p.valid) for p in curve.points if p.valid is not None]
                if points:
                    by_method = stages.setdefault(curve.stage, {})
                    by_method.setdefault(method, []).append(points)
    if not stages:
        return None
    figure = Figure(figsize=(5.5 * len(stages), 4.0), dpi=_DPI)
    figure.suptitle(plain(f"{task}: validation objective (training coordinates)"))
    for index, (stage, by_method) in enumerate(stages.items()):
        axes = figure.add_subplot(1, len(stages), index + 1)
        values = []
        for number, (method, lines) in enumerate(by_method.items()):
            for replicate, points in enumerate(lines):
                epochs, valid = zip(*points, strict=True)
                values += list(valid)
                axes.plot(
                    epochs,
                    valid,
                    color=f"C{number % 10}",
                    linestyle=("-", "--", ":")[number // 10 % 3],
                    linewidth=0.8,
                    label=plain(method) if replicate == 0 else None,
                )
        low, high = np.quantile(values, [0.0, 0.98])
        pad = 0.05 * max(high - low, 1e-6)
        axes.set_ylim(low - pad, high + pad)
        axes.set_title(plain(stage), fontsize=9)
        axes.set_xlabel("epoch")
        beside: dict[str, Any] = {}
        if len(by_method) > 8:  # a long list would hide the curves
            beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
        axes.legend(fontsize=6, **beside)
    figure.tight_layout()
    return figure


def _first_ok(runs: Iterable[Run]) -> Run | None:
    return next((run for run in runs if run.status == "ok"), None)


def _arrays(path: Path) -> Mapping[str, Array] | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        held: dict[str, Array] = load_file(path)
    except (OSError, SafetensorError):
        return None
    return held if {"data", "samples"} <= held.keys() else None


def _slugs(labels: Iterable[str]) -> dict[str, str]:
    """A file name for each label, no two alike even where case does not count."""
    found: dict[str, str] = {}
    for label in labels:
        stem = name = _slug(label)
        number = 1
        while name in found.values():
            number += 1
            name = f"{stem}-{number}"
        found[label] = name
    return found


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "x"
