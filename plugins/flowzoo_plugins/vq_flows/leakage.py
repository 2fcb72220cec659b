"""How much of a local flow's mass leaves its chart, and what can be done about it (section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowzoo_plugins.vq_flows.charts import choose

if TYPE_CHECKING:
    from flowzoo_plugins.vq_flows.mixture import VQFlow

MAX_ROUNDS = 10_000
FAR = 1e9  # an untrained flow may throw a draw so far that its squared distance overflows float32


@torch.no_grad()
def inside_mass(model: VQFlow, num_samples: int, generator: torch.Generator | None) -> Tensor:
    r"""Monte-Carlo estimate of the mass each local flow keeps in its own chart, (K,).

    .. math:: Z_k = P(g_k(z) \in U_k), \quad z \sim q

    The paper's Proposition 1 needs Z_k = 1; it is not when g_k leaks (section 6).

    Args:
        model: the mixture.
        num_samples: draws for each chart.
        generator: where the draws come from.
    """
    masses = []
    for k in range(model.num_charts):
        hits = model.weights.choice.new_zeros(())
        left = num_samples
        while left > 0:
            rows = min(left, model.rows_per_call)
            left -= rows
            z = model.flow.prior.sample(rows, generator=generator)
            chart = torch.full((rows,), k, dtype=torch.int64, device=z.device)
            hits = hits + is_inside(model, model.chart_decode(z, chart).value, chart).sum()
        # no hit at all: half a draw, so that a row of that chart still has a finite score
        masses.append(hits.clamp(min=0.5) / num_samples)
    return torch.stack(masses)


def is_inside(model: VQFlow, x: Tensor, chart: Tensor) -> Tensor:
    """Whether row x lies in U_k of its ``chart`` (N,), (N,) bool; a non-finite row lies nowhere."""
    return model.active(x).contains(chart) & torch.isfinite(x).all(dim=1)


def leak_distance(model: VQFlow, z: Tensor, chart: Tensor) -> Tensor:
    r"""How far g_k(z) lies outside chart k, (N,): 0 inside, growing continuously outside.

    .. math:: \max(0,\; d_k(g_k(z)) - (1 + \epsilon)\, \tilde d_m(g_k(z)))

    Differentiable in the flow's parameters; runs under vmap. Its mean over z is what
    ``leak_penalty`` adds to the loss: the paper's section 6, "explicitly discouraging the
    generation of samples outside U_k".
    """
    x = model.chart_decode(z, chart).value.clamp(-FAR, FAR)
    distances = model.partitioner.distances(x)
    own = distances.gather(1, chart[:, None]).squeeze(1)
    bound = distances.sort(dim=1).values[:, model.overlap - 1]
    return (own - (1.0 + model.margin) * bound).clamp(min=0.0)


@torch.no_grad()
def rejection_sample(
    model: VQFlow,
    num: int,
    weights: Tensor,
    temperature: float,
    generator: torch.Generator | None,
) -> Tensor:
    """``num`` draws (num, D) of the renormalised density: k ~ ``weights``, z until it is in U_k.

    Raises:
        RuntimeError: a chart keeps so little of its mass that no draw was accepted.
    """
    uniform = torch.rand(num, generator=generator, device=weights.device, dtype=weights.dtype)
    chart = choose(weights.expand(num, -1), uniform)
    x = weights.new_empty(num, model.features)
    pending = torch.arange(num, device=weights.device)
    for _ in range(MAX_ROUNDS):
        if len(pending) == 0:
            return x
        refused = []
        for rows in torch.split(pending, model.rows_per_call):
            z = model.flow.prior.sample(len(rows), temperature=temperature, generator=generator)
            drawn = model.chart_decode(z, chart[rows]).value
            accepted = is_inside(model, drawn, chart[rows])
            x[rows[accepted]] = drawn[accepted]
            refused.append(rows[~accepted])
        pending = torch.cat(refused)
    stuck = sorted(set(chart[pending].tolist()))
    raise RuntimeError(
        f"renormalised sampling: no draw fell inside charts {stuck} in {MAX_ROUNDS} rounds"
    )
