"""How much of a local flow's mass leaves its chart, and what can be done about it (section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowzoo_plugins.vq_flows import heads

if TYPE_CHECKING:
    from flowzoo_plugins.vq_flows.mixture import VQFlow

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
            chart = torch.full((rows,), k, dtype=torch.int64, device=hits.device)
            z = heads.sample(model.flow.prior, chart, generator=generator)
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
