"""A zoo of local normalizing flows; importing it imports no torch until a name needs it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flowzoo._version import __version__ as __version__

if TYPE_CHECKING:
    from flowzoo.interfaces import EXACT as EXACT
    from flowzoo.interfaces import LEBESGUE as LEBESGUE
    from flowzoo.interfaces import LOWER_BOUND as LOWER_BOUND
    from flowzoo.interfaces import BaseFlow as BaseFlow
    from flowzoo.interfaces import Direction as Direction
    from flowzoo.interfaces import Evaluation as Evaluation
    from flowzoo.interfaces import Injection as Injection
    from flowzoo.interfaces import Likelihood as Likelihood
    from flowzoo.interfaces import Measure as Measure
    from flowzoo.interfaces import Metric as Metric
    from flowzoo.interfaces import MetricValue as MetricValue
    from flowzoo.interfaces import Mixture as Mixture
    from flowzoo.interfaces import ParameterGroup as ParameterGroup
    from flowzoo.interfaces import Partitioner as Partitioner
    from flowzoo.interfaces import Prior as Prior
    from flowzoo.interfaces import Splits as Splits
    from flowzoo.interfaces import Stage as Stage
    from flowzoo.interfaces import Step as Step
    from flowzoo.interfaces import Task as Task
    from flowzoo.interfaces import Trained as Trained
    from flowzoo.plugin import API as API
    from flowzoo.plugin import PluginSpec as PluginSpec
    from flowzoo.registry import PluginError as PluginError
    from flowzoo.registry import build as build
    from flowzoo.registry import build_part as build_part
    from flowzoo.registry import entries as entries
    from flowzoo.registry import load as load
    from flowzoo.registry import register as register
    from flowzoo.training import FitResult as FitResult
    from flowzoo.training import fit as fit

_HOMES = {
    "flowzoo.interfaces": (
        "EXACT LEBESGUE LOWER_BOUND BaseFlow Direction Evaluation Injection Likelihood Measure "
        "Metric MetricValue Mixture ParameterGroup Partitioner Prior Splits Stage Step Task Trained"
    ),
    "flowzoo.plugin": "API PluginSpec",
    "flowzoo.registry": "PluginError build build_part entries load register",
    "flowzoo.training": "FitResult fit",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'flowzoo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
