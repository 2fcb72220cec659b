"""``python -m flowzoo_bench.speed``: ms per training step per model, side by side."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer

from flowzoo_bench.allocator import keep_freed_memory
from flowzoo_bench.speed.architecture import ARCHITECTURES, Architecture
from flowzoo_bench.speed.contenders import contenders


def main(
    rounds: Annotated[int, typer.Option(help="Timed rounds of all contenders.")] = 7,
    seconds: Annotated[float, typer.Option(help="About how long each runs a round.")] = 1.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder for speed.json and speed.md.")] = None,
) -> None:
    """Time training steps of the same nets in every library, in interleaved rounds."""
    if rounds < 1 or not seconds > 0:
        raise typer.BadParameter(f"expected rounds >= 1 and seconds > 0, got {rounds}, {seconds}")
    keep_freed_memory()
    target = torch.device(device)
    hardware = torch.cuda.get_device_name(target) if target.type == "cuda" else platform.machine()
    header = (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {hardware}; D = 3, batch "
        f"128, batch-norm after every layer, fused Adam; median of {rounds} interleaved rounds"
    )
    lines = ["# Training speed: ms per step per model", "", header, ""]
    records: list[dict[str, object]] = []
    for shape in ARCHITECTURES:
        times = _times(shape, target, rounds, seconds)
        base = times["nflows"]
        lines += [
            f"## {shape.label}",
            "",
            "| | ms | min | max | / nflows |",
            "|---|---|---|---|---|",
        ]
        for name, values in times.items():
            ratio = median(v / b for v, b in zip(values, base, strict=True))
            row = [1e3 * x for x in (median(values), min(values), max(values))]
            lines.append(f"| {name} | {row[0]:.3f} | {row[1]:.3f} | {row[2]:.3f} | {ratio:.3f} |")
            records.append(
                {"flow": shape.label, "contender": name, "ms": [1e3 * v for v in values]}
            )
        lines.append("")
        print("\n".join(lines[-len(times) - 5 :]), flush=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "speed.md").write_text("\n".join(lines), "utf-8")
        (out / "speed.json").write_text(
            json.dumps({"setting": header, "rows": records}, indent=1), "utf-8"
        )


def _times(
    shape: Architecture, device: torch.device, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Seconds per step per model of every contender, one value a round."""
    rows = contenders(shape, device)
    steps = {}
    for name, (members, run) in rows.items():
        run(3)  # warm-up, untimed
        steps[name] = max(3, int(seconds / (run(3) * members)))
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, (_, run) in rows.items():
            times[name].append(run(steps[name]))
    return times


if __name__ == "__main__":
    typer.run(main)
