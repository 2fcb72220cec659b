"""Finds the files of a data set on this machine, or, when told to, downloads them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from flowzoo_bench.cache import cache_folder
from flowzoo_bench.data.files import KNOWN, DataSet, File

DATA_VARIABLE = "FLOWZOO_DATA"
"""Names a folder that is looked into first: ``$FLOWZOO_DATA/mnist/...`` or the files themselves."""
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class DataNotFoundError(FileNotFoundError):
    """A data set is not on this machine; the message says where it could be put or got."""


def read(
    data: DataSet,
    name: str,
    *,
    root: str | Path | None = None,
    download: bool = False,
    verify: bool = True,
) -> bytes:
    """The uncompressed, verified bytes of one file of a data set.

    Looked for, in order: below ``root``, below the folder ``FLOWZOO_DATA`` names, in the cache of
    earlier downloads, in a package of the system. A file may be there compressed or not. One with
    other content than it should have is passed by, with a warning. Nothing is downloaded unless
    ``download`` says so; what is takes the place of a damaged file in the cache.

    Args:
        data: the data set.
        name: one of its files.
        root: a folder to look into first.
        download: fetch what is missing into the cache.
        verify: whether the content must be the data set's own. If not, ``root`` alone is looked
            into, for another set in files of the same names.

    Raises:
        DataNotFoundError: it is nowhere, and may not be or could not be downloaded.
        ValueError: what is found has other content than it should.
    """
    file = data.file(name)
    if not verify:
        return _unverified(data, file, root)
    damaged: list[str] = []
    for path in _places(data, file, root):
        try:
            return _verified(path, file)
        except _OtherSetError:
            continue
        except (OSError, ValueError) as error:
            damaged.append(str(error))
            _log.warning("passed by: %s", error)
    try:
        if download:
            return _download(data, file)
        raise DataNotFoundError(_how_to(data, file, root))
    except DataNotFoundError as error:
        if damaged:
            raise ValueError(f"{'; '.join(damaged)}; {error}") from error
        raise


def folders(name: str, root: str | Path | None) -> Iterator[Path]:
    """Where the files of a data set may lie, in the order they are looked for.

    Below ``root``, below the folder ``FLOWZOO_DATA`` names, in the cache; of the first two, in a
    folder of the set's name and in the folder itself.
    """
    for given in (root, os.environ.get(DATA_VARIABLE)):
        if given:
            place = Path(given).expanduser()
            yield from (place / name, place)
    yield cache_folder() / "data" / name


def _folders(data: DataSet, root: str | Path | None) -> Iterator[Path]:
    yield from folders(data.name, root)
    yield from map(Path, data.packaged)


def _places(data: DataSet, file: File, root: str | Path | None) -> Iterator[Path]:
    """Where there is a file of this name, as downloaded or uncompressed."""
    for folder in _folders(data, root):
        yield from _inside(folder, file)


def _inside(folder: Path, file: File) -> Iterator[Path]:
    for path in (folder / file.name, folder / file.name.removesuffix(".gz")):
        if path.is_file():
            yield path


def _unverified(data: DataSet, file: File, root: str | Path | None) -> bytes:
    """The uncompressed bytes of the file of this name below ``root``, whatever they are."""
    if not root:
        raise ValueError("root: expected a folder, for files that are not verified, got none")
    place = Path(root).expanduser()
    for path in (*_inside(place / data.name, file), *_inside(place, file)):
        return _content(path)
    raise DataNotFoundError(f"root: expected a folder with {file.name}, got {str(root)!r}")


def _content(path: Path) -> bytes:
    """The bytes of a file, uncompressed."""
    raw = path.read_bytes()
    try:
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole gzip file, got {error}") from error


class _OtherSetError(ValueError):
    """A file has the right name and belongs to another data set."""


def _verified(path: Path, file: File) -> bytes:
    """The uncompressed bytes of a file, which must hash to what is known of it.

    Raises:
        ValueError: they do not, or are not whole.
    """
    content = _content(path)
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        if any(found == other.sha256 for one in KNOWN for other in one.files):
            raise _OtherSetError(f"{path}: belongs to another data set")
        raise ValueError(
            f"{path}: expected content of sha256 {file.sha256}, got {found}: another file, or a "
            "damaged one"
        )
    return content


def _download(data: DataSet, file: File) -> bytes:
    return fetch(data.name, file.name, file.urls, lambda path: _verified(path, file))


def fetch(name: str, file: str, urls: Iterable[str], check: Callable[[Path], _T]) -> _T:
    """Fetch a file into the cache, from the first mirror that has the right bytes.

    It is streamed to disk. Nothing else stays in the cache.

    Args:
        name: of the data set.
        file: the file's name.
        urls: the mirrors.
        check: what ``fetch`` gives back of the file; raises ValueError where it is not right.

    Raises:
        DataNotFoundError: no mirror has it.
    """
    import pooch

    folder = cache_folder() / "data" / name
    failures = []
    for url in urls:
        arriving = f"{file}.{os.getpid()}.part"  # others may be fetching it as well
        try:
            with _quiet(pooch.get_logger()):  # it asks for a hash, which is kept elsewhere
                path = Path(pooch.retrieve(url, None, arriving, folder, progressbar=False))
            try:
                checked = check(path)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            failures.append(f"{url}: {error}")
            _log.warning("could not fetch %s", failures[-1])
            continue
        os.replace(path, folder / file)
        return checked
    tried = "; ".join(failures) or "no address is known"
    raise DataNotFoundError(f"{name}: {file} could not be downloaded: {tried}")


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Nothing below a warning from this logger."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _how_to(data: DataSet, file: File, root: str | Path | None) -> str:
    looked = ", ".join(str(folder) for folder in _folders(data, root))
    note = f"{data.note}, or " if data.note else ""
    return (
        f"{data.name}: {file.name} is not on this machine (looked in {looked}). Get it by {note}"
        f"download=True, from {' or '.join(file.urls) or 'nowhere'}, or put it into "
        f"{data.name}/ below the folder that {DATA_VARIABLE} names"
    )
