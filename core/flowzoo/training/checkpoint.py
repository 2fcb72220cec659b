"""Checkpoints that a kill at any moment cannot damage, and that hold no code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_FORMAT = "flowzoo-checkpoint-1"


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside ``path``, flush to disk, then rename: ``path`` is old or new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Save named tensors and JSON-able ``meta`` in one safetensors file, by rename."""
    # clones: safetensors refuses tensors that share storage
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps({"format": _FORMAT, **meta})
    write_atomically(path, save(held, metadata={"flowzoo": text}))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on CPU) and ``meta`` of a checkpoint.

    Raises:
        ValueError: the file is not a readable checkpoint of this format.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            meta = json.loads((file.metadata() or {}).get("flowzoo", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"checkpoint: cannot read {path}: {error}") from error
    if meta.get("format") != _FORMAT:
        raise ValueError(
            f"checkpoint: expected format {_FORMAT!r} in {path}, got {meta.get('format')!r}"
        )
    return tensors, meta
