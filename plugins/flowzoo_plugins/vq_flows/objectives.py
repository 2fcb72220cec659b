"""What training minimises, nats per row; everything here runs under vmap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from flowzoo_plugins.vq_flows import heads, injective, leakage
from flowzoo_plugins.vq_flows.charts import ActiveCharts, choose, uniform_from_normal
from flowzoo_plugins.vq_flows.weights import choice_probabilities

if TYPE_CHECKING:
    from flowzoo_plugins.vq_flows.mixture import VQFlow

Objective = Literal["hard", "sampled", "exact"]


def training_loss(model: VQFlow, x: Tensor, noise: Tensor) -> Tensor:
    """What the maximum-likelihood stage minimises, (N,).

    Args:
        model: the mixture.
        x: (N, D).
        noise: standard normal, as many columns as the leak penalty and the choice of a chart take.
    """
    active = model.active(x)
    around = injective.training(model)
    if around is not None and around.flow.injection.mode == "joint":
        return around.joint_loss(x, injective.hard(model, x, active))
    if model.objective == "exact":
        loss = exact(model, x, active)
    elif model.objective == "sampled":
        loss = sampled(model, x, active, noise[:, -1])
    else:
        loss = hard(model, x, active)
    if model.leak_penalty > 0.0:
        # the row's own chart: charts come in proportion to the data
        chart, prior = active.nearest, model.flow.prior
        z = heads.from_normal(prior, noise[:, : prior.noise_features], chart)
        loss = loss + model.leak_penalty * leakage.leak_distance(model, z, chart)
    return loss


def hard(model: VQFlow, x: Tensor, active: ActiveCharts) -> Tensor:
    """-log p(k) p(x | k) at the nearest chart k: exact training when m = 1 (eq. 20)."""
    chart = active.nearest
    return -model.chart_log_prob(x, chart) - model.weights.floored_log_prob()[chart]


def sampled(model: VQFlow, x: Tensor, active: ActiveCharts, noise: Tensor) -> Tensor:
    r"""Minus a one-sample estimate of the lower bound, one flow evaluation a row.

    .. math:: \log p(x \mid k) + \log p(k) - \log q(k \mid x), \qquad k \sim q(k \mid x)

    With membership weights the last two terms are log of the sum of p_j over the active charts.
    The paper calls the step unbiased (eq. 17): it is for p(x); for log p(x) it is a lower bound.

    Args:
        model: the mixture.
        x: (N, D).
        active: the charts of x.
        noise: standard normal, (N,), from which the chart is chosen.
    """
    probabilities = choice_probabilities(active, model.weights.choice)
    column = choose(probabilities, uniform_from_normal(noise))[:, None]
    chart = active.index.gather(1, column).squeeze(1)
    log_choice = probabilities.gather(1, column).squeeze(1).log()
    log_weight = model.weights.floored_log_prob()[chart]
    return -(model.chart_log_prob(x, chart) + log_weight - log_choice)


def exact(model: VQFlow, x: Tensor, active: ActiveCharts) -> Tensor:
    """-log of the sum over the active charts, M flow evaluations a row in one call (eq. 18)."""
    rows, width = active.index.shape
    repeated = x[:, None, :].expand(rows, width, x.shape[1]).reshape(rows * width, x.shape[1])
    log_prob = model.chart_log_prob(repeated, active.index.reshape(-1)).reshape(rows, width)
    terms = log_prob + model.weights.floored_log_prob()[active.index]
    if active.mask is not None:
        terms = torch.where(active.mask, terms, -torch.inf)
    return -terms.logsumexp(dim=1)
