"""Global flows of our own, and adapters to nflows, normflows and zuko.

Names are imported on first use, so that the light ``plugin`` module beside them imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowzoo_plugins.base_flows.conv_gin import ConvGIN as ConvGIN
    from flowzoo_plugins.base_flows.gin import GIN as GIN
    from flowzoo_plugins.base_flows.maf import MAF as MAF
    from flowzoo_plugins.base_flows.nflows_adapter import NflowsMAF as NflowsMAF
    from flowzoo_plugins.base_flows.nflows_adapter import NflowsNSF as NflowsNSF
    from flowzoo_plugins.base_flows.nflows_adapter import NflowsRealNVP as NflowsRealNVP
    from flowzoo_plugins.base_flows.nflows_adapter import NflowsTransform as NflowsTransform
    from flowzoo_plugins.base_flows.nice import NICE as NICE
    from flowzoo_plugins.base_flows.normflows_adapter import NormflowsFlows as NormflowsFlows
    from flowzoo_plugins.base_flows.normflows_adapter import NormflowsRealNVP as NormflowsRealNVP
    from flowzoo_plugins.base_flows.nsf import NSFAutoregressive as NSFAutoregressive
    from flowzoo_plugins.base_flows.nsf import NSFCoupling as NSFCoupling
    from flowzoo_plugins.base_flows.realnvp import RealNVP as RealNVP
    from flowzoo_plugins.base_flows.zuko_adapter import ZukoMAF as ZukoMAF
    from flowzoo_plugins.base_flows.zuko_adapter import ZukoNSF as ZukoNSF
    from flowzoo_plugins.base_flows.zuko_adapter import ZukoTransform as ZukoTransform

_HOMES = {
    "ConvGIN": "conv_gin",
    "GIN": "gin",
    "MAF": "maf",
    "NICE": "nice",
    "NSFAutoregressive": "nsf",
    "NSFCoupling": "nsf",
    "NflowsMAF": "nflows_adapter",
    "NflowsNSF": "nflows_adapter",
    "NflowsRealNVP": "nflows_adapter",
    "NflowsTransform": "nflows_adapter",
    "NormflowsFlows": "normflows_adapter",
    "NormflowsRealNVP": "normflows_adapter",
    "RealNVP": "realnvp",
    "ZukoMAF": "zuko_adapter",
    "ZukoNSF": "zuko_adapter",
    "ZukoTransform": "zuko_adapter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
