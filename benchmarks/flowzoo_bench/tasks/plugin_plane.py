"""Specs of the built-in sets in the plane; imports nothing heavy."""

from __future__ import annotations

from flowzoo.plugin import PluginSpec

_PAPER = (
    "Relaxing Bijectivity Constraints with Continuously Indexed Normalising Flows (Cornish et al., "
    "ICML 2020), first Localised Generative Flows (arXiv:1909.13833)"
)
_BIBTEX = """@inproceedings{cornish2020relaxing,
  title = {Relaxing Bijectivity Constraints with Continuously Indexed Normalising Flows},
  author = {Cornish, Rob and Caterini, Anthony L. and Deligiannidis, George and Doucet, Arnaud},
  booktitle = {International Conference on Machine Learning},
  year = {2020}
}"""
_TOY_PAPER = (
    "FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models (Grathwohl et "
    f"al., ICLR 2019); {_PAPER}"
)
_TOY_BIBTEX = f"""@inproceedings{{grathwohl2019ffjord,
  title = {{{{FFJORD}}: Free-form Continuous Dynamics for Scalable Reversible Generative Models}},
  author = {{Grathwohl, Will and Chen, Ricky T. Q. and Bettencourt, Jesse and Sutskever, Ilya
            and Duvenaud, David}},
  booktitle = {{International Conference on Learning Representations}},
  year = {{2019}}
}}

{_BIBTEX}"""


def _plane(
    name: str, summary: str, target: str, paper: str = _TOY_PAPER, bibtex: str = _TOY_BIBTEX
) -> PluginSpec:
    """Rows in the plane, whose density, support and parts are known."""
    return PluginSpec(
        "task",
        name,
        summary,
        f"flowzoo_bench.tasks.{target}",
        capabilities={
            "features": 2,
            "labels": True,
            "oracle": True,
            "support": True,
            "real": False,
        },
        paper=paper,
        bibtex=bibtex,
    )


TWO_UNIFORMS = _plane(
    "two-uniforms", "Two uniform boxes apart", "boxes:TwoUniforms", _PAPER, _BIBTEX
)
CHECKERBOARD = _plane("checkerboard", "Every second square of a board", "boxes:Checkerboard")
EIGHT_GAUSSIANS = _plane(
    "eight-gaussians", "Eight Gaussians on a circle", "plane_mixtures:EightGaussians"
)
RINGS = _plane("rings", "Four circles around one centre, with noise", "plane_mixtures:Rings")
TWO_SPIRALS = _plane(
    "two-spirals", "Two spirals in each other, with noise", "two_spirals:TwoSpirals"
)
