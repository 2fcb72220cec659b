"""Charts whose flows are onto manifolds: VQ-CEF (section 4, supplement section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowzoo.interfaces import LOWER_BOUND, Evaluation, Injection, Measure
from flowzoo.training.injective import InjectiveTraining
from flowzoo_plugins.vq_flows.charts import ActiveCharts

if TYPE_CHECKING:
    from flowzoo_plugins.vq_flows.mixture import VQFlow


def accept(model: VQFlow, injection: Injection) -> None:
    """Declare the evaluation ``manifold``, where each point lies in one chart.

    Raises:
        ValueError: the injection is trained in a mode that the model's objective does not allow.
    """
    if injection.mode == "joint" and (model.objective != "hard" or model.leak_penalty > 0.0):
        raise ValueError(
            "objective: expected 'hard' and no leak_penalty for a base flow of mode 'joint', "
            "whose loss is a density on the nearest chart's manifold"
        )
    if model.overlap == 1 and model.margin == 0.0:
        surface = Measure("surface", dim=injection.latent_features, learned=True)
        default, *others = model.evaluations.items()
        model.evaluations = dict([default, ("manifold", Evaluation(LOWER_BOUND, surface)), *others])


def check_evaluation(model: VQFlow, evaluation: str | None) -> None:
    """Say why there is no ``manifold``.

    Raises:
        ValueError: it is asked for and not declared.
    """
    if evaluation == "manifold" and evaluation not in model.evaluations:
        raise ValueError(
            "evaluation: 'manifold' needs an injection as base flow and one chart a point "
            "(overlap 1, margin 0): charts that share a point place it on different manifolds, "
            "whose densities cannot be summed"
        )


def training(model: VQFlow) -> InjectiveTraining | None:
    """The stages around maximum likelihood; None for a base flow that keeps the dimension."""
    flow = model.flow.thickened
    if flow is None:
        return None

    def given(x: Tensor) -> dict[str, Tensor]:
        return model.flow.given(flow, nearest(model, x), model.partitioner.codes)

    return InjectiveTraining(model, flow, "flow.base", given)


def nearest(model: VQFlow, x: Tensor) -> Tensor:
    """The nearest chart of rows x (N, D), (N,)."""
    parts = [model.active(rows).nearest for rows in torch.split(x, model.rows_per_call)]
    return torch.cat(parts)


def hard(model: VQFlow, x: Tensor, active: ActiveCharts) -> Tensor:
    """log p(k) p(x | k) at the nearest chart k, against its manifold's area, (N,): for training."""
    chart = active.nearest
    local = model.flow.surface_log_prob(x, chart, model.partitioner.codes)
    return local + model.weights.floored_log_prob()[chart]


def log_prob(model: VQFlow, x: Tensor) -> Tensor:
    r"""The density against the area of the charts' manifolds, (N,), nats (eq. 20).

    .. math:: \log p_k + \log p(c_k^\dagger(x)), \qquad k \text{ the nearest chart}

    Exact where the charts' manifolds share no area, as curved ones do not; where they share some,
    say a plane that holds all the data, the other charts' part is missing: a lower bound.
    """
    scores = []
    for rows in torch.split(x, model.rows_per_call):
        chart = model.active(rows).nearest
        local = model.flow.surface_log_prob(rows, chart, model.partitioner.codes)
        scores.append(local + model.weights.log_prob()[chart])
    return torch.cat(scores)


def reconstruct(model: VQFlow, x: Tensor) -> Tensor:
    """The point of its nearest chart's manifold that each row of x (N, D) is taken to, (N, D)."""
    parts = [
        model.flow.reconstruct(rows, model.active(rows).nearest, model.partitioner.codes)
        for rows in torch.split(x, model.rows_per_call)
    ]
    return torch.cat(parts)
