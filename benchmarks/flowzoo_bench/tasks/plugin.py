"""Specs of the built-in tasks; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from flowzoo.plugin import PluginSpec

_PAPER = "VQ-Flows: Vector Quantized Local Normalizing Flows (Sidheekh et al., UAI 2022)"
_BIBTEX = """@inproceedings{sidheekh2022vqflows,
  title = {{VQ-Flows}: Vector Quantized Local Normalizing Flows},
  author = {Sidheekh, Sahil and Dock, Chris B. and Jain, Tushar and Balan, Radu
            and Singh, Maneesh K.},
  booktitle = {Uncertainty in Artificial Intelligence},
  year = {2022}
}"""


def _manifold(name: str, summary: str, target: str) -> PluginSpec:
    """A 3-D set of the VQ-Flows paper, whose density and support are known."""
    return PluginSpec(
        "task",
        name,
        summary,
        f"flowzoo_bench.tasks.{target}",
        capabilities={"features": 3, "oracle": True, "support": True, "real": False},
        paper=_PAPER,
        bibtex=_BIBTEX,
    )


def _real(
    name: str,
    summary: str,
    target: str,
    features: int | None,
    *,
    check_options: str = "",
    version: str = "1",
) -> PluginSpec:
    """Real data, whose density nobody knows."""
    return PluginSpec(
        "task",
        name,
        summary,
        f"flowzoo_bench.tasks.{target}",
        capabilities={"features": features, "oracle": False, "support": False, "real": True},
        check_options=check_options or {},
        version=version,
    )


def _image(
    name: str,
    summary: str,
    target: str,
    shape: tuple[int, int, int],
    *,
    check_options: Mapping[str, Any] | str = "",
    requires: tuple[str, ...] = (),
    paper: str = "",
    bibtex: str = "",
) -> PluginSpec:
    """Real images (C, H, W) with labels."""
    return PluginSpec(
        "task",
        name,
        summary,
        f"flowzoo_bench.tasks.{target}",
        requires=requires,
        capabilities={
            "features": prod(shape),
            "shape": list(shape),
            "labels": True,
            "oracle": False,
            "support": False,
            "real": True,
        },
        paper=paper,
        bibtex=bibtex,
        check_options=check_options or {},
    )


SPHERICAL = _manifold(
    "spherical", "Three Gaussians projected onto the unit sphere", "spherical:Spherical"
)
HELIX = _manifold("helix", "Four turns of a helix", "curve_sets:Helix")
LISSAJOUS = _manifold("lissajous", "A planar curve that crosses itself", "curve_sets:Lissajous")
TWISTED_EIGHT = _manifold("twisted-eight", "Two circles that touch", "curve_sets:TwistedEight")
KNOTTED = _manifold("knotted", "A trefoil knot", "curve_sets:Knotted")
INTERLOCKED_CIRCLES = _manifold(
    "interlocked-circles", "Two linked circles", "curve_sets:InterlockedCircles"
)
NON_KNOTTED = _manifold("non-knotted", "A closed curve without a knot", "curve_sets:NonKnotted")
BENT_LISSAJOUS = _manifold(
    "bent-lissajous", "A Lissajous figure bent on a parabola", "curve_sets:BentLissajous"
)
DISJOINT_CIRCLES = _manifold(
    "disjoint-circles", "A segment and an ellipse apart, as printed", "curve_sets:DisjointCircles"
)
STAR = _manifold("star", "Three crossing segments", "curve_sets:Star")
_SMALL_MANIFOLD = {"features": 3, "noise": 0.1, "num_train": 2000}  # a grid of kernels resolves it
LINEAR_MANIFOLD = PluginSpec(
    "task",
    "linear-manifold",
    "A Gaussian on a plane of any dimension, with or without noise",
    "flowzoo_bench.tasks.manifolds:LinearManifold",
    capabilities={"features": None, "oracle": True, "support": True, "real": False},
    check_options=_SMALL_MANIFOLD,
)
CURVED_MANIFOLD = PluginSpec(
    "task",
    "curved-manifold",
    "Waves over a plane of any dimension, with or without noise",
    "flowzoo_bench.tasks.manifolds:CurvedManifold",
    capabilities={"features": None, "oracle": True, "support": True, "real": False},
    check_options=_SMALL_MANIFOLD,
)

DIGITS = _image(
    "digits",
    "scikit-learn's handwritten digits, 8 x 8, dequantised",
    "digits:Digits",
    (1, 8, 8),
)
MNIST = _image(
    "mnist",
    "70,000 handwritten digits, 28 x 28, dequantised",
    "mnist:MNIST",
    (1, 28, 28),
    check_options="flowzoo_bench.tasks.mnist:example_options",
)
FASHION_MNIST = _image(
    "fashion-mnist",
    "70,000 articles of clothing, 28 x 28, dequantised",
    "mnist:FashionMNIST",
    (1, 28, 28),
    check_options="flowzoo_bench.tasks.mnist:example_options",
    paper="Fashion-MNIST: a Novel Image Dataset (Xiao, Rasul, Vollgraf, 2017)",
    bibtex="""@article{xiao2017fashion,
  title = {{Fashion-MNIST}: a Novel Image Dataset for Benchmarking Machine Learning Algorithms},
  author = {Xiao, Han and Rasul, Kashif and Vollgraf, Roland},
  journal = {arXiv preprint arXiv:1708.07747},
  year = {2017}
}""",
)
PATCHES = _image(
    "patches",
    "Colour patches of scikit-image's photos, split by photo, dequantised",
    "patches:Patches",
    (3, 32, 32),
    check_options={"num_train": 300, "num_valid": 100, "num_test": 100},
    requires=("scikit-image>=0.24",),
)
BREAST_CANCER = _real(
    "breast-cancer", "569 rows of 30 cell measurements (UCI)", "tabular:BreastCancer", 30
)
WINE = _real(
    "wine",
    "178 rows of 13 measurements of wines (UCI), dequantised",
    "tabular:Wine",
    13,
    version="2",  # wider noise where most of a column was rounded to fives or tens
)
DIABETES = _real(
    "diabetes",
    "442 rows of 7 measurements of patients, dequantised",
    "tabular:Diabetes",
    7,
    version="2",  # without columns that are computed from others
)
PHOTO_PIXELS = PluginSpec(
    "task",
    "photo-pixels",
    "A table of pixels of photos, 63 columns like BSDS300's, or 3, 8, 12, 24, 48",
    "flowzoo_bench.tasks.photo_pixels:PhotoPixels",
    requires=("scikit-image>=0.24",),
    capabilities={"features": None, "oracle": False, "support": False, "real": True},
    check_options={"side": 3, "num_train": 400, "num_valid": 100, "num_test": 100},
)
AIRPORTS = _real("airports", "The world's airports near the unit sphere", "airports:Airports", 3)
FILE = _real(
    "file",
    "Your own rows, from a .npy file",
    "arrays:FileTask",
    None,
    check_options="flowzoo_bench.tasks.arrays:example_options",
)
