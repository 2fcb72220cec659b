"""Keeps trained decoders on disk: all runs on one synthetic set share one."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowzoo.training.checkpoint import load_checkpoint, save_checkpoint
from flowzoo_bench.cache import cache_folder
from flowzoo_bench.tasks.image_vae import RECIPE, Fit, build_decoder, fit_decoder

_log = logging.getLogger(__name__)
_HELD = 4
_recent: OrderedDict[str, Decoder] = OrderedDict()


@dataclass(frozen=True)
class Settings:
    """What determines a decoder: the images by name, and how it is trained on them."""

    source: str
    features: int
    dimension: int
    sigma: float
    epochs: int
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """A file name, of readable parts and a hash of all."""
        digest = hashlib.sha256(repr((RECIPE, self)).encode()).hexdigest()[:16]
        return f"{self.source}-{self.dimension}-{digest}"


class Decoder(NamedTuple):
    """A trained decoder, how well it fits, and the hash of its weights."""

    network: nn.Sequential
    fit: Fit
    sha256: str


def stored_decoder(settings: Settings, images: Callable[[], Tensor]) -> Decoder:
    """The decoder of these settings, trained if nobody has trained it yet.

    Kept in ``decoders/`` of the cache folder. Of several processes that want the same one, one
    trains and the others wait. Where nothing can be kept, or what is kept does not hash to what
    was, it is trained anew, with a warning.

    Args:
        settings: of the decoder.
        images: gives (N, D) in [0, 1]; called only for training.
    """
    path = cache_folder() / "decoders" / f"{settings.name}.safetensors"
    key = str(path)
    decoder = _recent.pop(key, None)
    if decoder is None:
        with _claimed(path):
            decoder = _loaded(path, settings)
            if decoder is None:
                decoder = _trained(settings, images())
                _keep(path, settings, decoder)
    _recent[key] = decoder
    while len(_recent) > _HELD:
        _recent.popitem(last=False)
    return decoder


def _trained(settings: Settings, images: Tensor) -> Decoder:
    _log.info("training the decoder of %s, dimension %d", settings.source, settings.dimension)
    network, fit = fit_decoder(
        images,
        settings.dimension,
        sigma=settings.sigma,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
    )
    return Decoder(network, fit, _digest(network.state_dict()))


def _digest(state: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Hold the place, if it can be held; training twice is a waste, no harm."""
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(path.with_suffix(".lock").open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            _log.warning("decoder: cannot lock %s: %s", path, error)
        yield


def _loaded(path: Path, settings: Settings) -> Decoder | None:
    if not path.is_file():
        return None
    try:
        tensors, meta = load_checkpoint(path)
        if meta.get("sha256") != _digest(tensors):
            raise ValueError("the weights are not those that were kept")
        with torch.random.fork_rng(devices=[]):
            network = build_decoder(settings.dimension, settings.features)
        network.load_state_dict(tensors)
        found = meta["fit"]
        fit = Fit(found["reconstruction"], tuple(found["kl"]), found["first"])
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        _log.warning("decoder: %s cannot be read and is trained again: %s", path, error)
        return None
    return Decoder(network.eval().requires_grad_(False), fit, meta["sha256"])


def _keep(path: Path, settings: Settings, decoder: Decoder) -> None:
    meta = {
        "settings": asdict(settings),
        "recipe": RECIPE,
        "fit": decoder.fit._asdict(),
        "sha256": decoder.sha256,
    }
    try:
        save_checkpoint(path, decoder.network.state_dict(), meta)
    except OSError as error:
        _log.warning("decoder: cannot be kept at %s: %s", path, error)
