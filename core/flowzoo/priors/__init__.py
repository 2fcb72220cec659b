"""Densities on the latent space, one a file."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from flowzoo.interfaces import Prior
from flowzoo.options import check_options
from flowzoo.priors.generalised_gaussian import GeneralisedGaussian as GeneralisedGaussian
from flowzoo.priors.generalised_gaussian_mixture import (
    GeneralisedGaussianMixture as GeneralisedGaussianMixture,
)
from flowzoo.priors.noisy_injective_gaussian import NoisyInjectiveGaussian as NoisyInjectiveGaussian
from flowzoo.priors.per_chart import PerChart as PerChart
from flowzoo.priors.product import Product as Product
from flowzoo.priors.standard_normal import StandardNormal as StandardNormal
from flowzoo.priors.uniform_ball import UniformBall as UniformBall

_PRIORS: dict[str, type[Prior]] = {
    "standard-normal": StandardNormal,
    "uniform-ball": UniformBall,
    "noisy-injective-gaussian": NoisyInjectiveGaussian,
    "generalised-gaussian": GeneralisedGaussian,
    "generalised-gaussian-mixture": GeneralisedGaussianMixture,
}


def prior_names() -> list[str]:
    """The names ``build_prior`` knows."""
    return list(_PRIORS)


def prior_class(name: str) -> type[Prior]:
    """The class of the prior called ``name``.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name not in _PRIORS:
        near = get_close_matches(str(name), _PRIORS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"prior: expected one of {list(_PRIORS)}, got {name!r}{hint}")
    return _PRIORS[name]


def build_prior(prior: str | Mapping[str, Any] | Prior, features: int) -> Prior:
    """An unconditional prior on R^features, as written in Python or TOML.

    Args:
        prior: a name, a mapping ``{"name": ..., **options}``, or a built prior, which is returned.
        features: d.

    Raises:
        ValueError: an unknown name, a wrong option, or a built prior of other size or with a
            context.

    Example:
        >>> build_prior({"name": "noisy-injective-gaussian", "latent_features": 1}, 3).features
        3
    """
    if isinstance(prior, Prior):
        if (prior.features, prior.context_features) != (features, 0):
            raise ValueError(
                f"prior: expected features={features} without context, got features="
                f"{prior.features}, context_features={prior.context_features}"
            )
        return prior
    options = dict(prior) if isinstance(prior, Mapping) else {"name": prior}
    name = options.pop("name", None)
    target = prior_class(name)  # type: ignore[arg-type]
    decided = {"features": features, "context_features": 0}
    for option in decided.keys() & options.keys():
        raise ValueError(f"prior {name!r}: {option}: set by the flow to {decided[option]}")
    return target(**check_options(target, {**options, "features": features}, f"prior {name!r}"))
