"""Honest baselines: one Gaussian, a Gaussian mixture, a kernel density, one global flow.

Names are imported on first use, so that the light ``plugin`` module beside them imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowzoo_plugins.baselines.gaussian import Gaussian as Gaussian
    from flowzoo_plugins.baselines.global_flow import GlobalFlow as GlobalFlow
    from flowzoo_plugins.baselines.gmm import GaussianMixture as GaussianMixture
    from flowzoo_plugins.baselines.kde import KernelDensity as KernelDensity

_HOMES = {
    "Gaussian": "gaussian",
    "GaussianMixture": "gmm",
    "GlobalFlow": "global_flow",
    "KernelDensity": "kde",
}

__all__ = ["Gaussian", "GaussianMixture", "GlobalFlow", "KernelDensity"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
