"""A composition whose layers each end in an optional batch-norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flowzoo.interfaces import BaseFlow
from flowzoo.layers import Composition, InvertibleBatchNorm


class Normalization(NamedTuple):
    """What follows each layer: ``kind`` "batch" or "none", and the batch-norm's momentum."""

    kind: str
    momentum: float


class Stack(Composition):
    """Layers from x to z, each with its batch-norm; ``layers()`` returns one element for each."""

    def __init__(self, flows: Sequence[BaseFlow], normalization: Normalization) -> None:
        if normalization.kind not in ("batch", "none"):
            raise ValueError(
                f"normalization: expected 'batch' or 'none', got {normalization.kind!r}"
            )
        if normalization.kind == "batch":
            flows = [
                Composition(
                    [flow, InvertibleBatchNorm(flow.features, momentum=normalization.momentum)]
                )
                for flow in flows
            ]
        super().__init__(flows)

    def layers(self) -> Sequence[BaseFlow]:
        """One flow per coupling or MADE, together with its batch-norm, from x to z."""
        return self._parts()
