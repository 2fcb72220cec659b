"""``python -m flowzoo_bench.speed.low_rank``: a low-rank Gaussian by Woodbury and by matrices.

Both compute log N(y; b, A A' + Sigma) and its gradient. By Woodbury that is O(N D d + D d^2 + d^3),
by the D x D covariance O(N D^2 + D^3).
"""

from __future__ import annotations

import csv
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import torch
import typer
from torch import Tensor

from flowzoo.priors import NoisyInjectiveGaussian

FEATURES = (64, 784, 3072)
LATENT = (4, 16, 64, 128)
_LOG_2PI = math.log(2.0 * math.pi)


class Row(NamedTuple):
    """One size, timed both ways.

    Attributes:
        features: D.
        latent_features: d.
        woodbury_ms, dense_ms: medians, CPU time of a batch, forward and backward.
        woodbury_least_ms, dense_least_ms: the fastest round of each.
        difference: largest |difference| of the two log-densities in float64, nats.
    """

    features: int
    latent_features: int
    woodbury_ms: float
    woodbury_least_ms: float
    dense_ms: float
    dense_least_ms: float
    difference: float


def dense_log_prob(prior: NoisyInjectiveGaussian, y: Tensor) -> Tensor:
    """log N(y; b, A A' + Sigma), (N,), by a Cholesky factor of the (D, D) covariance."""
    lower = torch.linalg.cholesky(prior.covariance())
    white = torch.linalg.solve_triangular(lower, (y - prior.bias).T, upper=False)
    log_det: Tensor = 2.0 * lower.diagonal().log().sum()
    squares: Tensor = white.square().sum(dim=0)
    log_prob: Tensor = -0.5 * (squares + log_det + prior.features * _LOG_2PI)
    return log_prob


def main(
    rounds: Annotated[int, typer.Option(help="Timed rounds of both ways.")] = 7,
    batch: Annotated[int, typer.Option(help="Rows of a batch.")] = 128,
    threads: Annotated[int, typer.Option(help="Threads torch may use.")] = 1,
    seconds: Annotated[float, typer.Option(help="About how long each runs a round.")] = 0.1,
    out: Annotated[Path | None, typer.Option(help="Folder for table and figure.")] = None,
) -> None:
    """Time density and gradient of a low-rank Gaussian both ways, in interleaved rounds."""
    if min(rounds, batch, threads) < 1 or not seconds > 0:
        raise typer.BadParameter("expected rounds, batch, threads >= 1 and seconds > 0")
    torch.set_num_threads(threads)
    load = f"load average before the run {os.getloadavg()[0]:.2f}"
    header = (
        f"torch {torch.__version__}, {threads} thread{'s' if threads > 1 else ''}, "
        f"{platform.machine()}, float32, batch {batch}; forward and backward, CPU time, "
        f"median of {rounds} interleaved rounds; {load}"
    )
    sizes = [(features, latent) for features in FEATURES for latent in LATENT if latent < features]
    rows = []
    for features, latent in sizes:
        rows.append(measure(features, latent, batch=batch, rounds=rounds, seconds=seconds))
        print(rows[-1], flush=True)
    if out is not None:
        write(rows, header, out)


def measure(features: int, latent: int, *, batch: int, rounds: int, seconds: float) -> Row:
    """Time one size both ways."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = NoisyInjectiveGaussian(features, latent_features=latent)
        y = torch.randn(batch, features)
    ways: tuple[Callable[[Tensor], Tensor], ...] = (
        prior.log_prob,
        lambda rows: dense_log_prob(prior, rows),
    )
    prior.double()
    with torch.no_grad():
        woodbury, dense = (way(y.double()) for way in ways)
    difference = float((woodbury - dense).abs().max())
    prior.float()
    counts = [max(1, int(seconds / min(_time(prior, way, y, 1) for _ in range(2)))) for way in ways]
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for way, count, found in zip(ways, counts, times, strict=True):
            found.append(1e3 * _time(prior, way, y, count))
    ours, theirs = times
    return Row(features, latent, median(ours), min(ours), median(theirs), min(theirs), difference)


def _time(
    prior: NoisyInjectiveGaussian, way: Callable[[Tensor], Tensor], y: Tensor, count: int
) -> float:
    """CPU seconds of one density and gradient, the mean of ``count``.

    The process's own time, which other work on the machine disturbs least.
    """
    began = time.process_time()
    for _ in range(count):
        prior.zero_grad(set_to_none=True)
        torch.autograd.backward(way(y).mean())
    return (time.process_time() - began) / count


def write(rows: Sequence[Row], header: str, out: Path) -> None:
    """``table.csv``, ``table.md`` and ``cost.png`` in the folder ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(Row._fields)
        table.writerows([f"{value:.6g}" for value in row] for row in rows)
    lines = [
        "# A low-rank Gaussian by Woodbury and by its covariance",
        "",
        header,
        "",
        "| D | d | Woodbury, ms | dense, ms | dense / Woodbury | difference in float64, nats |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = row.dense_ms / row.woodbury_ms
        lines.append(
            f"| {row.features} | {row.latent_features} | {row.woodbury_ms:.3f} "
            f"| {row.dense_ms:.3f} | {ratio:.2f} | {row.difference:.1e} |"
        )
    (out / "table.md").write_text("\n".join([*lines, ""]), "utf-8")
    _draw(rows, out / "cost.png")


def _draw(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.6), layout="constrained")
    axes = figure.subplots()
    for latent in sorted({row.latent_features for row in rows}):
        own = [row for row in rows if row.latent_features == latent]
        sizes = [row.features for row in own]
        axes.plot(sizes, [row.woodbury_ms for row in own], "o-", label=f"Woodbury, d = {latent}")
    sizes = sorted({row.features for row in rows})
    dense = [median(row.dense_ms for row in rows if row.features == size) for size in sizes]
    axes.plot(sizes, dense, "ks--", label="D x D covariance")
    axes.set(xscale="log", yscale="log", xlabel="D", ylabel="density and gradient, CPU ms a batch")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    typer.run(main)
