"""Keeps trained decoders on disk: all runs on one synthetic set share one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from flowzoo_bench.tasks.image_vae import RECIPE, Fit, build_decoder, fit_decoder
from flowzoo_bench.weight_store import WeightStore, weight_digest

_log = logging.getLogger(__name__)


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
    """A trained decoder, how well it fits, the hash of its weights, and what it is of."""

    network: nn.Sequential
    fit: Fit
    sha256: str
    settings: Settings


def stored_decoder(settings: Settings, images: Callable[[], Tensor]) -> Decoder:
    """The decoder of these settings, of ``decoders/`` in the cache folder; see ``WeightStore``.

    Args:
        settings: of the decoder.
        images: gives (N, D) in [0, 1]; called only for training.
    """
    return _STORE.get(settings.name, lambda: _trained(settings, images()))


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
    return Decoder(network, fit, weight_digest(network.state_dict()), settings)


def _weights(decoder: Decoder) -> tuple[dict[str, Tensor], dict[str, Any]]:
    about = {
        "settings": asdict(decoder.settings),
        "recipe": RECIPE,
        "fit": decoder.fit._asdict(),
    }
    return decoder.network.state_dict(), about


def _restored(tensors: dict[str, Tensor], meta: dict[str, Any]) -> Decoder:
    settings = Settings(**meta["settings"])
    network = build_decoder(settings.dimension, settings.features)
    network.load_state_dict(tensors)
    found = meta["fit"]
    fit = Fit(found["reconstruction"], tuple(found["kl"]), found["first"])
    return Decoder(network.eval().requires_grad_(False), fit, meta["sha256"], settings)


_STORE = WeightStore("decoder", weights=_weights, restore=_restored)
