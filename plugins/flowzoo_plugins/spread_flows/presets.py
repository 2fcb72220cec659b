"""The networks and optimisers of Zhang et al. (2023) as options; imports nothing heavy.

``PRESETS[name]`` is a ``base_flow`` table, ``BASELINES[name]`` the same nets without centred
log-scales (the paper's flow over a fixed N(0, I)), ``TRAINING[name]`` a ``training`` table. Names
ending in ``-code`` are what the paper's public code does where it differs from the paper.
"""

from __future__ import annotations

from typing import Any

NOISE_STD = 0.01
"""sigma_Z of the noise on codes and prior (section 4.1: sigma_Z^2 = 1e-4)."""

MNIST_DATA_NOISE = {"start": 0.05, "end": 0.01, "hold": 1 / 3, "until": 0.8425}
"""sigma_x of the noise on MNIST, shares of 300,000 steps (section 5.1).

The paper holds 0.05, then multiplies by 0.9 every 10,000 steps down to 0.01, which takes 15.3 times
that. It says "after 2000k iterations", more than it trains; here the noise falls with the learning
rate, after 100k.
"""

_HIDDEN = [24, 24, 24]
_LEAKY = "leaky-relu-0.2"
_COLUMNS = {
    "hidden": _HIDDEN,
    "scale_activation": _LEAKY,
    "translation_activation": _LEAKY,
    "log_scale_bound": "none",
}
_IMAGES = {
    "name": "conv-gin",
    "channels": 16,
    "flat_couplings": 2,
    "hidden": _HIDDEN,
    "activation": _LEAKY,
}
_PAPER = {"kernels": [3, 3, 3], "log_scale_bound": "none", "translation_bound": "none"}
_CODE = {
    "kernels": [3, 1, 3],
    "log_scale_bound": 1.0,
    "translation_bound": 1.0,
    "flat_log_scale_bound": "none",
}
_SQUARE = {"shape": [1, 32, 32]}
_DIGIT = {"shape": [1, 28, 28]}

PRESETS: dict[str, dict[str, Any]] = {
    "toy": {"name": "gin", "layers": 2, "couplings": "single", **_COLUMNS},
    "s-curve": {"name": "gin", "layers": 6, "couplings": "single", **_COLUMNS},
    "fading-square": {**_IMAGES, **_SQUARE, "couplings": [2, 2], **_PAPER},
    "fading-square-code": {**_IMAGES, **_SQUARE, "couplings": [3, 3], **_CODE},
    "mnist": {**_IMAGES, **_DIGIT, "couplings": [4, 4], **_PAPER},
}
"""Tables 1 to 4: base flows that keep volume."""

BASELINES: dict[str, dict[str, Any]] = {
    "toy": {"name": "realnvp", "layers": 2, "normalization": "none", **_COLUMNS},
    "s-curve": {"name": "realnvp", "layers": 6, "normalization": "none", **_COLUMNS},
    "fading-square": {**PRESETS["fading-square"], "volume_preserving": False},
    "fading-square-code": {**PRESETS["fading-square-code"], "volume_preserving": False},
    "mnist": {**PRESETS["mnist"], "volume_preserving": False},
}
"""The same nets, log-scales as they are: section 5's flow with a fixed prior."""

TRAINING: dict[str, dict[str, Any]] = {
    "toy": {"steps": 10_000, "batch_size": 100, "lr": 3e-4, "schedule": "constant"},
    "s-curve": {
        "steps": 200_000,
        "batch_size": 500,
        "lr": 5e-4,
        "schedule": "step",
        "decay": 0.9,
        "decay_every": 10_000,
    },
    "fading-square": {
        "steps": 20_000,
        "batch_size": 100,
        "lr": 5e-4,
        "schedule": "step",
        "decay": 0.9,
        "decay_every": 1_000,
        "weight_decay": 0.1,
    },
    "fading-square-code": {
        "steps": 50_000,
        "batch_size": 100,
        "lr": 3e-4,
        "schedule": "constant",
        "weight_decay": 0.5,
    },
    "mnist": {
        "steps": 300_000,
        "batch_size": 100,
        "lr": 5e-4,
        "schedule": "step",
        "decay": 0.9,
        "decay_every": 10_000,
        "decay_after": 100_000,
    },
}
"""Appendix C.2 to C.5: Adam, its weight decay on every parameter, the prior's as well."""
