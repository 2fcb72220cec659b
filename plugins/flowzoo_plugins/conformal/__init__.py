"""Conformal embedding flows (Ross, Cresswell, 2021).

``from flowzoo_plugins.conformal import CEF``; importing this package alone imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowzoo_plugins.conformal.cef import CEF as CEF

__all__ = ["CEF"]


def __getattr__(name: str) -> Any:
    if name == "CEF":
        from flowzoo_plugins.conformal.cef import CEF

        return CEF
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
