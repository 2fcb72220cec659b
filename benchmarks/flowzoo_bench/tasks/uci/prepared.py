"""Keeps preprocessed tables on disk, so that the work is done once."""

from __future__ import annotations

import io
import logging
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from flowzoo_bench.cache import cache_folder
from flowzoo_bench.data.digests import digest
from flowzoo_bench.data.files import MAF_TABLES

RECIPE = 2
"""To be raised when the preprocessing changes."""
_log = logging.getLogger(__name__)


class Parts(NamedTuple):
    """Training, validation and test rows, (N, D) each, in single precision as in the paper."""

    train: NDArray[np.float32]
    valid: NDArray[np.float32]
    test: NDArray[np.float32]

    @classmethod
    def of(cls, *parts: NDArray[np.float64]) -> Parts:
        """Round to single precision."""
        return cls(*(x.astype(np.float32) for x in parts))


def prepared(name: str, sources: Sequence[Path], make: Callable[[], Parts]) -> Parts:
    """What ``make`` makes of the files, made once and then read from the cache.

    An .npz file without compression: its checksums tell a damaged one, which is made anew, as is
    one that cannot be read. Its name has the content of the sources in it. It is written
    aside and renamed, so several processes may make it at a time.

    Args:
        name: of the table.
        sources: what it is made of.
        make: does the work.
    """
    folder = cache_folder() / "data" / MAF_TABLES.name / "prepared"
    path = folder / f"{name}-{RECIPE}-{digest(sources)[:16]}.npz"
    try:
        return _read(path)
    except FileNotFoundError:
        _log.info("preparing %s from %s", name, ", ".join(map(str, sources)))
    except OSError as error:
        _log.warning("%s: cannot be read, is made anew: %s", path, error)
    except Exception as error:  # numpy, zipfile and tokenize each have their own for damage
        _log.warning("%s: damaged, is made anew: %s", path, error)
    parts = make()
    try:
        _write(path, parts)
    except OSError as error:
        _log.warning("%s: cannot be kept: %s", path, error)
    return parts


def _read(path: Path) -> Parts:
    with zipfile.ZipFile(path) as file:
        # whole members: the checksum is looked at only where a member ends
        contents = [io.BytesIO(file.read(f"{name}.npy")) for name in Parts._fields]
    return Parts(*(np.load(content, allow_pickle=False) for content in contents))


def _write(path: Path, parts: Parts) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        with aside.open("xb") as out:
            np.savez(out, **parts._asdict())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
