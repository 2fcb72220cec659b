"""The four ways to score a point, made of log p(x | k) and log p(k)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowzoo_plugins.vq_flows.charts import ActiveCharts
from flowzoo_plugins.vq_flows.weights import choice_probabilities

if TYPE_CHECKING:
    from flowzoo_plugins.vq_flows.mixture import VQFlow


def log_prob(model: VQFlow, x: Tensor, evaluation: str, log_inside: Tensor | None = None) -> Tensor:
    """log p(x), (N,), in nats.

    ``full``: sum over all K charts, the density ``sample`` draws from. ``truncated``: sum over the
    active charts (eq. 18), whose mass is sum p_k Z_k <= 1. ``elbo``: expectation of the log over
    the choice of chart (eq. 17). ``renormalised``: truncated with every local flow divided by Z_k.
    For every x, elbo <= truncated <= full.

    Args:
        model: the mixture.
        x: (N, D).
        evaluation: one of the four.
        log_inside: log Z_k, (K,), for ``renormalised``.
    """
    scores = []
    for rows in torch.split(x, model.rows_per_call // model.num_charts or 1):
        if evaluation == "elbo":
            scores.append(_elbo(model, rows))
        else:
            scores.append(log_joint(model, rows, evaluation, log_inside).logsumexp(dim=1))
    return torch.cat(scores)


def posterior(
    model: VQFlow, x: Tensor, evaluation: str, log_inside: Tensor | None = None
) -> Tensor:
    """p(k | x), (N, K) (eq. 12); for ``elbo`` the choice q(k | x) that stands in for it.

    NaN for a row of density 0: one that lies only in charts of weight 0.
    """
    results = []
    for rows in torch.split(x, model.rows_per_call // model.num_charts or 1):
        if evaluation == "elbo":
            active = model.active(rows)
            choice = choice_probabilities(active, model.weights.choice)
            results.append(_spread(active, choice, model.num_charts, 0.0))
        else:
            results.append(log_joint(model, rows, evaluation, log_inside).softmax(dim=1))
    return torch.cat(results)


def log_joint(
    model: VQFlow, x: Tensor, evaluation: str, log_inside: Tensor | None = None
) -> Tensor:
    """log p(x, k), (N, K), -inf where the evaluation leaves chart k out; not chunked."""
    log_weight = model.weights.log_prob()
    if evaluation == "full":
        rows, charts = len(x), model.num_charts
        chart = torch.arange(charts, device=x.device).repeat(rows)
        value = model.chart_log_prob(x.repeat_interleave(charts, dim=0), chart)
        return value.reshape(rows, charts) + log_weight
    if evaluation == "renormalised":
        if log_inside is None:
            raise ValueError("log_inside: expected (K,) for 'renormalised', got None")
        log_weight = log_weight - log_inside
    active = model.active(x)
    local = _spread(active, _active_log_prob(model, x, active), model.num_charts, -torch.inf)
    return local + log_weight


def _elbo(model: VQFlow, x: Tensor) -> Tensor:
    """E_q[log p(x | k) + log p(k) - log q(k | x)] over the active charts, (N,)."""
    active = model.active(x)
    choice = choice_probabilities(active, model.weights.choice)
    log_weight = model.weights.log_prob()[active.index]
    terms = choice * (_active_log_prob(model, x, active) + log_weight - choice.log())
    return torch.where(choice > 0, terms, 0.0).sum(dim=1)  # q log q -> 0


def _active_log_prob(model: VQFlow, x: Tensor, active: ActiveCharts) -> Tensor:
    """log p(x | k) of the active charts only, (N, M), -inf elsewhere; one call of sum m(x) rows."""
    rows, width = active.index.shape
    # the meta device holds no values to choose pairs by
    if active.mask is None or x.device.type == "meta":
        value = model.chart_log_prob(x.repeat_interleave(width, dim=0), active.index.reshape(-1))
        return value.reshape(rows, width)
    row, column = active.mask.nonzero(as_tuple=True)
    value = model.chart_log_prob(x[row], active.index[row, column])
    out = value.new_full((rows, width), -torch.inf)
    return out.index_put((row, column), value)


def _spread(active: ActiveCharts, values: Tensor, num_charts: int, fill: float) -> Tensor:
    """``values`` (N, M) of the active charts laid out over all charts, (N, K)."""
    return values.new_full((len(values), num_charts), fill).scatter(1, active.index, values)
