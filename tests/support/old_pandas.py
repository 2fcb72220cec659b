"""Bytes of a DataFrame as Python 2 and a pandas of 2017 pickled it, opcode by opcode.

Neither runs any more, so the pickles are put together here. pandas 1.5.3, the last that reads such
files, reads what ``frame`` makes (tried with ``pandas.read_pickle`` for each ``core`` below), as it
does the files of these versions in its own tests.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

CORES = ("pandas.core", "pandas")
"""Where the indexes lived: since 0.20, and in 0.18.1 to 0.19."""


def text(value: str | bytes) -> bytes:
    """A ``str`` of Python 2."""
    raw = value if isinstance(value, bytes) else value.encode()
    return (
        b"U" + struct.pack("<B", len(raw)) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))
    ) + raw


def integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def list_of(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def dict_of(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def name(module: str, what: str) -> bytes:
    return f"c{module}\n{what}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def new(kind: bytes, state: bytes) -> bytes:
    return kind + b")\x81" + state + b"b"


def dtype(code: str, order: str = "<") -> bytes:
    flags = 63 if code == "O8" else 0
    state = tuple_of(
        integer(3), text(order), b"N", b"N", b"N", integer(-1), integer(-1), integer(flags)
    )
    return call(name("numpy", "dtype"), text(code), integer(0), integer(1)) + state + b"b"


def array(values: np.ndarray | Sequence[str], fortran: bool = False) -> bytes:
    """An array of float64 or int64, or of texts."""
    if isinstance(values, np.ndarray):
        shape = values.shape
        kind = dtype(values.dtype.str[1:])
        raw = text(values.tobytes("F" if fortran else "C"))
    else:
        shape, kind = (len(values),), dtype("O8", "|")
        raw = list_of(*map(text, values))
    made = call(
        name("numpy.core.multiarray", "_reconstruct"),
        name("numpy", "ndarray"),
        tuple_of(integer(0)),
        text("b"),
    )
    sizes = tuple_of(*map(integer, shape))
    return made + tuple_of(integer(1), sizes, kind, b"\x88" if fortran else b"\x89", raw) + b"b"


def index(core: str, kind: str, values: np.ndarray | Sequence[str]) -> bytes:
    module = {"Index": "base", "Int64Index": "numeric"}[kind]
    return call(
        name(f"{core}.indexes.base", "_new_Index"),
        name(f"{core}.indexes.{module}", kind),
        dict_of(data=array(values), name=b"N"),
    )


def frame(columns: Sequence[str], values: np.ndarray, core: str = CORES[0]) -> bytes:
    """A pickled frame of float64 columns; the last but one is kept in a block of its own."""
    last = len(columns) - 1
    first = [place for place in range(last + 1) if place != last - 1]
    blocks = [(first, array(np.array(first))), ([last - 1], _slice(last - 1, last))]
    axes = list_of(
        index(core, "Index", columns), index(core, "Int64Index", np.arange(len(values)) * 3)
    )
    parts = [np.ascontiguousarray(values[:, places].T) for places, _ in blocks]
    fortran = [False, True]
    arrays = [array(part, order) for part, order in zip(parts, fortran, strict=True)]
    items = [index(core, "Index", [columns[place] for place in places]) for places, _ in blocks]
    newer = dict_of(
        axes=axes,
        blocks=list_of(
            *(
                dict_of(values=values, mgr_locs=where)
                for values, (_, where) in zip(arrays, blocks, strict=True)
            )
        ),
    )
    extra = b"}(" + text("0.14.1") + newer + b"u"
    manager = new(
        name("pandas.core.internals", "BlockManager"),
        tuple_of(axes, list_of(*arrays), list_of(*items), extra),
    )
    state = dict_of(_metadata=list_of(), _typ=text("dataframe"), _data=manager)
    return b"\x80\x02" + new(name("pandas.core.frame", "DataFrame"), state) + b"."


def _slice(start: int, stop: int) -> bytes:
    return call(name("__builtin__", "slice"), integer(start), integer(stop), integer(1))
