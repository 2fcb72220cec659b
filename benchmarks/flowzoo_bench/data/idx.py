"""The IDX format of MNIST: a header of sizes, then unsigned bytes."""

from __future__ import annotations

import struct
from math import prod

import numpy as np
from numpy.typing import NDArray

_UNSIGNED_BYTES = 0x08


def parse_idx(content: bytes, name: str = "idx") -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes.

    Two zero bytes, the type (8), the number of dimensions, each size as a big-endian 32-bit number,
    then the values, the last dimension fastest.

    Args:
        content: the uncompressed bytes.
        name: of the file, for messages.

    Raises:
        ValueError: no such file, or one with more or fewer values than its header says.

    Example:
        >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
        array([7, 9], dtype=uint8)
    """
    if len(content) < 4 or content[:2] != b"\x00\x00" or content[2] != _UNSIGNED_BYTES:
        raise ValueError(f"{name}: expected a header of unsigned bytes, got {content[:4]!r}")
    dims = content[3]
    start = 4 + 4 * dims
    if len(content) < start:
        raise ValueError(f"{name}: expected {dims} sizes in the header, got {len(content)} bytes")
    shape = struct.unpack(f">{dims}I", content[4:start])
    values = np.frombuffer(content, dtype=np.uint8, offset=start)
    if values.size != prod(shape):  # of Python's integers, which do not wrap around
        raise ValueError(f"{name}: expected {shape} values, as its header says, got {values.size}")
    try:
        return values.reshape(shape).copy()
    except ValueError as error:  # no values, of sizes that no array has
        raise ValueError(f"{name}: expected sizes of an array, got {shape}: {error}") from error


def format_idx(array: NDArray[np.uint8]) -> bytes:
    """An IDX file of an array of unsigned bytes: the inverse of ``parse_idx``.

    Example:
        >>> format_idx(np.array([7, 9], dtype=np.uint8))
        b'\\x00\\x00\\x08\\x01\\x00\\x00\\x00\\x02\\x07\\t'
    """
    header = struct.pack(f">4B{array.ndim}I", 0, 0, _UNSIGNED_BYTES, array.ndim, *array.shape)
    return header + array.tobytes()
