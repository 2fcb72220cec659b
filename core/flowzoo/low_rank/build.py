"""Loadings by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowzoo.low_rank.loading import DenseLoading, Loading
from flowzoo.low_rank.up_sampling import UpSampling
from flowzoo.options import check_options, nearest

_LOADINGS: dict[str, type[DenseLoading] | type[UpSampling]] = {
    "dense": DenseLoading,
    "up-sampling": UpSampling,
}


def build_loading(
    loading: str | Mapping[str, Any] | Loading, features: int, latent_features: int | None
) -> Loading:
    """A loading of ``features`` rows, as written in Python or TOML.

    Args:
        loading: ``dense``, ``{"name": "up-sampling", "shape": [1, 8, 8], "factor": 2}`` or a built
            one, which is returned.
        features: D.
        latent_features: d; None takes the loading's own, or half of D for a dense one.

    Raises:
        ValueError: an unknown name, a wrong option, or a loading of another size.
    """
    if not isinstance(loading, Loading):
        options = dict(loading) if isinstance(loading, Mapping) else {"name": loading}
        name = options.pop("name", None)
        if name not in _LOADINGS:
            raise ValueError(
                f"loading: expected one of {list(_LOADINGS)}, got {name!r}"
                f"{nearest(str(name), _LOADINGS)}"
            )
        if name == "dense":
            half = (features + 1) // 2
            options |= {
                "features": features,
                "latent_features": half if latent_features is None else latent_features,
            }
        target = _LOADINGS[name]
        loading = target(**check_options(target, options, f"loading {name!r}"))
    if loading.features != features:
        raise ValueError(f"loading: expected {features} features, got {loading.features}")
    if latent_features not in (None, loading.latent_features):
        raise ValueError(
            f"latent_features: expected {loading.latent_features}, as the loading has, "
            f"got {latent_features}"
        )
    return loading
