"""Reads a table of numbers from a pickled pandas DataFrame, without pandas and without trust."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowzoo_bench.data.pickle_records import Record, read_records


def read_frame(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    """Column names and values (N, D) of a pickled DataFrame of numbers.

    A pickle is a program. This one is not run: its calls are written down and the notes read as
    data, see ``read_records``. Files of pandas 0.15 to 2 and of Python 2 and 3 have a form that is
    known here. What is in them besides plain columns of numbers is refused.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.
        ValueError: anything else than a pickled table of numbers.
    """
    with path.open("rb") as stream:
        try:
            return _table(read_records(stream, _VOCABULARY))
        except Exception as error:  # damaged or hostile bytes raise nearly anything
            raise ValueError(
                f"{path}: expected a pickled pandas table of numbers, "
                f"got {error or type(error).__name__}"
            ) from error


_MOST = 2**40  # numbers along one side of an array
_VOCABULARY: Mapping[tuple[str, str], str] = {
    ("pandas.core.frame", "DataFrame"): "frame",
    ("pandas.core.internals", "BlockManager"): "manager",
    ("pandas.core.internals.managers", "BlockManager"): "manager",
    ("pandas._libs.internals", "_unpickle_block"): "block",
    **{
        (f"{core}.{module}", name): "index" if name == "_new_Index" else "name"
        for core in ("pandas", "pandas.core")
        for module, names in {
            "index": ("_new_Index", "Index", "Int64Index"),
            "indexes.base": ("_new_Index", "Index"),
            "indexes.numeric": ("Int64Index",),
            "indexes.range": ("RangeIndex",),
        }.items()
        for name in names
    },
    **{
        (f"numpy.{core}.{module}", name): kind
        for core in ("core", "_core")
        for module, name, kind in (
            ("multiarray", "_reconstruct", "array"),
            ("numeric", "_frombuffer", "buffer"),
        )
    },
    ("numpy", "ndarray"): "name",
    ("numpy", "dtype"): "dtype",
    ("__builtin__", "slice"): "slice",
    ("builtins", "slice"): "slice",
    ("_codecs", "encode"): "encoded",
}
"""What the names that occur in a table stand for here."""


def _table(frame: Any) -> tuple[list[str], NDArray[np.float64]]:
    state = _of(frame, "frame").state
    manager = _of(state["_mgr"] if "_mgr" in state else state["_data"], "manager")
    if manager.state is None:  # since pandas 1.3
        blocks, axes = manager.args
        parts = [_of(block, "block").args[:2] for block in blocks]
    else:
        inner = manager.state[3]["0.14.1"]
        axes = inner["axes"]
        parts = [(block["values"], block["mgr_locs"]) for block in inner["blocks"]]
    names = _names(axes[0])
    arrays = [(_numbers(values), _places(places, len(names))) for values, places in parts]
    filled = sorted(place for _, places in arrays for place in places)
    if filled != list(range(len(names))):
        raise ValueError(f"columns {filled} of {len(names)}")
    shapes = [values.shape for values, _ in arrays]
    rows = {shape[1:] for shape in shapes}
    fits = [shape[:1] == (len(places),) for shape, (_, places) in zip(shapes, arrays, strict=True)]
    if len(rows) != 1 or len(next(iter(rows))) != 1 or not all(fits):
        raise ValueError(f"{len(names)} columns in arrays of shapes {shapes}")
    table = np.empty((*next(iter(rows)), len(names)))
    for values, places in arrays:
        table[:, places] = values.T
    return names, table


def _of(value: Any, kind: str) -> Record:
    if not _is(value, kind):
        raise ValueError(f"{type(value).__name__} where a call of {kind} should be")
    found: Record = value
    return found


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, Record) and value.kind == kind


def _names(index: Any) -> list[str]:
    """The texts of an index."""
    names = _array(_of(index, "index").args[1]["data"])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("columns whose names are no texts")
    if len(set(names)) != len(names):
        raise ValueError(f"columns of equal names, {names}")
    return names


def _places(places: Any, total: int) -> list[int]:
    """Which columns a block holds."""
    if _is(places, "slice"):
        return list(range(total))[slice(*places.args)]
    found = _numbers(places)
    if found.ndim != 1 or not np.array_equal(found, found.round()):
        raise ValueError("columns at no whole places")
    return [int(place) for place in found]


def _numbers(record: Any) -> NDArray[Any]:
    found = _array(record)
    if isinstance(found, list):
        raise ValueError("columns of objects")
    return found


def _array(record: Any) -> NDArray[Any] | list[Any]:
    """An array of numbers; or the items of a one-dimensional one of objects."""
    if _is(record, "buffer"):  # pickle protocol 5
        raw, dtype, shape, memory = record.args
        fortran = memory == "F"
    else:
        _, shape, dtype, fortran, raw = _of(record, "array").state
    name = _of(dtype, "dtype").args[0]
    if name == "O8" and isinstance(raw, list) and tuple(shape) == (len(raw),):
        return raw
    if not re.fullmatch("[fiu][1248]", name) or name == "f1":
        raise ValueError(f"values of type {name}")
    sized = isinstance(shape, tuple) and len(shape) <= 2  # print it only if it is short
    if not sized or not all(type(size) is int and 0 <= size < _MOST for size in shape):
        raise ValueError("an array whose shape is not of one or two sizes")
    order = ">" if dtype.state is not None and dtype.state[1] == ">" else "<"
    content = _bytes(raw)
    kind = np.dtype(order + name)
    if len(content) != prod(shape) * kind.itemsize:
        raise ValueError(f"{len(content)} bytes for an array of shape {shape}")
    return np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C")


def _bytes(raw: Any) -> bytes | bytearray:
    if _is(raw, "encoded"):  # bytes, as Python 3 writes them in protocol 2
        raw, encoding = raw.args
        if encoding != "latin1":
            raise ValueError("bytes in another encoding than latin1")
    if isinstance(raw, str):
        return raw.encode("latin1")
    if not isinstance(raw, bytes | bytearray):
        raise ValueError(f"{type(raw).__name__} where bytes should be")
    return raw
