"""Takes a base flow apart into the bijections of indexed layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from flowzoo.interfaces import BaseFlow
from flowzoo.layers import Composition
from flowzoo.options import options_of
from flowzoo.registry import build_part, load
from flowzoo.validation import check_positive

FlowPart = str | Mapping[str, Any] | BaseFlow


def flow_layers(
    base_flow: FlowPart, features: int, context_features: int
) -> Sequence[BaseFlow] | Sequence[None]:
    """The layers of a base flow from data to latent space, one for each index.

    A flow that is named, and has an option ``normalization`` with a value ``none``, is built with
    that unless it is given: the scale and shift by the index stand in the place of batch-norm
    (Cornish et al., 2020, section 3.4).

    Args:
        base_flow: name, mapping or a built flow; ``{"name": "none", "layers": L}`` for L times the
            identity.
        features: D.
        context_features: what each layer may be told.

    Raises:
        ValueError: a flow, or a layer of it, that changes dimension or has charts, no layers, or
            wrong options.
        TypeError: a flow that cannot be taken apart, or into other things than flows.
    """
    if isinstance(base_flow, Mapping) and base_flow.get("name") == "none":
        options = {key: value for key, value in base_flow.items() if key != "name"}
        if options.keys() != {"layers"}:
            raise ValueError(
                f"base_flow: expected 'layers' beside the name 'none', got {sorted(options)}"
            )
        return (None,) * check_positive("layers", options["layers"])
    if base_flow == "none":
        raise ValueError(
            "base_flow: expected the number of layers, as {'name': 'none', 'layers': 5}"
        )
    flow: BaseFlow = build_part(
        "base-flow",
        _without_normalization(base_flow),
        features=features,
        context_features=context_features,
    )
    if (flow.latent_features, flow.num_charts) != (features, None):
        raise ValueError(
            f"base_flow: expected {features} latent columns and no charts, got "
            f"{flow.latent_features} and num_charts={flow.num_charts}"
        )
    taken: object = flow.layers()
    if not isinstance(taken, Iterable):
        raise TypeError(
            f"base_flow: expected an iterable of layers, {type(flow).__name__}.layers() gave "
            f"{type(taken).__name__}"
        )
    layers = tuple(taken)
    if not layers:
        raise ValueError(f"base_flow: expected layers, {type(flow).__name__}.layers() has none")
    for number, layer in enumerate(layers):
        where = f"base_flow: layer {number} of {type(flow).__name__}"
        if not isinstance(layer, BaseFlow):
            raise TypeError(f"{where}: expected a BaseFlow, got {type(layer).__name__}")
        sizes = (layer.features, layer.latent_features, layer.num_charts)
        if sizes != (features, features, None):
            raise ValueError(
                f"{where}: expected (features, latent_features, num_charts) = "
                f"({features}, {features}, None), got {sizes}"
            )
        if layer.context_features not in (0, context_features):
            raise ValueError(
                f"{where}: expected context_features of 0 or {context_features}, "
                f"got {layer.context_features}"
            )
    return layers


def told_layers(layers: Sequence[BaseFlow]) -> Sequence[BaseFlow]:
    """Layers that take a context, each with those before it that take none (the last's also after).

    Raises:
        ValueError: none takes a context.
    """
    runs: list[list[BaseFlow]] = [[]]
    for layer in layers:
        if runs[-1] and runs[-1][-1].context_features:
            runs.append([])
        runs[-1].append(layer)
    if not any(layer.context_features for layer in layers):
        raise ValueError(
            "base_flow: expected layers that take a context, for the family 'conditioned'; "
            f"got {[type(layer).__name__ for layer in layers]}, which take none"
        )
    if not runs[-1][-1].context_features:
        runs[-2:] = [[*runs[-2], *runs[-1]]]
    return [run[0] if len(run) == 1 else Composition(run) for run in runs]


def _without_normalization(base_flow: FlowPart) -> FlowPart:
    if isinstance(base_flow, BaseFlow):
        return base_flow
    options = dict(base_flow) if isinstance(base_flow, Mapping) else {"name": base_flow}
    name = options.get("name")
    if isinstance(name, str):
        option = options_of(load("base-flow", name)).get("normalization")
        if option is not None and "none" in get_args(option.annotation):
            options.setdefault("normalization", "none")
    return options


def check_widths(**hidden: Sequence[int]) -> None:
    """Raise unless all hidden widths are positive.

    Raises:
        ValueError: one is not; the message names the option.
    """
    for name, widths in hidden.items():
        for width in widths:
            check_positive(name, width)
