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
    """Layers from x to z, each with its batch-norm; ``layers()`` returns one element for each.

    With ``normalize_input`` the first layer has one before it too, for layers that want data of
    unit scale.
    """

    def __init__(
        self,
        flows: Sequence[BaseFlow],
        normalization: Normalization,
        *,
        normalize_input: bool = False,
    ) -> None:
        if normalization.kind not in ("batch", "none"):
            raise ValueError(
                f"normalization: expected 'batch' or 'none', got {normalization.kind!r}"
            )
        if normalization.kind == "batch":
            momentum = normalization.momentum
            parts = [
                [flow, InvertibleBatchNorm(flow.features, momentum=momentum)] for flow in flows
            ]
            if normalize_input:
                parts[0].insert(0, InvertibleBatchNorm(flows[0].features, momentum=momentum))
            flows = [Composition(part) for part in parts]
        super().__init__(flows)

    def layers(self) -> Sequence[BaseFlow]:
        """One flow per coupling or MADE, together with its batch-norm, from x to z."""
        return self._parts()
