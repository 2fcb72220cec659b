"""Counts tensor operations: what a call costs, without a clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    count: int = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(call: Callable[[], object]) -> int:
    """How many tensor operations ``call`` runs, whatever their size."""
    with torch.no_grad(), _Counter() as counter:  # type: ignore[no-untyped-call]
        call()
    count: int = counter.count
    return count
