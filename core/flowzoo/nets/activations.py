"""Activation functions by name, so that options stay plain data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import nn

Activation = Literal["relu", "tanh", "leaky-relu", "leaky-relu-0.2", "elu", "silu", "gelu"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "leaky-relu": nn.LeakyReLU,  # slope 0.01
    "leaky-relu-0.2": partial(nn.LeakyReLU, 0.2),
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def build_activation(name: str) -> nn.Module:
    """The activation module called ``name``; ReLU overwrites its input, which must be a temporary.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation: expected one of {list(_ACTIVATIONS)}, got {name!r}")
    # in place: a packed hidden layer is megabytes
    return nn.ReLU(inplace=True) if name == "relu" else _ACTIVATIONS[name]()
