"""Data sets that methods are compared on; classes are imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowzoo_bench.tasks.airports import Airports as Airports
    from flowzoo_bench.tasks.arrays import ArrayTask as ArrayTask
    from flowzoo_bench.tasks.arrays import FileTask as FileTask
    from flowzoo_bench.tasks.boxes import BoxesTask as BoxesTask
    from flowzoo_bench.tasks.boxes import Checkerboard as Checkerboard
    from flowzoo_bench.tasks.boxes import TwoUniforms as TwoUniforms
    from flowzoo_bench.tasks.coordinates import Coordinates as Coordinates
    from flowzoo_bench.tasks.curve_sets import BentLissajous as BentLissajous
    from flowzoo_bench.tasks.curve_sets import CurveTask as CurveTask
    from flowzoo_bench.tasks.curve_sets import DisjointCircles as DisjointCircles
    from flowzoo_bench.tasks.curve_sets import Helix as Helix
    from flowzoo_bench.tasks.curve_sets import InterlockedCircles as InterlockedCircles
    from flowzoo_bench.tasks.curve_sets import Knotted as Knotted
    from flowzoo_bench.tasks.curve_sets import Lissajous as Lissajous
    from flowzoo_bench.tasks.curve_sets import NonKnotted as NonKnotted
    from flowzoo_bench.tasks.curve_sets import Star as Star
    from flowzoo_bench.tasks.curve_sets import TwistedEight as TwistedEight
    from flowzoo_bench.tasks.digits import Digits as Digits
    from flowzoo_bench.tasks.embedded import EmbeddedTask as EmbeddedTask
    from flowzoo_bench.tasks.fading_square import FadingSquare as FadingSquare
    from flowzoo_bench.tasks.images import ImageTask as ImageTask
    from flowzoo_bench.tasks.logit import Logit as Logit
    from flowzoo_bench.tasks.manifolds import CurvedManifold as CurvedManifold
    from flowzoo_bench.tasks.manifolds import LinearManifold as LinearManifold
    from flowzoo_bench.tasks.manifolds import ManifoldTask as ManifoldTask
    from flowzoo_bench.tasks.mnist import MNIST as MNIST
    from flowzoo_bench.tasks.mnist import FashionMNIST as FashionMNIST
    from flowzoo_bench.tasks.patches import Patches as Patches
    from flowzoo_bench.tasks.photo_pixels import PhotoPixels as PhotoPixels
    from flowzoo_bench.tasks.planar_sets import Line as Line
    from flowzoo_bench.tasks.planar_sets import Sine as Sine
    from flowzoo_bench.tasks.plane import PlaneTask as PlaneTask
    from flowzoo_bench.tasks.plane_mixtures import EightGaussians as EightGaussians
    from flowzoo_bench.tasks.plane_mixtures import Rings as Rings
    from flowzoo_bench.tasks.s_curve import SCurve as SCurve
    from flowzoo_bench.tasks.sphere import Sphere as Sphere
    from flowzoo_bench.tasks.spherical import Spherical as Spherical
    from flowzoo_bench.tasks.standardize import Standardizer as Standardizer
    from flowzoo_bench.tasks.synthetic import SyntheticTask as SyntheticTask
    from flowzoo_bench.tasks.synthetic_digits import SyntheticDigits as SyntheticDigits
    from flowzoo_bench.tasks.tabular import BreastCancer as BreastCancer
    from flowzoo_bench.tasks.tabular import Diabetes as Diabetes
    from flowzoo_bench.tasks.tabular import Wine as Wine
    from flowzoo_bench.tasks.two_spirals import TwoSpirals as TwoSpirals
    from flowzoo_bench.tasks.uci.gas import Gas as Gas
    from flowzoo_bench.tasks.uci.hepmass import Hepmass as Hepmass
    from flowzoo_bench.tasks.uci.miniboone import Miniboone as Miniboone
    from flowzoo_bench.tasks.uci.power import Power as Power
    from flowzoo_bench.tasks.uci.table import MafTable as MafTable
    from flowzoo_bench.tasks.union import ManifoldUnion as ManifoldUnion

_HOME = {
    "Airports": "airports",
    "ArrayTask": "arrays",
    "BentLissajous": "curve_sets",
    "BoxesTask": "boxes",
    "BreastCancer": "tabular",
    "Checkerboard": "boxes",
    "Coordinates": "coordinates",
    "CurveTask": "curve_sets",
    "CurvedManifold": "manifolds",
    "Diabetes": "tabular",
    "Digits": "digits",
    "DisjointCircles": "curve_sets",
    "EightGaussians": "plane_mixtures",
    "EmbeddedTask": "embedded",
    "FadingSquare": "fading_square",
    "FashionMNIST": "mnist",
    "FileTask": "arrays",
    "Gas": "uci.gas",
    "Helix": "curve_sets",
    "Hepmass": "uci.hepmass",
    "ImageTask": "images",
    "InterlockedCircles": "curve_sets",
    "Knotted": "curve_sets",
    "Line": "planar_sets",
    "LinearManifold": "manifolds",
    "Lissajous": "curve_sets",
    "Logit": "logit",
    "MNIST": "mnist",
    "MafTable": "uci.table",
    "ManifoldTask": "manifolds",
    "ManifoldUnion": "union",
    "Miniboone": "uci.miniboone",
    "NonKnotted": "curve_sets",
    "Patches": "patches",
    "PhotoPixels": "photo_pixels",
    "PlaneTask": "plane",
    "Power": "uci.power",
    "Rings": "plane_mixtures",
    "SCurve": "s_curve",
    "Sine": "planar_sets",
    "Sphere": "sphere",
    "Spherical": "spherical",
    "Standardizer": "standardize",
    "Star": "curve_sets",
    "SyntheticDigits": "synthetic_digits",
    "SyntheticTask": "synthetic",
    "TwistedEight": "curve_sets",
    "TwoSpirals": "two_spirals",
    "TwoUniforms": "boxes",
    "Wine": "tabular",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
