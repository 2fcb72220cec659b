"""Partitioners: k-means in data space, and a vector-quantised auto-encoder.

Names are imported on first use, so that the light ``plugin`` module beside them imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowzoo_plugins.partitioners.codes import CodePartitioner as CodePartitioner
    from flowzoo_plugins.partitioners.kmeans import KMeans as KMeans
    from flowzoo_plugins.partitioners.vq_autoencoder import VQAutoencoder as VQAutoencoder

_HOMES = {"CodePartitioner": "codes", "KMeans": "kmeans", "VQAutoencoder": "vq_autoencoder"}

__all__ = ["CodePartitioner", "KMeans", "VQAutoencoder"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
