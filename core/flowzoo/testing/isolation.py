"""What a plugin must leave alone: global state of the process, and its arguments."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowzoo.testing.outcome import CheckFailed


def global_state() -> dict[str, Any]:
    """Global settings and random streams, as values that compare."""
    numpy_state: Any = np.random.get_state()
    return {
        "torch's random stream": _digest(torch.get_rng_state().numpy().tobytes()),
        "numpy's random stream": _digest(numpy_state[1].tobytes(), str(numpy_state[2:])),
        "python's random stream": _digest(repr(random.getstate())),
        **_torch_settings(),
        "torch's grad mode": torch.is_grad_enabled(),
        "torch.distributions' validation": torch.distributions.Distribution._validate_args,
        "numpy's error handling": str(np.geterr()),
        "warning filters": len(warnings.filters),
        "the working directory": os.getcwd(),
        "the environment": _digest(repr(sorted(os.environ.items()))),
        "sys.path": tuple(sys.path),
    }


def _torch_settings() -> dict[str, Any]:
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "torch's anomaly mode": torch.is_anomaly_enabled(),
        "torch's matmul precision": torch.get_float32_matmul_precision(),
        "torch's default device": str(torch.get_default_device()),
        "cudnn's settings": (
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
        ),
    }


@contextmanager
def own_globals() -> Iterator[None]:
    """Put the global random streams, and torch's settings, back afterwards.

    Raises:
        CheckFailed: one of torch's settings was changed, be it while a model was built or trained.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    before = _torch_settings()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
            after = _torch_settings()
            torch.set_default_dtype(before["torch's default dtype"])
            torch.set_num_threads(before["torch's number of threads"])
            torch.set_float32_matmul_precision(before["torch's matmul precision"])
            torch.autograd.set_detect_anomaly(before["torch's anomaly mode"])
            flags = before["cudnn's settings"]
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = flags[:2]
            torch.backends.cudnn.allow_tf32 = flags[2]
            torch.backends.cuda.matmul.allow_tf32 = flags[3]
    changed = changes(before, after)
    if changed:
        raise CheckFailed(f"changes {', '.join(changed)}")


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs."""
    return [name for name, value in before.items() if after.get(name) != value]


@contextmanager
def untouched(what: str, *arguments: Tensor | None) -> Iterator[None]:
    """Raise CheckFailed if the block changes global state or one of ``arguments``."""
    # off any state that a seed gives, so that a plugin that seeds again is seen
    torch.rand(1), random.random(), np.random.random()
    before = global_state()
    copies = [None if a is None else a.detach().clone() for a in arguments]
    yield
    changed = changes(before, global_state())
    if changed:
        raise CheckFailed(f"{what}: changes {', '.join(changed)}")
    for index, (argument, copy) in enumerate(zip(arguments, copies, strict=True)):
        if argument is not None and copy is not None and not torch.equal(argument.detach(), copy):
            raise CheckFailed(f"{what}: writes into its argument {index + 1}")


def _digest(*parts: bytes | str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode())
    return digest.hexdigest()
