"""The prior behind the local flows, shared or one a chart, and what noisy injective ones add."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowzoo.interfaces import Prior
from flowzoo.low_rank import DenseLoading, principal_start
from flowzoo.priors import NoisyInjectiveGaussian, PerChart, build_prior
from flowzoo.priors.noisy_injective_gaussian import Embedding
from flowzoo.training.modes import as_in_training
from flowzoo.validation import check_number

if TYPE_CHECKING:
    from flowzoo_plugins.vq_flows.mixture import VQFlow

CAPABILITIES = frozenset({"reconstruct", "intrinsic_dimension", "noise_scale"})
START_ROWS = 20_000  # of the training data that a start looks at, for each chart


# -- a prior that may be told the chart -----------------------------------------------------------


def build(
    prior: str | Mapping[str, Any] | Prior, features: int, num_charts: int | None
) -> Prior | PerChart:
    """One prior on R^features for all charts, or K of them, each with a random start of its own.

    Raises:
        ValueError: a prior that does not fit, or K of one that has no parameters.
    """
    if num_charts is None:
        return build_prior(prior, features)
    try:
        return PerChart([deepcopy(build_prior(prior, features)) for _ in range(num_charts)])
    except ValueError as error:
        if str(error).startswith("parts: "):
            raise ValueError(f"prior_per_chart: {str(error).removeprefix('parts: ')}") from error
        raise


def log_prob(prior: Prior | PerChart, z: Tensor, chart: Tensor) -> Tensor:
    """log q(z | chart), (N,), nats."""
    return prior.log_prob(z, chart) if isinstance(prior, PerChart) else prior.log_prob(z)


def from_normal(prior: Prior | PerChart, noise: Tensor, chart: Tensor) -> Tensor:
    """Standard normal numbers (N, noise_features) turned into codes of ``chart``, (N, d)."""
    if isinstance(prior, PerChart):
        return prior.from_normal(noise, chart)
    return prior.from_normal(noise)


def sample(
    prior: Prior | PerChart,
    chart: Tensor,
    *,
    temperature: float = 1.0,
    noise_scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A code for each of ``chart`` (N,), (N, d)."""
    if isinstance(prior, PerChart):
        return prior.sample(
            chart, temperature=temperature, noise_scale=noise_scale, generator=generator
        )
    return prior.sample(
        len(chart), temperature=temperature, noise_scale=noise_scale, generator=generator
    )


def numbers_a_chart(prior: Prior | PerChart) -> int:
    """How many numbers a row gathers of its chart's prior."""
    if not isinstance(prior, PerChart):
        return 0
    return sum(stack.numel() for stack in prior.parameters()) // prior.num_charts


# -- noisy injective heads ------------------------------------------------------------------------


def gaussian(prior: Prior | PerChart) -> NoisyInjectiveGaussian | None:
    """The prior's architecture where it is noisy injective; None where it is not."""
    kind = prior.stacked if isinstance(prior, PerChart) else prior
    return kind if isinstance(kind, NoisyInjectiveGaussian) else None


def check_ard(model: VQFlow) -> None:
    """Refuse what automatic relevance determination answers wrongly.

    Raises:
        ValueError: a prior that is not noisy injective, frames, or no room for the noise.
    """
    shape = gaussian(model.flow.prior)
    if shape is None:
        raise ValueError("ard: expected 0 for a prior that is not noisy injective")
    if model.flow.frames is not None:
        raise ValueError("frames: expected 'none' with ard, whitening hides the noise")
    shape.check_ard()


def check_noise_scale(model: VQFlow, noise_scale: float) -> float:
    """Return ``noise_scale`` where the model has noise to scale.

    Raises:
        ValueError: it is negative, or not 1 for a prior that is not noisy injective.
    """
    scale = check_number("noise_scale", noise_scale)
    if scale != 1.0 and gaussian(model.flow.prior) is None:
        raise ValueError(f"noise_scale: expected 1 for this prior, which has none, got {scale:g}")
    return scale


def codes(model: VQFlow, x: Tensor, chart: Tensor, rule: Embedding = "posterior-mean") -> Tensor:
    """f_k(x), (N, d), for ``chart`` (N,); through noisy injective heads, coordinates on the plane.

    These are E[z | x, k], or for ``pseudo-inverse`` the z of the plane's nearest point.
    """
    y = model.chart_encode(x, chart).value
    prior = model.flow.prior
    if gaussian(prior) is None:
        return y
    if isinstance(prior, PerChart):
        # vmap passes tensors only, so the rule is bound by name
        return prior.by_row("embed", chart, y, rule=rule)
    found: Tensor = prior.embed(y, rule=rule)  # type: ignore[operator]
    return found


def place(model: VQFlow, z: Tensor, chart: Tensor) -> Tensor:
    """g_k(A_k z + b_k), (N, D): the points of chart k's manifold at z (N, d)."""
    prior = model.flow.prior
    if isinstance(prior, PerChart):
        y = prior.by_row("place", chart, z)
    else:
        y = prior.place(z)  # type: ignore[operator]
    return model.chart_decode(y, chart).value


def reconstruct(model: VQFlow, x: Tensor) -> Tensor:
    """The nearest of the points that the charts' manifolds have for x (N, D), (N, D).

    Chart k's is g_k(A_k z + b_k) with z the pseudo-inverse; charts of weight 0 have none. Draws at
    ``noise_scale`` 0 are their own reconstruction.
    """
    charts = model.num_charts
    empty = model.weights.log_prob() == -torch.inf
    points = []
    for rows in torch.split(x, model.rows_per_call // charts or 1):
        chart = torch.arange(charts, device=x.device).repeat(len(rows))
        repeated = rows.repeat_interleave(charts, dim=0)
        point = place(model, codes(model, repeated, chart, "pseudo-inverse"), chart)
        distance = (repeated - point).square().sum(dim=1).reshape(len(rows), charts)
        distance = torch.where(empty | distance.isnan(), torch.inf, distance)
        nearest = distance.argmin(dim=1)
        every = point.reshape(len(rows), charts, x.shape[1])
        points.append(every.take_along_dim(nearest[:, None, None], dim=1).squeeze(1))
    return torch.cat(points)


def signal_to_noise(model: VQFlow) -> Tensor:
    """Variance over noise along each direction of each chart's plane, (K, d), largest first.

    Raises:
        TypeError: the prior is not noisy injective.
    """
    shared = gaussian(model.flow.prior)
    if shared is None:
        raise TypeError("prior: expected a noisy injective one, which has a dimension")
    if isinstance(model.flow.prior, PerChart):
        return model.flow.prior.by_chart("signal_to_noise")
    return shared.signal_to_noise().expand(model.num_charts, -1)


def ard_penalty(model: VQFlow) -> Tensor:
    """Minus the log-density of all loadings, a share of it each training row, (), nats.

    Beside the mean loss this weighs chart k's by 1 / N_k against the mean loss of its N_k rows.
    """
    prior = model.flow.prior
    if isinstance(prior, PerChart):
        total = prior.by_chart("ard_penalty").sum()
    else:
        total = prior.ard_penalty()  # type: ignore[operator]
    a_row = 2.0 * model.weights.floor  # which is half a row
    return model.ard * a_row * total


@torch.no_grad()
def start(model: VQFlow, x: Tensor, chart: Tensor) -> None:
    """Place dense planes by the moments of codes of training rows x (N, D), ``chart`` (N,).

    Each of K planes by the rows of its own chart; a chart with fewer than 2 D rows by all rows.
    """
    prior, shape = model.flow.prior, gaussian(model.flow.prior)
    if shape is None or not isinstance(shape.loading, DenseLoading) or len(x) < 2:
        return
    x, chart = x[: START_ROWS * model.num_charts], chart[: START_ROWS * model.num_charts]
    with as_in_training(model.flow):
        code = _encoded(model, x, chart)
        if not isinstance(prior, PerChart):
            few = slice(START_ROWS)
            shape.start(*principal_start(code[few], x[few], shape.latent_features))
            return
        for k in range(model.num_charts):
            own = chart == k
            rows, seen = x[own][:START_ROWS], code[own][:START_ROWS]
            if len(rows) < 2 * x.shape[1]:
                rows = x[:START_ROWS]
                seen = _encoded(model, rows, torch.full_like(chart[: len(rows)], k))
            part = prior.part(k)
            part.start(*principal_start(seen, rows, shape.latent_features))  # type: ignore[operator]
            prior.put(k, part)


def _encoded(model: VQFlow, x: Tensor, chart: Tensor) -> Tensor:
    size = model.rows_per_call
    pairs = zip(torch.split(x, size), torch.split(chart, size), strict=True)
    return torch.cat([model.chart_encode(rows, own).value for rows, own in pairs])


@torch.no_grad()
def prune(model: VQFlow) -> None:
    """Take out the directions of each plane that automatic relevance determination has emptied."""
    prior = model.flow.prior
    if not isinstance(prior, PerChart):
        prior.prune()  # type: ignore[operator]
        return
    for k in range(model.num_charts):
        part = prior.part(k)
        part.prune()  # type: ignore[operator]
        prior.put(k, part)
