"""Draws: a chart by its weight, a code of its prior, and back through its flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowzoo_plugins.vq_flows import heads, leakage
from flowzoo_plugins.vq_flows.charts import choose

if TYPE_CHECKING:
    from flowzoo_plugins.vq_flows.mixture import VQFlow

MAX_ROUNDS = 10_000


@torch.no_grad()
def draw(
    model: VQFlow,
    num: int,
    temperature: float,
    noise_scale: float,
    generator: torch.Generator | None,
) -> Tensor:
    """``num`` draws (num, D) of the full density: k ~ p(k), z ~ q_k, x = g_k(z)."""
    weights = model.weights.log_prob().exp()
    knobs = {"temperature": temperature, "noise_scale": noise_scale}
    draws = []
    for start in range(0, max(num, 1), model.rows_per_call):
        chart = _charts(weights, min(model.rows_per_call, num - start), generator)
        z = heads.sample(model.flow.prior, chart, **knobs, generator=generator)
        draws.append(model.chart_decode(z, chart).value)
    return torch.cat(draws)


@torch.no_grad()
def rejected(
    model: VQFlow,
    num: int,
    temperature: float,
    noise_scale: float,
    generator: torch.Generator | None,
) -> Tensor:
    """``num`` draws (num, D) of the renormalised density: k ~ p(k), z until g_k(z) is in U_k.

    Raises:
        RuntimeError: a chart keeps so little of its mass that no draw was accepted.
    """
    weights = model.weights.log_prob().exp()
    chart = _charts(weights, num, generator)
    x = weights.new_empty(num, model.features)
    knobs = {"temperature": temperature, "noise_scale": noise_scale}
    pending = torch.arange(num, device=weights.device)
    for _ in range(MAX_ROUNDS):
        if len(pending) == 0:
            return x
        refused = []
        for rows in torch.split(pending, model.rows_per_call):
            z = heads.sample(model.flow.prior, chart[rows], **knobs, generator=generator)
            drawn = model.chart_decode(z, chart[rows]).value
            accepted = leakage.is_inside(model, drawn, chart[rows])
            x[rows[accepted]] = drawn[accepted]
            refused.append(rows[~accepted])
        pending = torch.cat(refused)
    stuck = sorted(set(chart[pending].tolist()))
    raise RuntimeError(
        f"renormalised sampling: no draw fell inside charts {stuck} in {MAX_ROUNDS} rounds"
    )


def _charts(weights: Tensor, num: int, generator: torch.Generator | None) -> Tensor:
    """``num`` charts by their ``weights`` (K,)."""
    uniform = torch.rand(num, generator=generator, device=weights.device, dtype=weights.dtype)
    return choose(weights.expand(num, -1), uniform)
