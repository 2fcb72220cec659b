"""Reads a table of numbers from a pickled pandas DataFrame, without pandas and without trust."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_frame(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    """Column names and values (N, D) of a pickled DataFrame of numbers.

    A pickle is a program. This one is run with a vocabulary of a dozen names, each of which makes
    a passive record of what it is called with: nothing of pandas or numpy, or any other code that
    the file names, is imported or called. The records are then read as data. Files of pandas 0.15
    to 2 and of Python 2 and 3 have such a form; what is in them besides plain columns of numbers is
    refused.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.
        ValueError: anything else than a pickled table of numbers.
    """
    with path.open("rb") as stream:
        try:
            # latin1 keeps the bytes of what Python 2 called str, arrays' among them
            frame = _Passive(stream, encoding="latin1").load()
            return _table(frame)
        except Exception as error:  # damaged or hostile bytes raise nearly anything
            raise ValueError(
                f"{path}: expected a pickled pandas table of numbers, got {error}"
            ) from error


class _Record:
    """What was called with which arguments, and the state it was given.

    Each subclass stands for some names. None does anything, and ``__setstate__`` keeps the
    unpickler from setting attributes, of the classes too.
    """

    __slots__ = ("args", "state")
    args: Any
    state: Any

    def __new__(cls, *args: Any) -> _Record:
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Frame(_Record):
    __slots__ = ()


class _Manager(_Record):
    __slots__ = ()


class _Block(_Record):
    __slots__ = ()


class _Index(_Record):
    __slots__ = ()


class _Array(_Record):
    __slots__ = ()


class _Buffer(_Record):
    __slots__ = ()


class _Dtype(_Record):
    __slots__ = ()


class _Slice(_Record):
    __slots__ = ()


class _Encoded(_Record):
    __slots__ = ()


class _Name(_Record):
    __slots__ = ()


_VOCABULARY: Mapping[tuple[str, str], type[_Record]] = {
    ("pandas.core.frame", "DataFrame"): _Frame,
    ("pandas.core.internals", "BlockManager"): _Manager,
    ("pandas.core.internals.managers", "BlockManager"): _Manager,
    ("pandas._libs.internals", "_unpickle_block"): _Block,
    **{
        (f"{core}.{name}", "_new_Index"): _Index
        for core in ("pandas", "pandas.core")
        for name in ("index", "indexes.base")
    },
    **{
        (f"{core}.{module}", name): _Name
        for core in ("pandas", "pandas.core")
        for module, names in {
            "index": ("Index", "Int64Index"),
            "indexes.base": ("Index",),
            "indexes.numeric": ("Int64Index",),
            "indexes.range": ("RangeIndex",),
        }.items()
        for name in names
    },
    **{
        (f"numpy.{core}.{module}", name): kind
        for core in ("core", "_core")
        for module, name, kind in (
            ("multiarray", "_reconstruct", _Array),
            ("numeric", "_frombuffer", _Buffer),
        )
    },
    ("numpy", "ndarray"): _Name,
    ("numpy", "dtype"): _Dtype,
    ("__builtin__", "slice"): _Slice,
    ("builtins", "slice"): _Slice,
    ("_codecs", "encode"): _Encoded,
}


class _Passive(pickle.Unpickler):
    """Knows the names of the vocabulary and no other."""

    def find_class(self, module: str, name: str) -> type[_Record]:
        """The record that stands for a name.

        Raises:
            UnpicklingError: a name beyond the vocabulary.
        """
        found = _VOCABULARY.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"the name {module}.{name}, which no plain table has")
        return found


def _table(frame: Any) -> tuple[list[str], NDArray[np.float64]]:
    state = _of(frame, _Frame).state
    manager = _of(state["_mgr"] if "_mgr" in state else state["_data"], _Manager)
    if manager.state is None:  # since pandas 1.3
        blocks, axes = manager.args
        parts = [_of(block, _Block).args[:2] for block in blocks]
    else:
        inner = manager.state[3]["0.14.1"]
        axes = inner["axes"]
        parts = [(block["values"], block["mgr_locs"]) for block in inner["blocks"]]
    names = _names(axes[0])
    arrays = [(_numbers(values), _places(places, len(names))) for values, places in parts]
    filled = sorted(place for _, places in arrays for place in places)
    if filled != list(range(len(names))):
        raise ValueError(f"columns {filled} of {len(names)}")
    rows = {values.shape[1:] for values, _ in arrays}
    if len(rows) != 1 or len(next(iter(rows))) != 1:
        raise ValueError(f"columns of shapes {rows}")
    table = np.empty((*next(iter(rows)), len(names)))
    for values, places in arrays:
        table[:, places] = values.T
    return names, table


def _of(value: Any, kind: type[_Record]) -> _Record:
    if type(value) is not kind:
        raise ValueError(f"{type(value).__name__} where a {kind.__name__[1:]} should be")
    return value


def _names(index: Any) -> list[str]:
    """The texts of an index."""
    names = _array(_of(index, _Index).args[1]["data"])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("columns whose names are no texts")
    if len(set(names)) != len(names):
        raise ValueError(f"columns of equal names, {names}")
    return names


def _places(places: Any, total: int) -> list[int]:
    """Which columns a block holds."""
    if type(places) is _Slice:
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
    if type(record) is _Buffer:  # pickle protocol 5
        raw, dtype, shape, memory = record.args
        fortran = memory == "F"
    else:
        _, shape, dtype, fortran, raw = _of(record, _Array).state
    name = _of(dtype, _Dtype).args[0]
    if name == "O8" and isinstance(raw, list) and tuple(shape) == (len(raw),):
        return raw
    if not re.fullmatch("[fiu][1248]", name) or name == "f1":
        raise ValueError(f"values of type {name}")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"an array of shape {shape}")
    order = ">" if dtype.state is not None and dtype.state[1] == ">" else "<"
    content = _bytes(raw)
    kind = np.dtype(order + name)
    if len(content) != prod(shape) * kind.itemsize:
        raise ValueError(f"{len(content)} bytes for an array of shape {shape}")
    return np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C")


def _bytes(raw: Any) -> bytes | bytearray:
    if type(raw) is _Encoded:  # bytes, as Python 3 writes them in protocol 2
        raw, encoding = raw.args
        if encoding != "latin1":
            raise ValueError(f"bytes encoded in {encoding}")
    if isinstance(raw, str):
        return raw.encode("latin1")
    if not isinstance(raw, bytes | bytearray):
        raise ValueError(f"{type(raw).__name__} where bytes should be")
    return raw
