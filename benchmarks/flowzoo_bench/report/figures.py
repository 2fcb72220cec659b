"""PNG figures from the arrays beside the records; matplotlib without its global state."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from flowzoo_bench.records import ARRAYS, NO_PICTURES, DataInfo
from flowzoo_bench.report.embeddings import embeddings_figure
from flowzoo_bench.report.knob_curves import knob_curves_figure
from flowzoo_bench.report.knob_samples import Knob, knob_samples_figure
from flowzoo_bench.report.knobs import by_setting, knob_scores
from flowzoo_bench.report.latent import latent_figure
from flowzoo_bench.report.learning import learning_figure
from flowzoo_bench.report.load import Results, Run, files_of
from flowzoo_bench.report.manifold_density import manifold_density_figure
from flowzoo_bench.report.markdown import number
from flowzoo_bench.report.monitored import monitored_figure
from flowzoo_bench.report.plane_density import plane_figure
from flowzoo_bench.report.representations import representations_figure, sorted_images_figure
from flowzoo_bench.report.rows_drawn import (
    charts_figure,
    layers_figure,
    reconstructions_figure,
    samples_figure,
)
from flowzoo_bench.report.spectra import spectra_figure
from flowzoo_bench.report.stability import stability_figure
from flowzoo_bench.report.sweeps import sweep_figure
from flowzoo_bench.report.table import HEADLINE, LEBESGUE, MEASURED, TableRow
from flowzoo_bench.report.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def draw_figures(results: Results, rows: list[TableRow]) -> list[str]:
    """Of each task: what the arrays of its runs hold, learning curves, sweeps, scores by knob.

    Returns:
        What could not be drawn and why: a picture that fails costs no other.
    """
    folder = _Folder(results.out / "figures", _slugs(results.tasks), _slugs(results.methods))
    missing: list[Path] = []
    found = False
    for task in results.tasks:
        arrays: dict[str, Mapping[str, Array]] = {}
        info: DataInfo | None = None
        for method in results.methods:
            run, held = _drawn(results, task, method, folder.problems, missing)
            if run is not None and held is not None:
                arrays[method] = held
                info = info or (run.record.data if run.record else None)
        if arrays:
            found = True
            _data_figures(folder, task, arrays, info)
            scores = _log_likelihoods(rows, task)
            folder.draw(task, "plane", partial(plane_figure, task, arrays, scores))
        folder.draw(task, "curves", partial(learning_figure, results, task))
        folder.draw(task, "stability", partial(stability_figure, results, task))
        folder.draw(task, "monitored", partial(monitored_figure, results, task))
        for option in dict.fromkeys(point.option for point in results.sweeps.values()):
            draw = partial(sweep_figure, results, rows, task, option)
            folder.draw(task, f"sweep-{_slug(option)}", draw)
        for measured in by_setting(knob_scores(rows, task)):
            kind = _slug(f"scores vs {measured[0].knob} {measured[0].fixed}")
            folder.draw(task, kind, partial(knob_curves_figure, task, measured))
    if found:
        folder.problems += [f"{path}: not there, nothing is drawn from it" for path in missing]
    elif missing:  # records that came without their arrays
        folder.problems.append(f"no pictures of data: no run has its {ARRAYS}")
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
    folder: _Folder,
    task: str,
    arrays: Mapping[str, Mapping[str, Array]],
    info: DataInfo | None,
) -> None:
    view = View(next(iter(arrays.values()))["data"], info)
    folder.draw(task, "samples", partial(samples_figure, task, arrays, view))
    folder.draw(task, "charts", partial(charts_figure, task, arrays, view))
    for knob in get_args(Knob):
        kind = knob.replace("_", "-")
        folder.draw(task, kind, partial(knob_samples_figure, task, arrays, view, knob))
    draw = partial(reconstructions_figure, task, arrays, view)
    folder.draw(task, "reconstructions", draw)
    folder.draw(task, "embeddings", partial(embeddings_figure, task, arrays))
    folder.draw(task, "spectrum", partial(spectra_figure, task, arrays))
    folder.draw(task, "codes", partial(latent_figure, task, arrays))
    draw = partial(representations_figure, task, arrays, view)
    folder.draw(task, "representations", draw)
    folder.draw(task, "sorted-images", partial(sorted_images_figure, task, arrays, view))
    folder.draw(task, "density", partial(manifold_density_figure, task, arrays, view))
    for method, held in arrays.items():
        kind = f"layers-{folder.methods[method]}"
        folder.draw(task, kind, partial(layers_figure, task, method, held))


def _log_likelihoods(rows: Iterable[TableRow], task: str) -> dict[str, str]:
    """Of densities on R^D, as the table shows them, by method."""
    return {
        row.method: number(row)
        for row in rows
        if row.task == task and row.metric == HEADLINE and row.measure == LEBESGUE and number(row)
    }


def _drawn(
    results: Results, task: str, method: str, problems: list[str], missing: list[Path]
) -> tuple[Run | None, Mapping[str, Array] | None]:
    """The first replicate that went well and has arrays; else the first that was measured."""
    runs = [run for run in results.of(task, method) if run.status in MEASURED]
    for run in sorted(runs, key=lambda run: run.status != "ok"):  # the order is kept otherwise
        path = files_of(results.out, run) / ARRAYS
        try:
            return run, _arrays(path)
        except FileNotFoundError:
            record = run.record
            if record is None or (run.status != "ok" and not record.metrics):
                continue  # failed before there were any
            if NO_PICTURES not in record.reason:
                missing.append(path.relative_to(results.out))
        except (OSError, ValueError) as error:
            text = " ".join(str(error).split())[:200]
            problems.append(f"{path.relative_to(results.out)}: not drawn from: {text}")
    return None, None


def _arrays(path: Path) -> Mapping[str, Array]:
    """The arrays of a run.

    Raises:
        OSError: they cannot be read.
        ValueError: the file is damaged, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        held: dict[str, Array] = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"damaged: {error}") from error
    if not {"data", "samples"} <= held.keys():
        raise ValueError(f"expected data and samples, got {sorted(held)}")
    return held


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
