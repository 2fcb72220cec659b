"""Finds single files of a large tar archive, and unpacks no more than these."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO
from uuid import uuid4

from flowzoo_bench.cache import cache_folder
from flowzoo_bench.data.digests import sha256_of
from flowzoo_bench.data.fetch import DATA_VARIABLE, DataNotFoundError, fetch, folders
from flowzoo_bench.data.files import Archive

_CHUNK = 2**20
_log = logging.getLogger(__name__)
Paths = tuple[Path, ...]


def members(
    archive: Archive,
    names: Sequence[str],
    *,
    root: str | Path | None = None,
    download: bool = False,
) -> Paths:
    """Paths of files of an archive, unpacked.

    Looked for, in order: below ``root``, below the folder ``FLOWZOO_DATA`` names, in the cache. In
    each place the unpacked files count first, then the archive itself. Nothing is downloaded
    unless ``download`` says so; the archive then stays in the cache for its other files.

    What is verified: an archive must have its md5 before anything is taken out of it, and only
    the named files are, into the cache, with their hashes beside them; one that has changed since
    is taken out anew. Of files that somebody else unpacked nothing is known but the archive's
    hash, so *they are not verified here*: whoever reads them must check what they hold. Archives
    are read as a stream, never whole. Folders that may not be searched are passed by.

    Args:
        archive: the archive.
        names: files in it, without its top folder, e.g. ``power/data.npy``.
        root: a folder to look into first.
        download: fetch the archive into the cache if nothing is found.

    Raises:
        DataNotFoundError: they are nowhere, and may not be or could not be downloaded.
        ValueError: an archive that is found has another hash than it should, lacks a file, or has
            one whose name leaves its folder.
        OSError: the cache cannot be written to.
    """
    kept = cache_folder() / "data" / archive.name / archive.md5
    damaged: list[str] = []
    for folder in folders(archive.name, root):
        found = _inside(folder, archive, names)
        if found:
            return found
        packed = folder / archive.file
        if _is_file(packed):
            whole = _sealed(kept, names)
            if whole:
                return whole
            try:
                _verify(packed, archive)
            except (OSError, ValueError) as error:
                damaged.append(str(error))
                _log.warning("passed by: %s", error)
            else:
                return _unpacked(packed, archive, names, kept)
    found = _sealed(kept, names)  # the archive they came from may be gone
    if found:
        return found
    try:
        if not download:
            raise DataNotFoundError(_how_to(archive, names, root))
        fetch(archive.name, archive.file, archive.urls, lambda path: _verify(path, archive))
    except DataNotFoundError as error:
        if damaged:
            raise ValueError(f"{'; '.join(damaged)}; {error}") from error
        raise
    return _unpacked(kept.parent / archive.file, archive, names, kept)


def unpacked(archive: Archive, names: Sequence[str], root: str | Path | None) -> Paths:
    """Files that lie unpacked where ``members`` looks for them; empty if they do not.

    They may be such as the archive does not have, made of those that it has.
    """
    for folder in folders(archive.name, root):
        found = _inside(folder, archive, names)
        if found:
            return found
    return ()


def below(archive: Archive, names: Sequence[str], root: str | Path) -> Paths:
    """Files below ``root`` and nowhere else, whatever they hold; empty if they are not there."""
    place = Path(root).expanduser()
    return _inside(place / archive.name, archive, names) or _inside(place, archive, names)


def _inside(folder: Path, archive: Archive, names: Sequence[str]) -> Paths:
    """All the files, with or without the archive's top folder; else none."""
    return _all(folder, names) or _all(folder / archive.top, names)


def _all(folder: Path, names: Sequence[str]) -> Paths:
    paths = tuple(folder / name for name in names)
    return paths if all(_is_file(path) for path in paths) else ()


def _is_file(path: Path) -> bool:
    """Whether there is such a file; where one may not look, none."""
    try:
        return path.is_file()
    except OSError as error:
        _log.warning("%s: passed by: %s", path, error)
        return False


def _sealed(folder: Path, names: Sequence[str]) -> Paths:
    """All the files if they are as they were when they were unpacked here; else none."""
    paths = _all(folder, names)
    for path in paths:
        try:
            whole = _seal(path).read_text("ascii") == sha256_of(path)
        except (OSError, ValueError) as error:
            _log.warning("%s: passed by, its hash cannot be read: %s", path, error)
            return ()
        if not whole:
            _log.warning("%s: changed since it was unpacked, passed by", path)
            return ()
    return paths


def _seal(path: Path) -> Path:
    """Where the hash of an unpacked file is kept."""
    return path.with_name(f"{path.name}.sha256")


def _verify(packed: Path, archive: Archive) -> None:
    """
    Raises:
        OSError: it cannot be read.
        ValueError: another hash than it should have.
    """
    with packed.open("rb") as stream:
        found = hashlib.file_digest(stream, _md5).hexdigest()
    if found != archive.md5:
        raise ValueError(
            f"{packed}: expected md5 {archive.md5}, got {found}: another file, or a damaged one"
        )


def _unpacked(packed: Path, archive: Archive, names: Sequence[str], folder: Path) -> Paths:
    """Take the named files out of a verified archive, into ``folder``.

    Raises:
        OSError: they cannot be written.
        ValueError: a file that is not there or is none, or a name that leaves the archive's folder.
    """
    wanted = {f"{archive.top}/{name}": name for name in names}
    try:
        with tarfile.open(packed, "r|gz") as tar:  # one pass, members in their order
            for entry in tar:
                place = PurePosixPath(entry.name)
                if place.is_absolute() or ".." in place.parts:
                    raise ValueError(f"{packed}: expected names below a folder, got {entry.name!r}")
                name = wanted.pop(str(place), None)
                if name is None:
                    continue
                content = tar.extractfile(entry) if entry.isreg() else None
                if content is None:
                    raise ValueError(f"{packed}: expected a file {entry.name!r}, got a link or so")
                _write(content, folder / name)  # where we say, not where the archive does
                if not wanted:
                    break
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{packed}: expected a whole .tar.gz archive, got {error}") from error
    if wanted:
        raise ValueError(f"{packed}: expected {sorted(wanted)} in it, got no such files")
    return _all(folder, names)


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def _write(content: IO[bytes], path: Path) -> None:
    """Write aside and rename: other processes see a whole file or none. Its hash lies beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{uuid4().hex}.part")
    seal = _seal(aside)
    try:
        with aside.open("xb") as out:
            shutil.copyfileobj(content, out, _CHUNK)
        seal.write_text(sha256_of(aside), "ascii")
        os.replace(aside, path)
        os.replace(seal, _seal(path))
    except BaseException:
        aside.unlink(missing_ok=True)
        seal.unlink(missing_ok=True)
        raise


def _how_to(archive: Archive, names: Sequence[str], root: str | Path | None) -> str:
    looked = ", ".join(str(folder) for folder in folders(archive.name, root))
    files = " and ".join(names)
    return (
        f"{archive.name}: {files} is not on this machine, and neither is {archive.file}, which "
        f"holds it (looked in {looked}). Get it by download=True ({archive.size}), from "
        f"{' or '.join(archive.urls)}, or put it, unpacked or not, into {archive.name}/ below the "
        f"folder that {DATA_VARIABLE} names"
    )
