"""What the pictures of a model's latent space and its manifold are drawn from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flowzoo.dimension import rank_of_spectrum
from flowzoo.interfaces import Trained
from flowzoo_bench.runspec import RunSpec
from flowzoo_bench.tasks.coordinates import changes_measure

Arrays = dict[str, Tensor]

_ROWS = 1000  # of the test set at a time, and what principal axes are taken of
_SHOWN = 3  # columns of latent rows


def latent_makers(trained: Trained) -> dict[str, Callable[[Trained, RunSpec], Arrays]]:
    """What of ``spectrum``, ``codes``, ``representations`` and ``density`` the run has."""
    makers: dict[str, Callable[[Trained, RunSpec], Arrays]] = {}
    if "spectrum" in trained.model.capabilities:
        makers["spectrum"] = _spectrum
    if "codes" in trained.model.capabilities:
        makers["codes"] = _codes
    if trained.embed is not None:
        makers["representations"] = _representations
    oracle = trained.task.oracle
    if (
        oracle is not None
        and oracle.measure.kind == "surface"
        and not changes_measure(trained.task)
        and any(known.measure.kind == "surface" for known in trained.model.evaluations.values())
    ):
        makers["density"] = _density
    return makers


def in_chunks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function`` of the rows of x (N, D), some at a time, on the CPU."""
    return torch.cat([function(rows).cpu() for rows in torch.split(x, _ROWS)])


@torch.no_grad()
def _spectrum(trained: Trained, spec: RunSpec) -> Arrays:
    """Of each chart (K, D), its axes that the rule counts, (1,) or (K,), and true dimensions."""
    model, task = trained.model, trained.task
    values: Tensor = getattr(model, "spectrum")()  # noqa: B009 - optional, not in the contract
    if values.ndim not in (1, 2) or values.numel() == 0:
        raise ValueError(f"spectrum: expected (D,) or (K, D), got {tuple(values.shape)}")
    values = values.reshape(-1, values.shape[-1]).cpu()
    counted = rank_of_spectrum(values.to(torch.float64), 1.0).dimension.to(torch.float64)
    arrays = {"spectrum/values": values, "spectrum/found": counted}
    true = task.dimensions if task.dimension is None else (task.dimension,)
    if true is not None:
        arrays["spectrum/true"] = torch.tensor(true)
    return arrays


@torch.no_grad()
def _codes(trained: Trained, spec: RunSpec) -> Arrays:
    """Latent rows of ``data`` and as many draws of the prior.

    Of more than three columns, those along the three principal axes of the draws.
    """
    rows = trained.splits.test[: spec.num_samples]
    codes: Callable[[Tensor], Tensor] = getattr(trained.model, "codes")  # noqa: B009
    draw: Callable[..., Tensor] = getattr(trained.model, "sample_codes")  # noqa: B009
    latent = in_chunks(lambda x: codes(trained.inside(x)), rows).to(torch.float64)
    device = trained.inside(rows[:1]).device
    generator = torch.Generator(device).manual_seed(trained.seed)
    prior = draw(spec.num_samples, generator=generator).to("cpu", torch.float64)
    if latent.shape[1] > _SHOWN:
        some = prior[:_ROWS]
        axes = torch.linalg.svd(some - some.mean(dim=0), full_matrices=False).Vh[:_SHOWN].T
        latent, prior = latent @ axes, prior @ axes
    return {"codes/data": latent, "codes/prior": prior}


def _representations(trained: Trained, spec: RunSpec) -> Arrays:
    """Of the rows of ``data``, the first two columns, or the only one."""
    if trained.embed is None:
        return {}
    found = in_chunks(trained.embed, trained.splits.test[: spec.num_samples])
    if found.shape[1] == 0:
        raise ValueError("embed: expected at least one column, got none")
    return {"representations": found[:, :2]}


def _density(trained: Trained, spec: RunSpec) -> Arrays:
    """log-density of ``data`` along the manifold, in nats: the true one and the model's."""
    oracle = trained.task.oracle
    if oracle is None:
        return {}
    surfaces = {
        name: known.measure
        for name, known in trained.model.evaluations.items()
        if known.measure.kind == "surface"
    }
    for name, measure in surfaces.items():
        if measure.dim == oracle.measure.dim:
            rows = trained.splits.test[: spec.num_samples]
            return {
                "density/true": trained.task.log_prob(rows),
                "density/model": trained.log_prob(rows, name),
            }
    raise ValueError(
        f"evaluations: expected one against {oracle.measure}, as the truth is, "
        f"got {', '.join(map(str, surfaces.values()))}"
    )
