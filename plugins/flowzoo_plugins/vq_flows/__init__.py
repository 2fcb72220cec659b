"""VQ-Flows: local normalizing flows on the charts of a learned atlas (Sidheekh et al., 2022).

``from flowzoo_plugins.vq_flows import VQFlow``; importing this package alone imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowzoo_plugins.vq_flows.mixture import VQFlow as VQFlow

from flowzoo_plugins.vq_flows.presets import FRAMED as FRAMED
from flowzoo_plugins.vq_flows.presets import PAPER_TRAINING as PAPER_TRAINING

__all__ = ["FRAMED", "PAPER_TRAINING", "VQFlow"]


def __getattr__(name: str) -> Any:
    if name == "VQFlow":
        from flowzoo_plugins.vq_flows.mixture import VQFlow

        return VQFlow
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
