"""Which plugins are found, by whom, and what is wrong with them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flowzoo.catalogue import BUILT_IN, Entry, entries, problems
from flowzoo.diagnosis.finding import Finding, note, ok, problem
from flowzoo.discovery import discover, first_line, normalise
from flowzoo.plugin import GROUPS

_Points = frozenset[tuple[str, str, str]]  # (group, name, value)


def readers_agree() -> Iterator[Finding]:
    """The entry points as flowzoo reads them, against ``importlib.metadata``."""
    ours = {(GROUPS[p.kind], p.name, p.value) for p in discover(sys.path)[0]}
    try:
        theirs = {
            (group, point.name, point.value)
            for group in GROUPS.values()
            for point in importlib.metadata.entry_points(group=group)
        }
    except Exception as error:
        yield problem("readers", f"importlib.metadata cannot read the path: {first_line(error)}")
        return
    for group, name, value in sorted(ours - theirs):
        yield problem("readers", f"only flowzoo finds {name} = {value} in {group}")
    for group, name, value in sorted(theirs - ours):
        yield problem("readers", f"only importlib.metadata finds {name} = {value} in {group}")
    if ours == theirs:
        yield ok("readers", f"entrypoints and importlib.metadata find the same {len(ours)} plugins")


def unreadable_metadata() -> Iterator[Finding]:
    """What on ``sys.path`` could not be read."""
    for found in problems():
        yield problem("metadata", f"{found.where}: {found.error}")


def repeated_distributions() -> Iterator[Finding]:
    """Distributions with plugins that lie on ``sys.path`` more than once, say an old egg-info."""
    seen: dict[str, tuple[str, str, _Points]] = {}
    places: set[str] = set()
    for raw in sys.path:
        try:
            place = os.path.realpath(os.fsdecode(raw) or ".")
        except TypeError:
            continue  # listed among what cannot be read
        if place in places:
            continue
        places.add(place)
        for distribution in importlib.metadata.distributions(path=[place]):
            try:
                name = normalise(distribution.metadata["Name"] or "")
                version, points = distribution.version, _points(distribution)
            except Exception:
                continue  # listed among what cannot be read
            if not name or (not points and name != BUILT_IN):
                continue
            where = str(getattr(distribution, "_path", place))
            if name not in seen:
                seen[name] = (where, version, points)
                continue
            used, first_version, first_points = seen[name]
            text = f"{used} ({first_version}) is used, {where} ({version}) is not"
            if (first_version, first_points) == (version, points):
                yield note(name, f"found twice, alike: {text}")
            else:
                yield problem(name, f"found twice: {text}; remove the one that is old")


def stale_installs() -> Iterator[Finding]:
    """Editable installs whose pyproject.toml names other plugins than when they were installed."""
    for distribution in importlib.metadata.distributions():
        points = _safe_points(distribution)
        folder = _editable_folder(distribution)
        if folder is None or not points:
            continue
        try:
            written = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
            tables = written.get("project", {}).get("entry-points", {})
        except (OSError, ValueError, AttributeError) as error:
            yield problem(distribution.name, f"{folder}: {first_line(error)}")
            continue
        now = {
            (group, name, value)
            for group in GROUPS.values()
            for name, value in tables.get(group, {}).items()
        }
        if tables and now != points:
            names = sorted({name for _, name, _ in now ^ points})
            yield problem(
                distribution.name,
                f"{', '.join(names)}: pyproject.toml has changed since it was installed; "
                f"pip install --no-deps -e {folder}",
            )


def _points(distribution: importlib.metadata.Distribution) -> _Points:
    """The flowzoo entry points of one distribution."""
    return frozenset(
        (point.group, point.name, point.value)
        for point in distribution.entry_points
        if point.group in GROUPS.values()
    )


def _safe_points(distribution: importlib.metadata.Distribution) -> _Points:
    try:
        return _points(distribution)
    except Exception:  # listed among what cannot be read
        return frozenset()


def _editable_folder(distribution: importlib.metadata.Distribution) -> Path | None:
    """Where the source of an editable install is (PEP 610)."""
    try:
        facts = json.loads(distribution.read_text("direct_url.json") or "{}")
        if not facts.get("dir_info", {}).get("editable"):
            return None
        return Path(unquote(urlsplit(facts["url"]).path))
    except (ValueError, KeyError, AttributeError):
        return None


def states() -> Iterator[Finding]:
    """Plugins that are not ready, and ready ones whose code is not where they say."""
    ready = 0
    for entry in entries():
        about = f"{entry.kind} {entry.name}"
        if entry.state == "ready":
            missing = _missing_target(entry)
            if missing:
                yield problem(about, missing)
            else:
                ready += 1
        elif entry.state == "disabled":
            yield note(about, f"disabled: {entry.error}")
        elif entry.state == "missing-deps" and entry.distribution == BUILT_IN:
            yield note(about, f"an optional library is missing: {entry.error}")
        else:
            owner = entry.distribution or "this process"
            yield problem(about, f"of {owner} is {entry.state}: {entry.error}")
    yield ok("plugins", f"{ready} are ready")


def _missing_target(entry: Entry) -> str:
    """One line when the module an entry points at cannot be found; its code is not run."""
    if entry.spec is None or not entry.distribution:
        return ""
    module = entry.spec.target.partition(":")[0]
    try:
        found = importlib.util.find_spec(module) is not None
    except Exception as error:  # a package above it fails to import
        return f"of {entry.distribution}: {module} cannot be found: {first_line(error)}"
    return "" if found else f"of {entry.distribution}: there is no module {module}"
