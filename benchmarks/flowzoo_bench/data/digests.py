"""Hashes of files, read once while they stay as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Hash of a file's content, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    about = path.stat()
    return _hashed(str(path.absolute()), about.st_size, about.st_mtime_ns)


def digest(paths: Sequence[Path]) -> str:
    """Hash of the content of files, in their order."""
    return hashlib.sha256("".join(map(sha256_of, paths)).encode()).hexdigest()


@lru_cache(maxsize=32)
def _hashed(path: str, size: int, modified: int) -> str:
    """A file's hash; read again only when it is of other size or time."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
