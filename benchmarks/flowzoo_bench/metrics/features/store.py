"""Keeps trained classifiers on disk: dozens of runs on one data set share one."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from flowzoo_bench.metrics.features.classifier import RECIPE, ImageClassifier, fit_classifier
from flowzoo_bench.weight_store import WeightStore, weight_digest


def stored_classifier(
    levels: Tensor, labels: Tensor, shape: tuple[int, int, int], num_levels: int
) -> ImageClassifier:
    """The classifier of these images, of ``classifiers/`` in the cache folder; see ``WeightStore``.

    Its name is a hash of images, labels, shape and recipe.

    Args:
        levels: whole numbers in [0, num_levels), (N, C H W) of an integer dtype.
        labels: (N,) int64 >= 0.
        shape: (C, H, W).
        num_levels: at least 2.
    """
    name = _key(levels, labels, shape, num_levels)
    return _STORE.get(name, lambda: fit_classifier(levels, labels, shape, num_levels))


def weight_hash(network: ImageClassifier) -> str:
    """Eight hexadecimal digits of the hash of all weights."""
    return weight_digest(network.state_dict())[:8]


def _key(levels: Tensor, labels: Tensor, shape: tuple[int, int, int], num_levels: int) -> str:
    head = (RECIPE, tuple(levels.shape), str(levels.dtype), shape, num_levels)
    found = hashlib.sha256(repr(head).encode())
    for values in (levels, labels):
        found.update(values.cpu().contiguous().numpy().data)
    return found.hexdigest()[:32]


def _weights(network: ImageClassifier) -> tuple[dict[str, Tensor], dict[str, Any]]:
    about = {"shape": list(network.shape), "classes": network.classes, "recipe": RECIPE}
    return network.state_dict(), about


def _restored(tensors: dict[str, Tensor], meta: dict[str, Any]) -> ImageClassifier:
    channels, height, width = meta["shape"]
    network = ImageClassifier((channels, height, width), meta["classes"])
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)


_STORE = WeightStore("classifier", weights=_weights, restore=_restored)
