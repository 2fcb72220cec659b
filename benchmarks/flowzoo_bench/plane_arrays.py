"""A model's density on a grid over the plane, and the true one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flowzoo.interfaces import Mixture, Trained
from flowzoo_bench.latent_arrays import in_chunks
from flowzoo_bench.runspec import RunSpec
from flowzoo_bench.tasks.coordinates import coordinates

Arrays = dict[str, Tensor]

_CELLS = 100  # along each column
_MARGIN = 0.15  # of the data's width, on each side, as in pictures of samples
_DRAWS = 64  # a point: a picture shows no more, and 10 000 points are many


def plane_makers(trained: Trained) -> dict[str, Callable[[Trained, RunSpec], Arrays]]:
    """``plane`` for two columns and a model that has a density on them."""
    if trained.task.features == 2 and _evaluation(trained.model) is not None:
        return {"plane": _plane}
    return {}


def _evaluation(model: Mixture) -> str | None:
    """The first evaluation against Lebesgue measure: the only ones that mean a point in space."""
    for name, known in model.evaluations.items():
        if known.measure.kind == "lebesgue":
            return name
    return None


@torch.no_grad()
def _plane(trained: Trained, spec: RunSpec) -> Arrays:
    """log-densities in nats and original units at the middles of the cells of a grid.

    The grid follows from the test rows alone: it is the same for all methods. Row i, column j of
    ``plane/model`` and ``plane/true`` (100, 100) is at (``plane/first``[j], ``plane/second``[i]).
    ``plane/draws`` (1,) is how many draws a point an estimate or a bound was given.
    """
    first, second = (_middles(column) for column in trained.splits.test.T)
    x = torch.stack(torch.meshgrid(first, second, indexing="xy"), dim=-1).reshape(-1, 2)
    shape = (len(second), len(first))
    arrays = {"plane/first": first, "plane/second": second}
    found, draws = _scored(trained, x)
    arrays["plane/model"] = found.reshape(shape)
    if draws is not None:
        arrays["plane/draws"] = torch.tensor([draws])
    oracle = trained.task.oracle
    if (
        oracle is not None
        and oracle.measure.kind == "lebesgue"
        and oracle.likelihood.kind == "exact"
    ):
        arrays["plane/true"] = in_chunks(trained.task.log_prob, x).reshape(shape)
    return arrays


def _middles(column: Tensor) -> Tensor:
    """Middles of equal cells that fill the column's range and a margin, (100,) float64."""
    low, high = float(column.min()), float(column.max())
    margin = _MARGIN * max(high - low, 1e-3)
    width = (high - low + 2 * margin) / _CELLS
    return low - margin + width * (torch.arange(_CELLS, dtype=torch.float64) + 0.5)


def _scored(trained: Trained, x: Tensor) -> tuple[Tensor, int | None]:
    """log-density of x (N, 2) in original units, (N,) float64, and the draws a point, if any."""
    name = _evaluation(trained.model)
    if name is None:
        raise ValueError("evaluations: expected one against Lebesgue measure, got none")
    likelihood = trained.model.evaluations[name].likelihood
    if likelihood.kind == "exact":
        return in_chunks(lambda rows: trained.log_prob(rows, name), x), None
    draws = min(_DRAWS, likelihood.num_samples or _DRAWS)
    generator = torch.Generator(trained.inside(x[:1]).device).manual_seed(trained.seed)

    def score(rows: Tensor) -> Tensor:
        found = trained.model.log_prob(
            trained.inside(rows), evaluation=name, num_samples=draws, generator=generator
        )
        return found.to("cpu", torch.float64)

    volume = coordinates(trained.task, trained.splits.train).log_abs_det(x)
    return in_chunks(score, x) + volume, draws
