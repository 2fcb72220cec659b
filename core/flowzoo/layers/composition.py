"""Flows applied one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from flowzoo.interfaces import BaseFlow, Direction, Step


class Composition(BaseFlow):
    r"""Flows in order from x to z; the volume terms add up.

    .. math:: z = f_L(\dots f_1(x)), \qquad
        \log|\det dz/dx| = \sum_l \log|\det J f_l|

    Context and chart go to every part that takes them; parts that take them agree on their size.

    Args:
        flows: the parts, from the data side to the latent side.

    Raises:
        ValueError: no parts, sizes that do not chain, or parts that disagree on context or charts.

    Example:
        >>> from flowzoo.layers import Permutation
        >>> flow = Composition([Permutation(3, order="reverse"), Permutation(3, order="reverse")])
        >>> len(flow.layers())
        2
    """

    def __init__(self, flows: Iterable[BaseFlow]) -> None:
        parts = tuple(flows)
        if not parts:
            raise ValueError("flows: expected at least one flow, got none")
        for index, (a, b) in enumerate(pairwise(parts)):
            if a.latent_features != b.features:
                raise ValueError(
                    f"flows: expected part {index + 1} ({type(b).__name__}) to take "
                    f"{a.latent_features} features, got {b.features}"
                )
        super().__init__(
            parts[0].features,
            latent_features=parts[-1].latent_features,
            context_features=_common("context_features", [p.context_features for p in parts]) or 0,
            num_charts=_common("num_charts", [p.num_charts for p in parts]),
            fast=_fast(parts),
        )
        self.flows = nn.ModuleList(parts)

    def _parts(self) -> tuple[BaseFlow, ...]:
        return tuple(self.flows)  # type: ignore[arg-type]

    def layers(self) -> Sequence[BaseFlow]:
        """The layers of every part, flattened, from x to z."""
        return tuple(layer for part in self._parts() for layer in part.layers())

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        first, *rest = self._parts()
        x, total = first._encode(x, *_given(first, context, chart))
        for part in rest:
            x, log_abs_det = part._encode(x, *_given(part, context, chart))
            total = total + log_abs_det
        return Step(x, total)

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        *rest, last = self._parts()
        z, total = last._decode(z, *_given(last, context, chart))
        for part in reversed(rest):
            z, log_abs_det = part._decode(z, *_given(part, context, chart))
            total = total + log_abs_det
        return Step(z, total)


def _given(
    part: BaseFlow, context: Tensor | None, chart: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """What of context and chart this part takes."""
    return (
        context if part.context_features else None,
        chart if part.num_charts is not None else None,
    )


def _common(name: str, values: Sequence[int | None]) -> int | None:
    """The one value other than 0 and None, or None."""
    found = sorted({value for value in values if value})
    if len(found) > 1:
        raise ValueError(f"flows: expected parts to agree on {name}, got {found}")
    return found[0] if found else None


def _fast(parts: Sequence[BaseFlow]) -> Direction:
    """The direction no part is slow in; "encode" where each direction has a slow part."""
    slow = {part.fast for part in parts} - {"both"}
    if not slow:
        return "both"
    return "decode" if slow == {"decode"} else "encode"
