"""Densities on the latent space, one a file."""

from __future__ import annotations

from difflib import get_close_matches

from flowzoo.interfaces import Prior
from flowzoo.priors.product import Product as Product
from flowzoo.priors.standard_normal import StandardNormal as StandardNormal
from flowzoo.priors.uniform_ball import UniformBall as UniformBall

_PRIORS: dict[str, type[StandardNormal] | type[UniformBall]] = {
    "standard-normal": StandardNormal,
    "uniform-ball": UniformBall,
}


def prior_names() -> list[str]:
    """The names ``build_prior`` knows."""
    return list(_PRIORS)


def prior_class(name: str) -> type[StandardNormal] | type[UniformBall]:
    """The class of the prior called ``name``.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name not in _PRIORS:
        near = get_close_matches(str(name), _PRIORS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"prior: expected one of {list(_PRIORS)}, got {name!r}{hint}")
    return _PRIORS[name]


def build_prior(name: str, features: int) -> Prior:
    """The prior called ``name`` on R^features.

    Raises:
        ValueError: an unknown name; the message lists the known ones.

    Example:
        >>> build_prior("uniform-ball", 2).features
        2
    """
    return prior_class(name)(features)
