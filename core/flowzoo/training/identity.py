"""What tells one training from another: classes, options, tensor shapes and stages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from flowzoo.interfaces.stage import Stage

_STEP = ("decay", "decay_every", "decay_after")
"""Settings of schedule ``step``: of no effect on any other, whose settings they are not."""

_OTHERWISE = ("groups", "monitor", "watch", *_STEP)
"""Fields of a stage that are settings in another form, or that training does not depend on."""


def settings_of(model: nn.Module, stages: tuple[Stage, ...]) -> dict[str, str]:
    """Everything plain that decides how a model trains, by dotted name, as JSON text.

    Of every module its class and its public attributes that are plain data (options, as built);
    of every parameter its shape, dtype and whether it is trained; of every stage its settings.
    """
    settings: dict[str, Any] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        settings[f"{prefix}class"] = f"{type(module).__module__}.{type(module).__qualname__}"
        for name, value in vars(module).items():
            if not name.startswith("_") and name != "training" and _is_plain(value):
                settings[f"{prefix}{name}"] = value
    for name, p in model.named_parameters():
        settings[f"parameter {name}"] = [list(p.shape), str(p.dtype), p.requires_grad]
    for index, stage in enumerate(stages):
        held = {k: v for k, v in vars(stage).items() if not callable(v) and k not in _OTHERWISE}
        if stage.schedule == "step":
            held.update({k: getattr(stage, k) for k in _STEP})
        settings[f"stage {index}"] = {**held, "groups": [asdict(group) for group in stage.groups]}
    return {name: json.dumps(value, sort_keys=True) for name, value in settings.items()}


def difference(a: Mapping[str, str], b: Mapping[str, str]) -> str | None:
    """The first setting in which two models differ, with both values; None where they agree."""
    for name in (*a, *b):
        if a.get(name) != b.get(name):
            return f"{name} is {a.get(name)} and {b.get(name)}"
    return None


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
