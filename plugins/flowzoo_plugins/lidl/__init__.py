"""Local intrinsic dimension by densities of noised data (Tempczyk et al., 2022).

``from flowzoo_plugins.lidl import LIDL``; importing this package alone imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowzoo_plugins.lidl.mixture import LIDL as LIDL

__all__ = ["LIDL"]


def __getattr__(name: str) -> Any:
    if name == "LIDL":
        from flowzoo_plugins.lidl.mixture import LIDL

        return LIDL
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
