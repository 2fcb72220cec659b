"""Image rows as features: the noise of dequantisation off, then the classifier."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import torch
from torch import Tensor

from flowzoo.interfaces.metric import Trained
from flowzoo_bench.metrics.features.classifier import FEATURES, ImageClassifier, brightness
from flowzoo_bench.metrics.features.store import stored_classifier, weight_hash

_ROWS = 500  # that go through the network at once
_HELD_APART = 10


def to_levels(x: Tensor, levels: int) -> Tensor:
    """The whole levels 0, 1, ..., levels - 1 of rows in [0, levels); what is outside is clamped.

    NaN stays; infinity is taken for NaN, it is no colour.
    """
    whole = x.floor().clamp(0, levels - 1)
    return torch.where(torch.isfinite(x), whole, nan)


@dataclass(frozen=True)
class ImageFeatures:
    """The features of one task's images.

    Attributes:
        network: the classifier, in eval mode on the CPU.
        levels: of the task's pixels.
        weights: short hash of the network's weights.
        held_apart: the tenth of the training rows it was not trained on, (N, D).
        held_apart_labels: their classes.
    """

    network: ImageClassifier
    levels: int
    weights: str
    held_apart: Tensor
    held_apart_labels: Tensor

    @classmethod
    def of(cls, trained: Trained) -> ImageFeatures | None:
        """Features learned from the task's training images; None where it has no such thing.

        It takes images of known shape and levels, with labels, of at least two classes.
        """
        task = trained.task
        if task.shape is None or task.levels is None or trained.labels is None:
            return None
        rows, labels = trained.splits.train, trained.labels.train
        apart = torch.arange(len(rows)) % _HELD_APART == _HELD_APART - 1
        classes = labels[~apart]
        if task.levels < 2 or len(rows) < _HELD_APART or bool((classes == classes[0]).all()):
            return None
        small = torch.uint8 if task.levels <= 256 else torch.int32
        chosen = torch.split((~apart).nonzero()[:, 0], _ROWS)  # in parts: the set may be large
        levels = torch.cat([to_levels(rows[part], task.levels).to(small) for part in chosen])
        network = stored_classifier(levels, classes, task.shape, task.levels)
        return cls(network, task.levels, weight_hash(network), rows[apart], labels[apart])

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 64) float64 of rows x (N, D), and their logits (N, classes).

        Both NaN in rows that are not finite.
        """
        found = [self._part(part) for part in torch.split(x.to("cpu", torch.float64), _ROWS)]
        features = torch.cat([torch.empty(0, FEATURES), *found])
        with torch.no_grad():
            logits: Tensor = self.network.head(features)
        return features.to(torch.float64), logits.to(torch.float64)

    def _part(self, x: Tensor) -> Tensor:
        levels = to_levels(x, self.levels)
        with torch.no_grad():
            features = self.network.features(brightness(levels, self.levels))
        # a maximum over pixels may have dropped the NaN
        return torch.where(torch.isfinite(levels).all(dim=1, keepdim=True), features, nan)
