"""Networks and optimisers of Cornish et al. (2020) as options; imports nothing heavy.

``LGF_2D[name]`` are options of ``lgf``, ``MAF_2D[name]`` a ``base_flow`` of ``global``, for the
experiments of appendix D.2; ``LGF_UCI[name]`` and ``MAF_UCI[name]`` are the grids of D.3.
"""

from __future__ import annotations

from typing import Any

_NETS = {"activation": "tanh", "log_scale_bound": "none"}
_SMALL = [50] * 4
_LARGE = [50] * 8


def _maf(layers: int, hidden: list[int], normalization: str) -> dict[str, Any]:
    return {
        "name": "maf",
        "layers": layers,
        "hidden": hidden,
        "normalization": normalization,
        "activation": "tanh",
    }


def _lgf(
    flow: dict[str, Any], index: int, p: list[int], q: list[int], st: list[int]
) -> dict[str, Any]:
    return {
        "base_flow": flow,
        "index_features": index,
        "p_hidden": p,
        "q_hidden": q,
        "st_hidden": st,
        **_NETS,
    }


MAF_2D: dict[str, dict[str, Any]] = {
    "two-uniforms": _maf(10, _SMALL, "batch"),
    "others": _maf(20, _SMALL, "batch"),
    "large-spirals": _maf(20, _LARGE, "batch"),
}
"""80,080, 160,160 and 364,160 parameters."""

LGF_2D: dict[str, dict[str, Any]] = {
    "two-uniforms": _lgf(_maf(5, [10, 10], "none"), 1, _SMALL, _SMALL, [10, 10]),
    "others": _lgf(_maf(5, _SMALL, "none"), 1, _SMALL, _SMALL, [10, 10]),
    "large-spirals": _lgf(_maf(5, _SMALL, "none"), 1, _LARGE, _LARGE, [10, 10]),
}
"""80,810, 119,910 and 221,910 parameters."""

EPOCHS_2D: dict[str, int] = {"two-uniforms": 300, "others": 500, "large-spirals": 500}
TRAINING_2D: dict[str, Any] = {"lr": 1e-3, "batch_size": 1000, "patience": 0}
DRAWS_2D = 10
"""ELBO draws a row in training, by the authors' code; the paper does not say."""

TRAINING_UCI: dict[str, Any] = {"lr": 1e-3, "batch_size": 1000, "patience": 30, "epochs": 1000}
DRAWS_UCI = {"training_samples": 1, "validation_samples": 5, "num_samples": 1000}

_WIDTHS = {
    "power": ((100, 200, 400), 2, (100, 200)),
    "gas": ((100, 200, 400), 2, (100, 200)),
    "hepmass": ((128, 512, 1024), 5, (128, 512)),
    "miniboone": ((128, 512, 1024), 10, (128, 512)),
}
"""Of the MAF's couplers; d_u; of p and q, each on its own."""

MAF_UCI: dict[str, tuple[dict[str, Any], ...]] = {
    name: tuple(_maf(layers, [width] * 2, "batch") for layers in (5, 10, 20) for width in widths)
    for name, (widths, _, _) in _WIDTHS.items()
}
"""Nine flows for each set."""

LGF_UCI: dict[str, tuple[dict[str, Any], ...]] = {
    name: tuple(
        _lgf(_maf(layers, [128] * 2, "none"), index, [p] * 2, [q] * 2, [128] * 2)
        for layers in (5, 10)
        for p in sizes
        for q in sizes
    )
    for name, (_, index, sizes) in _WIDTHS.items()
}
"""Eight models for each set."""
