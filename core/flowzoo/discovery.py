"""Which entry points are installed; one malformed distribution never hides the others."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flowzoo.plugin import GROUPS, Kind

_KINDS: dict[str, Kind] = {group: kind for kind, group in GROUPS.items()}


@dataclass(frozen=True)
class Found:
    """One entry point as written; nothing of it has been imported.

    Attributes:
        kind: the kind its group stands for.
        name: the entry point's name.
        value: ``module:attribute``, perhaps followed by ``[extras]``.
        distribution: normalised name of the distribution that declares it.
        version: the distribution's version; empty when unknown.
    """

    kind: Kind
    name: str
    value: str
    distribution: str
    version: str


@dataclass(frozen=True)
class Problem:
    """Something on ``sys.path`` that could not be read: where, and the first line of the error."""

    where: str
    error: str


def normalise(distribution: str) -> str:
    """A distribution's name as PEP 503 compares it: ``Flow_Zoo`` is ``flow-zoo``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def first_line(error: BaseException) -> str:
    """``Type: message`` of an error, on one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def discover(path: Sequence[object]) -> tuple[list[Found], list[Problem]]:
    """Read the flowzoo entry points under every entry of ``path`` (usually ``sys.path``).

    Each entry is read with the ``entrypoints`` package; when that raises, the problem is recorded
    and the entry is read again with ``importlib.metadata``. A distribution found again later on the
    path is dropped, as the import system would.
    """
    found: list[Found] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for raw in path:
        try:
            entry = os.fsdecode(raw)  # type: ignore[arg-type]  # Path objects and bytes occur
        except TypeError as error:
            problems.append(Problem(repr(raw), first_line(error)))
            continue
        try:
            here = list(_by_entrypoints(entry))
        except Exception as error:
            problems.append(Problem(entry, first_line(error)))
            here = list(_by_metadata(entry, problems))
        here.sort(key=lambda item: item[0])  # stable, so file order of the entry points remains
        names = dict.fromkeys(distribution for distribution, _ in here)
        for distribution in names:
            if distribution in seen:
                continue
            seen.add(distribution)
            groups = [points for name, points in here if name == distribution]
            found += _unique(groups[0], problems)
    return found, problems


def _unique(points: list[Found], problems: list[Problem]) -> list[Found]:
    """The points of one distribution without repeated names, of which the first stays."""
    kept: dict[tuple[Kind, str], Found] = {}
    for point in points:
        first = kept.setdefault((point.kind, point.name), point)
        if first is not point:
            text = f"{point.kind} {point.name!r} is listed twice; {first.value!r} is used"
            problems.append(Problem(point.distribution, text))
    return list(kept.values())


def _by_entrypoints(entry: str) -> Iterator[tuple[str, list[Found]]]:
    """(distribution, its points) under one path entry, by the ``entrypoints`` package."""
    import entrypoints

    for config, distribution in entrypoints.iter_files_distros([entry], repeated_distro="all"):
        name, version = normalise(distribution.name), distribution.version or ""
        yield (
            name,
            [
                Found(kind, key, value, name, version)
                for group, kind in _KINDS.items()
                if group in config
                for key, value in config[group].items()
            ],
        )


def _by_metadata(entry: str, problems: list[Problem]) -> Iterator[tuple[str, list[Found]]]:
    """(distribution, its points) under one path entry, by ``importlib.metadata``."""
    for distribution in importlib.metadata.distributions(path=[entry]):
        where = entry
        try:
            metadata = distribution.metadata
            name, version = normalise(metadata["Name"] or "unknown"), metadata["Version"] or ""
            where = f"{entry} ({name})"
            points = [
                Found(_KINDS[point.group], point.name, point.value, name, version)
                for point in distribution.entry_points
                if point.group in _KINDS
            ]
        except Exception as error:
            problems.append(Problem(where, first_line(error)))
        else:
            yield name, points
