"""Noisy injective flows: normalizing flows across dimensions (Cunningham et al., 2020).

``from flowzoo_plugins.noisy_injective import NoisyInjectiveFlow``; importing this package alone
imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowzoo_plugins.noisy_injective.deep import DeepNIF as DeepNIF
    from flowzoo_plugins.noisy_injective.flow import NoisyInjectiveFlow as NoisyInjectiveFlow

_HOME = {"DeepNIF": "deep", "NoisyInjectiveFlow": "flow"}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
