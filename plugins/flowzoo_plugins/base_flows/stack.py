"""A composition whose layers each end in an optional batch-norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from flowzoo.interfaces import BaseFlow
from flowzoo.layers import Composition, InvertibleBatchNorm, Orthogonal, Permutation

Order = Literal["halves", "random", "rotation"]


class Normalization(NamedTuple):
    """What follows each layer: ``kind`` "batch" or "none", and the batch-norm's momentum."""

    kind: str
    momentum: float


def ordered(couplings: Sequence[BaseFlow], order: Order, *, every: int = 2) -> list[BaseFlow]:
    """Couplings that each move one half of the columns, in turn.

    With ``random`` one in ``every`` shuffles the columns first, once and for all, so that each pair
    of couplings has halves of its own; columns sorted by importance, as principal components are,
    then meet one another. With ``rotation`` it turns them by a learned rotation instead, at O(D^3)
    a batch; volumes stay.

    Raises:
        ValueError: an unknown order.
    """
    if order not in get_args(Order):
        raise ValueError(f"order: expected one of {get_args(Order)}, got {order!r}")
    if order == "halves":
        return list(couplings)
    return [
        Composition([_mixing(one.features, order), one]) if index % every == 0 else one
        for index, one in enumerate(couplings)
    ]


def _mixing(features: int, order: Order) -> BaseFlow:
    return Permutation(features, order="random") if order == "random" else Orthogonal(features)


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
