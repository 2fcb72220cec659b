"""Small files in the tables' formats, of noise, for the conformance checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROWS = 300


def power(folder: Path) -> dict[str, Any]:
    """Options of a small ``Power`` task, whose file is written to ``folder``."""
    return _array(folder, "power/data.npy", _noise(8).round(3))


def gas(folder: Path) -> dict[str, Any]:
    """Options of a small ``Gas`` task: the converted file, two of whose sensors say the same."""
    x = _noise(8)
    return _array(folder, "gas/ethylene_CO.npy", np.hstack([x, 2.0 * x + 0.01 * _noise(8, 1)]))


def miniboone(folder: Path) -> dict[str, Any]:
    """Options of a small ``Miniboone`` task, whose file is written to ``folder``."""
    return _array(folder, "miniboone/data.npy", _noise(43))


def hepmass(folder: Path) -> dict[str, Any]:
    """Options of a small ``Hepmass`` task: 27 columns, of which six repeat their least value."""
    place = folder / "hepmass"
    place.mkdir()
    names = ["# label", *(f"f{at}" for at in range(27))]
    for part, more in (("train", []), ("test", ["mass"])):
        rng = np.random.default_rng(len(more))
        x = rng.standard_normal((_ROWS, 27 + len(more)))
        x[:, 5:27:4] = (x[:, 5:27:4] > 0).astype(np.float64)
        label = (np.arange(_ROWS) % 3 > 0).astype(np.float64)
        np.savetxt(
            place / f"1000_{part}.csv",
            np.column_stack([label, x]),
            fmt="%.18e",
            delimiter=",",
            header=",".join(names + more),
            comments="",
        )
    return {"root": str(folder), "verify": False}


def _noise(columns: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((_ROWS, columns))


def _array(folder: Path, name: str, x: NDArray[np.float64]) -> dict[str, Any]:
    path = folder / name
    path.parent.mkdir()
    np.save(path, x)
    return {"root": str(folder), "verify": False}
