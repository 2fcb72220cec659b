"""Random streams named by what they are for, so that resuming needs no generator state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator seeded by a hash of ``seed`` and what the numbers are for.

    Example:
        >>> a = torch.rand(2, generator=generator_for(0, "order", 3))
        >>> b = torch.rand(2, generator=generator_for(0, "order", 3))
        >>> bool((a == b).all())
        True
    """
    return torch.Generator().manual_seed(stream_seed(seed, *purpose))


@contextmanager
def global_stream(device: torch.device, seed: int, *purpose: str | int) -> Iterator[None]:
    """Let code that draws from torch's global generators draw from a stream of its own.

    For modules with randomness of their own, such as dropout; their generators are left as they
    were.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    before = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(stream_seed(seed, "global", *purpose))
    try:
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


def stream_seed(seed: int, *purpose: str | int) -> int:
    """63 bits from a hash of ``seed`` and what the numbers are for."""
    text = "|".join((str(seed), *map(str, purpose)))
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
