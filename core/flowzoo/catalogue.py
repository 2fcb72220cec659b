"""The plugins that are installed or registered, and the state each is in."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, cast

from flowzoo.discovery import Found, Problem, discover, first_line, normalise
from flowzoo.options import nearest
from flowzoo.plugin import API, GROUPS, KINDS, Kind, PluginSpec

State = Literal["ready", "missing-deps", "incompatible-api", "broken", "conflict", "disabled"]

_DISABLED = "named in FLOWZOO_DISABLE"

BUILT_IN = "flowzoo"
"""The distribution whose names no other can take over."""


class PluginError(ValueError):
    """A plugin is unknown, cannot be loaded, or is not what it says it is."""


class UnknownPluginError(PluginError):
    """No plugin, or no kind, has the name."""

    exit_code = 2  # of the command: bad usage


@dataclass(frozen=True)
class Entry:
    """One plugin, as ``flowzoo list`` shows it.

    Attributes:
        kind: which contract it fulfils.
        name: its name.
        state: ``ready``, or why it is not.
        distribution: normalised name of the distribution that brings it; empty for one registered
            in this process.
        version: the distribution's version (the method's own version is ``spec.version``).
        spec: what it says about itself; None when that cannot be read.
        error: one line that says why it is not ready and, where there is one, the way out.
        value: the entry point's ``module:attribute``.
    """

    kind: Kind
    name: str
    state: State
    distribution: str
    version: str
    spec: PluginSpec | None = None
    error: str = ""
    value: str = ""

    @property
    def summary(self) -> str:
        """The spec's line; empty when there is no spec."""
        return self.spec.summary if self.spec else ""


# --- what there is -----------------------------------------------------------------------------


def entries(kind: str | None = None) -> list[Entry]:
    """Every plugin in every state, by kind and name; imports specs, never what they point at.

    Environment: ``FLOWZOO_DISABLE=name,distribution:name`` disables plugins;
    ``FLOWZOO_PLUGIN_AUTOLOAD=0`` leaves only the built-in and the registered ones.

    Raises:
        PluginError: an unknown kind.
    """
    wanted = KINDS if kind is None else (check_kind(kind),)
    listed = [_settled(point) for point in points() if point.kind in wanted]
    listed += [item.entry for item in registered.values() if item.entry.kind in wanted]
    return sorted(listed, key=lambda e: (KINDS.index(e.kind), e.name, e.distribution))


def specs(kind: str | None = None) -> list[PluginSpec]:
    """The specs of the plugins that are ready, by kind and name."""
    return [entry.spec for entry in entries(kind) if entry.state == "ready" and entry.spec]


def problems() -> list[Problem]:
    """What on ``sys.path`` could not be read while looking for plugins."""
    return list(_discovered()[1])


def refresh() -> None:
    """Look again, after something was installed, removed or upgraded in this process."""
    importlib.invalidate_caches()
    _cached_discovery.cache_clear()
    _own.cache_clear()


def find(kind: str, name: str) -> Entry:
    """The plugin called ``name``, or ``distribution:name``, whatever its state.

    Raises:
        PluginError: there is none; the message names those there are and the nearest spelling.
    """
    known_kind = check_kind(kind)
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {type(name).__name__}")
    mine = registered.get((known_kind, name))
    if mine is not None:
        return mine.entry
    candidates = [point for point in points() if point.kind == known_kind]
    for point in candidates:
        if name == f"{point.distribution}:{point.name}":
            return _bare(point, "disabled", _DISABLED) if disabled(point) else _own(point)
    same = [_settled(point) for point in candidates if point.name == name]
    if same:  # a built-in name stays the built-in's
        return min(same, key=lambda entry: (entry.state != "ready", entry.state == "disabled"))
    distribution, colon, bare = name.partition(":")
    if colon and normalise(distribution) != distribution:
        return find(kind, f"{normalise(distribution)}:{bare}")
    known = sorted({point.name for point in candidates} | {n for k, n in registered if k == kind})
    raise UnknownPluginError(
        f"unknown {kind} {name!r}, expected one of {known}{nearest(bare or name, known)}"
    )


@functools.lru_cache(maxsize=8)
def _cached_discovery(path: tuple[str | bytes | os.PathLike[str], ...]) -> Any:
    return discover(path)


def _discovered() -> tuple[list[Found], list[Problem]]:
    """What the present ``sys.path`` holds, read once."""
    try:
        return cast(tuple[list[Found], list[Problem]], _cached_discovery(tuple(sys.path)))
    except TypeError:  # something unhashable on sys.path
        return discover(sys.path)


def points() -> list[Found]:
    """The entry points that may be used, with those of others left out when autoload is off."""
    found = _discovered()[0]
    if os.environ.get("FLOWZOO_PLUGIN_AUTOLOAD", "1").strip().lower() in ("0", "false", "no"):
        return [point for point in found if point.distribution == BUILT_IN]
    return found


def disabled(point: Found) -> bool:
    """Whether ``FLOWZOO_DISABLE`` names the point."""
    names = {name.strip() for name in os.environ.get("FLOWZOO_DISABLE", "").split(",")}
    return bool(names & {point.name, f"{point.distribution}:{point.name}"})


def _settled(point: Found) -> Entry:
    """The point's entry, with the states that depend on its neighbours."""
    if disabled(point):
        return _bare(point, "disabled", _DISABLED)
    rivals = sorted(
        other.distribution
        for other in points()
        if (other.kind, other.name) == (point.kind, point.name)
        and other.distribution != point.distribution
        and (other.distribution == BUILT_IN or not disabled(other))
    )
    entry = _own(point)
    if not rivals or point.distribution == BUILT_IN:
        return entry
    choose = f"{point.distribution}:{point.name}"
    if BUILT_IN in rivals:
        why = f"the name belongs to {BUILT_IN}; load it as {choose!r}"
    else:
        names = " or ".join(
            repr(f"{owner}:{point.name}") for owner in sorted([*rivals, point.distribution])
        )
        why = f"the name is also in {', '.join(rivals)}; load {names}"
    return replace(entry, state="conflict", error=why)


@functools.cache
def _own(point: Found) -> Entry:
    """The point's entry as if it stood alone; imports its spec."""
    try:
        module, _, attribute = point.value.partition("[")[0].strip().partition(":")
        with contextlib.redirect_stdout(sys.stderr):  # stdout may be carrying `list --json`
            spec = resolve(module, attribute)
        if not isinstance(spec, PluginSpec):
            raise TypeError(f"expected a PluginSpec at {point.value!r}, got {type(spec).__name__}")
        if (spec.kind, spec.name) != (point.kind, point.name):
            raise ValueError(
                f"the spec says {spec.kind} {spec.name!r}, "
                f"its entry point in {GROUPS[point.kind]} says {point.kind} {point.name!r}"
            )
        state, why = state_of(spec)
    except (Exception, SystemExit) as error:  # a plugin that fails in any way stays its own problem
        return _bare(point, "broken", first_line(error))
    return replace(_bare(point, state, why), spec=spec)


def _bare(point: Found, state: State, error: str) -> Entry:
    return Entry(
        kind=point.kind,
        name=point.name,
        state=state,
        distribution=point.distribution,
        version=point.version,
        error=error,
        value=point.value,
    )


def state_of(spec: PluginSpec) -> tuple[State, str]:
    """Whether the spec's contract version and dependencies are met; nothing is imported."""
    from packaging.requirements import InvalidRequirement, Requirement

    major, minor = (int(part) for part in spec.api.split("."))
    if major != API[0] or minor > API[1]:
        return "incompatible-api", f"written for API {spec.api}, this is {API[0]}.{API[1]}"
    missing = []
    for text in spec.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            return "broken", f"requires: {text!r} is no requirement ({first_line(error)})"
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(text)
        else:
            if not requirement.specifier.contains(version, prereleases=True):
                missing.append(text)
    if missing:
        return "missing-deps", f"pip install {shlex.join(missing)}"
    return "ready", ""


def check_kind(kind: str) -> Kind:
    """``kind`` if it is one.

    Raises:
        PluginError: it is not.
    """
    if kind not in KINDS:
        hint = nearest(kind, KINDS) if isinstance(kind, str) else ""
        raise UnknownPluginError(f"unknown kind {kind!r}, expected one of {list(KINDS)}{hint}")
    return kind


def resolve(module: str, attribute: str) -> Any:
    """The object at ``module:attribute``; dots in the attribute are followed."""
    value: Any = importlib.import_module(module)
    for name in attribute.split("."):
        value = getattr(value, name)
    return value


# --- registered in this process ------------------------------------------------------------------


class Registration:
    """One plugin of this process; ``undo()``, or leaving the ``with`` block, takes it back."""

    def __init__(self, entry: Entry, target: Callable[..., Any] | None) -> None:
        self.entry = entry
        self.target = target
        self._key = (entry.kind, entry.name)
        self._before = registered.get(self._key)
        self._undone = False
        registered[self._key] = self

    def undo(self) -> None:
        """Take the plugin back; one it replaced returns. Twice is once."""
        self._undone = True
        if registered.get(self._key) is not self:
            return
        del registered[self._key]
        before = self._before
        while before is not None and before._undone:
            before = before._before
        if before is not None:
            registered[self._key] = before

    def __repr__(self) -> str:
        return f"<{self.entry.kind} {self.entry.name!r}, registered until undo()>"

    def __enter__(self) -> Registration:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()


registered: dict[tuple[Kind, str], Registration] = {}
