"""Keeps trained classifiers on disk: dozens of runs on one data set share one."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from flowzoo.training.checkpoint import load_checkpoint, save_checkpoint
from flowzoo_bench.cache import cache_folder
from flowzoo_bench.metrics.features.classifier import RECIPE, ImageClassifier, fit_classifier

_log = logging.getLogger(__name__)
_HELD = 4
_recent: OrderedDict[str, ImageClassifier] = OrderedDict()


def stored_classifier(
    levels: Tensor, labels: Tensor, shape: tuple[int, int, int], num_levels: int
) -> ImageClassifier:
    """The classifier of these images, trained if nobody has trained it yet.

    Kept in ``classifiers/`` of the cache folder under a hash of images, labels, shape and recipe.
    Of several processes that want the same one, one trains and the others wait. Where nothing can
    be kept, or what is kept does not hash to what was, it is trained anew, with a warning.

    Args:
        levels: whole numbers in [0, num_levels), (N, C H W) of an integer dtype.
        labels: (N,) int64 >= 0.
        shape: (C, H, W).
        num_levels: at least 2.
    """
    classes = int(labels.max()) + 1
    key = _key(levels, labels, shape, num_levels)
    network = _recent.pop(key, None)
    if network is None:
        path = cache_folder() / "classifiers" / f"{key}.safetensors"
        with _claimed(path):
            network = _loaded(path, shape, classes)
            if network is None:
                network = fit_classifier(levels, labels, shape, num_levels)
                _keep(path, network)
    _recent[key] = network
    while len(_recent) > _HELD:
        _recent.popitem(last=False)
    return network


def weight_hash(network: ImageClassifier) -> str:
    """Eight hexadecimal digits of the hash of all weights."""
    return _digest(network.state_dict())[:8]


def _digest(state: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _key(levels: Tensor, labels: Tensor, shape: tuple[int, int, int], num_levels: int) -> str:
    head = (RECIPE, tuple(levels.shape), str(levels.dtype), shape, num_levels)
    found = hashlib.sha256(repr(head).encode())
    for values in (levels, labels):
        found.update(values.cpu().contiguous().numpy().data)
    return found.hexdigest()[:32]


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Hold the place, if it can be held; training twice is a waste, no harm."""
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(path.with_suffix(".lock").open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            _log.warning("classifier: cannot lock %s: %s", path, error)
        yield


def _loaded(path: Path, shape: tuple[int, int, int], classes: int) -> ImageClassifier | None:
    if not path.is_file():
        return None
    try:
        tensors, meta = load_checkpoint(path)
        if meta.get("sha256") != _digest(tensors):
            raise ValueError("the weights are not those that were kept")
        with torch.random.fork_rng(devices=[]):
            network = ImageClassifier(shape, classes)
        network.load_state_dict(tensors)
    except (ValueError, RuntimeError) as error:
        _log.warning("classifier: %s cannot be read and is trained again: %s", path, error)
        return None
    return network.eval().requires_grad_(False)


def _keep(path: Path, network: ImageClassifier) -> None:
    state = network.state_dict()
    meta = {
        "shape": list(network.shape),
        "classes": network.classes,
        "recipe": RECIPE,
        "sha256": _digest(state),
    }
    try:
        save_checkpoint(path, state, meta)
    except OSError as error:
        _log.warning("classifier: cannot be kept at %s: %s", path, error)
