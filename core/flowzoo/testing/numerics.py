"""Comparisons with the tolerances of the suite, Jacobians, and instances away from their start."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from flowzoo.interfaces import Step
from flowzoo.testing.outcome import CheckFailed

F32, F64 = torch.float32, torch.float64

ROUND_TRIP: Mapping[torch.dtype, float] = MappingProxyType({F64: 1e-6, F32: 1e-3})
"""Largest error of a round trip, relative to 1 + |x|."""
VOLUME: Mapping[torch.dtype, float] = MappingProxyType({F64: 1e-6, F32: 1e-3})
"""Largest error of a log-determinant, relative to 1 + its size."""
SAME: Mapping[torch.dtype, float] = MappingProxyType({F64: 1e-8, F32: 1e-4})
"""Largest difference between two ways to the same number, relative to 1 + its size."""
MASS: Mapping[torch.dtype, float] = MappingProxyType({F64: 1e-3, F32: 5e-3})
"""Largest error of a total mass."""
ITERATIVE = 1e-4
"""Round trip in float64 of a plugin that declares ``inverse = "iterative"``."""


def rows(
    num: int, features: int, dtype: torch.dtype = F64, seed: int = 0, scale: float = 1.0
) -> Tensor:
    """``num`` standard normal rows times ``scale``, (num, features), from a seed of their own."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return scale * torch.randn(num, features, generator=generator, dtype=F64).to(dtype)


def moons(num: int, features: int, dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    """Rows on two noisy arcs in the first two columns, and curved functions of them."""
    generator = torch.Generator().manual_seed(2000 + seed)
    angle = math.pi * torch.rand(num, generator=generator, dtype=F64)
    side = torch.randint(0, 2, (num,), generator=generator) * 2.0 - 1.0
    first = angle.cos() + 0.5 * side
    second = (angle.sin() - 0.25) * side
    others = [((k + 1.5) * first + k * second).sin() for k in range(max(0, features - 2))]
    clean = torch.stack([first, second, *others], dim=1)[:, :features]
    noise = torch.randn(num, features, generator=generator, dtype=F64)
    return (clean + 0.1 * noise).to(dtype)


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest |found - expected| / (1 + |expected|); infinite where either is not finite alone."""
    if found.shape != expected.shape:
        raise CheckFailed(f"expected shape {tuple(expected.shape)}, got {tuple(found.shape)}")
    if found.numel() == 0:
        return 0.0
    found, expected = found.detach().to(F64), expected.detach().to(F64)
    apart = (found - expected).abs() / (1.0 + expected.abs())
    apart = torch.where(found == expected, 0.0, apart)  # equal infinities are equal
    return float(torch.where(apart.isnan(), math.inf, apart).max())


def close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Raise CheckFailed unless the two agree within ``tolerance``, relative to 1 + |expected|."""
    apart = difference(found, expected)
    if not apart <= tolerance:
        raise CheckFailed(f"{what}: differs by {apart:.3g} (at most {tolerance:g} allowed)")


def finite(value: Tensor, what: str) -> None:
    """Raise CheckFailed where ``value`` holds NaN or infinity."""
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise CheckFailed(f"{what}: NaN or infinity in {bad} of {value.numel()} entries")


def jacobian(direction: Callable[..., Step], point: Tensor, *rest: Tensor | None) -> Tensor:
    """The Jacobian (b, a) of a flow's direction at one row ``point`` (1, a)."""

    def value(row: Tensor) -> Tensor:
        return direction(row, *rest).value

    result: Any = torch.autograd.functional.jacobian(value, point)  # type: ignore[no-untyped-call]
    if not isinstance(result, Tensor):
        raise CheckFailed(f"expected a tensor from autograd, got {type(result).__name__}")
    matrix: Tensor = result[0, :, 0, :]
    return matrix


@torch.no_grad()
def perturb(module: nn.Module, seed: int = 0, size: float = 0.5) -> None:
    """Move every trained parameter away from its start, in place: starts are often the identity.

    A weight gets noise of standard deviation ``size`` over the root of its larger side, so that a
    wide layer's output moves as much as a narrow one's.
    """
    generator = torch.Generator().manual_seed(3000 + seed)
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            fan = max(parameter.shape) if parameter.ndim > 1 else 4
            noise = torch.randn(parameter.shape, generator=generator, dtype=F64)
            parameter.add_((size / math.sqrt(fan) * noise).to(parameter))
