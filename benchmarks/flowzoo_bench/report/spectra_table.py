"""The spectra of all runs as one table; the figures draw the first replicate's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowzoo_bench.records import ARRAYS
from flowzoo_bench.report.load import Results, files_of
from flowzoo_bench.report.table import MEASURED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_MOST = 40  # values of a line, of up to thousands


@dataclass(frozen=True)
class SpectrumRow:
    """One row of ``spectra.csv``: variance over noise along the directions of one latent space.

    Attributes:
        task, method, replicate: the run.
        part: of the model's, from 0.
        found: the axes that the rule counts (``rank_of_spectrum``).
        directions: how many there are.
        ratios: the first 40, largest first, 4 digits, separated by spaces.
    """

    task: str
    method: str
    replicate: int
    part: int
    found: float | None
    directions: int
    ratios: str


def spectrum_rows(results: Results) -> list[SpectrumRow]:
    """Of every run that kept its spectrum, a row a part; unreadable arrays are problems."""
    rows = []
    for run in results.runs:
        if run.status not in MEASURED:
            continue
        path = files_of(results.out, run) / ARRAYS
        try:
            values, found = _spectrum(path)
        except FileNotFoundError:
            continue  # the figures' report says so
        except (OSError, ValueError) as error:
            if "spectrum" not in run.spec.keep:
                continue  # nor would it have one
            text = " ".join(str(error).split())[:200]
            results.problems.append(f"{path.relative_to(results.out)}: no spectrum read: {text}")
            continue
        for part, line in enumerate(values):
            rows.append(
                SpectrumRow(
                    run.spec.task_label,
                    run.spec.method_label,
                    run.spec.replicate,
                    part,
                    float(found[part]) if part < len(found) else None,
                    len(line),
                    " ".join(f"{value:.4g}" for value in line[:_MOST]),
                )
            )
    return rows


def _spectrum(path: Path) -> tuple[Array | Sequence[Array], Array | Sequence[float]]:
    """The spectrum, a line a part, and the axes counted; both empty where there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as held:
            names = set(held.keys())
            values = held.get_tensor("spectrum/values") if "spectrum/values" in names else ()
            found = held.get_tensor("spectrum/found") if "spectrum/found" in names else ()
    except SafetensorError as error:
        raise ValueError(f"damaged: {error}") from error
    return values, found
