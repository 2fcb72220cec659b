"""Register, load and build plugins."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from flowzoo.catalogue import BUILT_IN, check_kind, disabled, points, registered, resolve, state_of
from flowzoo.catalogue import Entry as Entry
from flowzoo.catalogue import PluginError as PluginError
from flowzoo.catalogue import Registration as Registration
from flowzoo.catalogue import State as State
from flowzoo.catalogue import UnknownPluginError as UnknownPluginError
from flowzoo.catalogue import entries as entries
from flowzoo.catalogue import find as find
from flowzoo.catalogue import problems as problems
from flowzoo.catalogue import refresh as refresh
from flowzoo.catalogue import specs as specs
from flowzoo.discovery import first_line
from flowzoo.options import check_options
from flowzoo.plugin import Kind, PluginSpec

if TYPE_CHECKING:
    from flowzoo.interfaces import BaseFlow, Metric, Mixture, Partitioner, Task

_CONTRACTS: Mapping[str, str] = {
    "partitioner": "Partitioner",
    "base-flow": "BaseFlow",
    "mixture": "Mixture",
    "task": "Task",
    "metric": "Metric",
}


def register(
    plugin: PluginSpec | type,
    *,
    name: str | None = None,
    kind: str | None = None,
    summary: str | None = None,
) -> Registration:
    """Register a plugin in this process only: a spec, or simply a class, as in a notebook.

    Args:
        plugin: a PluginSpec, or a class that fulfils a contract.
        name: for a class: its name; by default the class's name in lower case, with dashes.
        kind: for a class: by default that of the contract it derives from.
        summary: for a class: by default the first line of its docstring.

    Returns:
        A handle with ``undo()``, also usable as ``with register(...):``. Registering a name again
        replaces what was registered under it.

    Raises:
        PluginError: an installed plugin has the name, or the class fulfils no contract.
        TypeError: neither a spec nor a class.

    Example:
        >>> from flowzoo.interfaces import Task
        >>> class Moons(Task):
        ...     '''Two moons.'''
        >>> with register(Moons):
        ...     find("task", "moons").summary
        'Two moons.'
    """
    target: Callable[..., Any] | None = None
    if isinstance(plugin, PluginSpec):
        if (name, kind, summary) != (None, None, None):
            raise TypeError(
                "name, kind, summary: expected none beside a PluginSpec, it has its own"
            )
        spec = plugin
    elif inspect.isclass(plugin):
        target = plugin
        spec = PluginSpec(
            kind=kind_of(plugin) if kind is None else check_kind(kind),
            name=_dashed(plugin.__name__) if name is None else name,
            summary=(plugin.__doc__ or "").strip().partition("\n")[0]
            if summary is None
            else summary,
            target=f"{plugin.__module__}:{plugin.__qualname__}",
        )
        _check_contract(spec.kind, spec.name, plugin)
    else:
        raise TypeError(f"plugin: expected a PluginSpec or a class, got {plugin!r}")
    for point in points():
        free = disabled(point) and point.distribution != BUILT_IN
        if (point.kind, point.name) == (spec.kind, spec.name) and not free:
            raise PluginError(
                f"{spec.kind} {spec.name!r} is installed by {point.distribution}; "
                "register yours under another name"
            )
    state, error = state_of(spec)
    return Registration(
        Entry(spec.kind, spec.name, state, "", "", spec, error, spec.target), target
    )


def kind_of(plugin: type) -> Kind:
    """The kind of the contract a class derives from.

    Raises:
        PluginError: it derives from none.
    """
    import flowzoo.interfaces

    for kind, contract in _CONTRACTS.items():
        if issubclass(plugin, getattr(flowzoo.interfaces, contract)):
            return cast(Kind, kind)
    raise PluginError(
        f"{plugin.__name__}: expected a subclass of one of {list(_CONTRACTS.values())}, or kind=..."
    )


def _dashed(name: str) -> str:
    """``MyVQFlow`` as ``my-vq-flow``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_", "-", name).lower()


# --- loading and building ----------------------------------------------------------------------


@overload
def load(kind: Literal["mixture"], name: str) -> type[Mixture]: ...
@overload
def load(kind: Literal["base-flow"], name: str) -> type[BaseFlow]: ...
@overload
def load(kind: Literal["partitioner"], name: str) -> type[Partitioner]: ...
@overload
def load(kind: Literal["task"], name: str) -> type[Task]: ...
@overload
def load(kind: Literal["metric"], name: str) -> type[Metric]: ...
@overload
def load(kind: str, name: str) -> Any: ...
def load(kind: str, name: str) -> Any:
    """The class (for a command, the function) of the plugin ``name`` or ``distribution:name``.

    Raises:
        PluginError: there is no such plugin, it is not ready, or its target cannot be imported or
            does not fulfil the contract of its kind.
    """
    entry = find(kind, name)
    if entry.state != "ready" or entry.spec is None:
        raise PluginError(f"{kind} {name!r} is {entry.state}: {entry.error}")
    mine = registered.get((entry.kind, name))
    if mine is not None and mine.target is not None:
        return mine.target
    return target_of(entry.spec)


def target_of(spec: PluginSpec) -> Any:
    """What a spec points at, installed or not.

    Raises:
        PluginError: it cannot be imported, or does not fulfil the contract of its kind.
    """
    module, _, attribute = spec.target.partition(":")
    try:
        target = resolve(module, attribute)
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{spec.kind} {spec.name!r} cannot be imported from {spec.target!r}: "
            f"{first_line(error)}"
        ) from error
    _check_contract(spec.kind, spec.name, target)
    return target


def _check_contract(kind: Kind, name: str, target: object) -> None:
    """Raise unless ``target`` is what its kind asks for."""
    if kind not in _CONTRACTS:
        if not callable(target):
            raise PluginError(f"{kind} {name!r}: expected something callable, got {target!r}")
        return
    import flowzoo.interfaces

    contract = getattr(flowzoo.interfaces, _CONTRACTS[kind])
    if not (inspect.isclass(target) and issubclass(target, contract)):
        raise PluginError(
            f"{kind} {name!r}: expected a subclass of flowzoo.interfaces.{_CONTRACTS[kind]}, "
            f"got {target!r}"
        )


@overload
def build(kind: Literal["mixture"], name: str, /, **options: Any) -> Mixture: ...
@overload
def build(kind: Literal["base-flow"], name: str, /, **options: Any) -> BaseFlow: ...
@overload
def build(kind: Literal["partitioner"], name: str, /, **options: Any) -> Partitioner: ...
@overload
def build(kind: Literal["task"], name: str, /, **options: Any) -> Task: ...
@overload
def build(kind: Literal["metric"], name: str, /, **options: Any) -> Metric: ...
@overload
def build(kind: str, name: str, /, **options: Any) -> Any: ...
def build(kind: str, name: str, /, **options: Any) -> Any:
    """Build a plugin from its options, which are its constructor's keywords.

    Raises:
        PluginError: the plugin is unknown or not ready.
        ValueError: an unknown, missing or wrong option, or one the plugin refuses; the message
            names the plugin and the option.

    Example:
        >>> flow = build("base-flow", "realnvp", features=3, layers=5, hidden=[64, 64])
    """
    return construct(load(kind, name), f"{kind} {name!r}", options)


def construct(target: Callable[..., Any], owner: str, options: Mapping[str, Any]) -> Any:
    """Call ``target`` with checked options; errors name its ``owner``, e.g. ``"mixture 'vq'"``.

    Raises:
        ValueError: an unknown, missing or wrong option, or one the target refuses.
    """
    checked = check_options(target, options, owner)
    try:
        return target(**checked)
    except (ValueError, TypeError) as error:
        plain = (ValueError, TypeError, PluginError, UnknownPluginError)
        exact = type(error) if type(error) in plain else ValueError
        raise exact(f"{owner}: {error}") from error
    except Exception as error:
        error.add_note(f"while building {owner}")
        raise


@overload
def build_part(kind: Literal["mixture"], part: Any, /, **given: Any) -> Mixture: ...
@overload
def build_part(kind: Literal["base-flow"], part: Any, /, **given: Any) -> BaseFlow: ...
@overload
def build_part(kind: Literal["partitioner"], part: Any, /, **given: Any) -> Partitioner: ...
@overload
def build_part(kind: Literal["task"], part: Any, /, **given: Any) -> Task: ...
@overload
def build_part(kind: Literal["metric"], part: Any, /, **given: Any) -> Metric: ...
@overload
def build_part(kind: str, part: Any, /, **given: Any) -> Any: ...
def build_part(kind: str, part: Any, /, **given: Any) -> Any:
    """Build a nested part, as written in Python or TOML.

    Args:
        kind: which contract the part fulfils.
        part: a name, a mapping ``{"name": ..., **options}``, or a built module, which is returned.
        given: keywords the enclosing plugin decides, such as ``features``; a part may not set them,
            and a built module must agree with them.

    Raises:
        PluginError: no name, or an unknown one.
        ValueError: a wrong option, one the enclosing plugin decides, or a built module that does
            not fit.
        TypeError: ``part`` is none of the three.
    """
    known_kind = check_kind(kind)
    if isinstance(part, str):
        return build(kind, part, **given)
    if isinstance(part, Mapping):
        options = dict(part)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise PluginError(f"{kind}: expected a 'name' among {list(part)}, got {name!r}")
        for option in given:
            if option in options:
                raise ValueError(
                    f"{kind} {name!r}: {option}: set by what contains the part to "
                    f"{given[option]!r}, got {options[option]!r}"
                )
        return build(kind, name, **options, **given)
    import flowzoo.interfaces

    contract = _CONTRACTS.get(known_kind)
    if contract is None or not isinstance(part, getattr(flowzoo.interfaces, contract)):
        raise TypeError(
            f"{kind}: expected a name, a mapping with one, or a built {contract or kind}, "
            f"got {type(part).__name__}"
        )
    for option, value in given.items():
        if isinstance(value, int | str) and getattr(part, option, value) != value:
            raise ValueError(
                f"{kind}: {option}: expected {value!r}, "
                f"the built {type(part).__name__} has {getattr(part, option)!r}"
            )
    return part
