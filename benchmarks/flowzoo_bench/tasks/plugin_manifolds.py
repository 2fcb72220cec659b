"""Specs of the built-in sets on manifolds of known dimension; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowzoo.plugin import PluginSpec

_PAPER = "Spread Flows for Manifold Modelling (Zhang et al., AISTATS 2023)"
_BIBTEX = """@inproceedings{zhang2023spread,
  title = {Spread Flows for Manifold Modelling},
  author = {Zhang, Mingtian and Sun, Yitong and Zhang, Chen and McDonagh, Steven},
  booktitle = {International Conference on Artificial Intelligence and Statistics},
  year = {2023}
}"""


def _embedded(
    name: str,
    summary: str,
    target: str,
    features: int | None,
    *,
    check_options: Mapping[str, Any] | None = None,
    paper: str = _PAPER,
    bibtex: str = _BIBTEX,
    **capabilities: Any,
) -> PluginSpec:
    """Rows on a manifold, whose density and support are known."""
    known = {"features": features, "oracle": True, "support": True, "real": False}
    return PluginSpec(
        "task",
        name,
        summary,
        f"flowzoo_bench.tasks.{target}",
        capabilities={**known, **capabilities},
        paper=paper,
        bibtex=bibtex,
        check_options=check_options or {},
    )


SINE = _embedded("sine", "A sine curve over a Gaussian coordinate", "planar_sets:Sine", 2)
LINE = _embedded("line", "A Gaussian on the diagonal of the plane", "planar_sets:Line", 2)
S_CURVE = _embedded("s-curve", "A sheet bent to an S, covered uniformly", "s_curve:SCurve", 3)
FADING_SQUARE = _embedded(
    "fading-square",
    "Images of a square of random grey on black",
    "fading_square:FadingSquare",
    None,
    check_options={
        "side": 8,
        "square": 3,
        "start": 2,
        "num_train": 1000,
        "num_valid": 300,
        "num_test": 300,
    },
)
UNION = _embedded(
    "union",
    "A curve and a surface, apart or touching",
    "union:ManifoldUnion",
    3,
    labels=True,
    paper="",
    bibtex="",
)
SPHERE = _embedded(
    "sphere",
    "The uniform law on a sphere of any dimension",
    "sphere:Sphere",
    None,
    check_options={"features": 3, "noise": 0.1, "num_train": 2000},
    paper="",
    bibtex="",
)
SYNTHETIC_DIGITS = _embedded(
    "synthetic-digits",
    "Images that a decoder makes of Gaussian codes",
    "synthetic_digits:SyntheticDigits",
    None,
    check_options={"epochs": 2, "num_train": 500, "num_valid": 100, "num_test": 100},
    oracle=False,
    support=False,
)
