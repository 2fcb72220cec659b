"""``python -m flowzoo_bench.speed.importance_memory``: memory of importance sampling against S.

log p of N rows by S draws each of an LGF, every S in a process of its own: the draws are weighed
and summed in blocks, so the peak does not grow with S.
"""

from __future__ import annotations

import csv
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer

from flowzoo import registry

DRAWS = (10, 100, 1000)
_MIB = 2**20
_OPTIONS = {  # the smallest of the paper's models for MINIBOONE (appendix D.3)
    "base_flow": {"name": "maf", "layers": 5, "hidden": [128, 128]},
    "index_features": 10,
    "p_hidden": [128, 128],
    "q_hidden": [128, 128],
    "st_hidden": [128, 128],
}


class Row(NamedTuple):
    """One S.

    Attributes:
        num_samples: S.
        peak_mib: largest resident memory of the process.
        added_mib: how much of it the call added to what the process had held at most before.
        seconds: of the call.
        mean: of the log-densities, nats.
    """

    num_samples: int
    peak_mib: float
    added_mib: float
    seconds: float
    mean: float


def measure(num_samples: int, rows: int, features: int) -> Row:
    """Score ``rows`` x ``features`` numbers in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = registry.build("mixture", "lgf", features=features, **_OPTIONS).eval()
    x = torch.randn(rows, features)
    with torch.no_grad():
        model.log_prob(x[:8], num_samples=10)  # warm-up
        before = _peak()
        began = time.perf_counter()
        found = model.log_prob(x, num_samples=num_samples)
        seconds = time.perf_counter() - began
    peak = _peak()
    return Row(num_samples, peak, peak - before, seconds, float(found.mean()))


def _peak() -> float:
    """Largest resident memory of this process so far, MiB."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib * 1024 / _MIB if sys.platform != "darwin" else kib / _MIB


def main(
    rows: Annotated[int, typer.Option(help="N.")] = 2000,
    features: Annotated[int, typer.Option(help="D.")] = 43,
    draws: Annotated[int | None, typer.Option(help="One S, in this process.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the table.")] = None,
) -> None:
    """Peak memory for S = 10, 100 and 1000, a process each."""
    if draws is not None:
        print(*measure(draws, rows, features))
        return
    found = []
    for count in DRAWS:
        sizes = ["--rows", str(rows), "--features", str(features), "--draws", str(count)]
        command = [sys.executable, "-m", __spec__.name, *sizes]
        line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        found.append(Row(int(line[0]), *(float(number) for number in line[1:])))
        print(found[-1], flush=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows([row[0], *(f"{value:.4g}" for value in row[1:])] for row in found)


if __name__ == "__main__":
    typer.run(main)
