"""Checks a plugin's options against its constructor before it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Option:
    """One keyword of a plugin's constructor.

    Attributes:
        name: the keyword.
        annotation: its type; ``typing.Any`` where it has none.
        default: its default; ``inspect.Parameter.empty`` when it must be given.
    """

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is inspect.Parameter.empty

    @property
    def type_text(self) -> str:
        """The annotation as one would write it."""
        text = inspect.formatannotation(self.annotation)
        return text.replace("collections.abc.", "").replace("typing.", "")


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known spelling nearest to ``word``, or an empty string."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def options_of(target: Callable[..., Any]) -> dict[str, Option]:
    """The keywords ``target`` names in its signature, in order; ``**kwargs`` names none."""
    parameters = inspect.signature(target).parameters.values()
    function = target.__init__ if inspect.isclass(target) else target
    hints = _hints(function)
    return {
        parameter.name: Option(parameter.name, hints.get(parameter.name, Any), parameter.default)
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def check_options(
    target: Callable[..., Any], options: Mapping[str, Any], owner: str
) -> dict[str, Any]:
    """The options as ``target`` takes them: an int may stand for a float, a list for a tuple.

    Args:
        target: the class or function to be called.
        options: its keywords.
        owner: how messages name the target, e.g. ``"mixture 'vq'"``.

    Raises:
        ValueError: an unknown option, named with the nearest spelling; a missing one; one of the
            wrong type.
    """
    known = options_of(target)
    for name in options:
        if name not in known:
            raise ValueError(
                f"{owner}: unknown option {name!r}, expected one of {list(known)}"
                f"{nearest(name, known)}"
            )
    for option in known.values():
        if option.required and option.name not in options:
            raise ValueError(f"{owner}: missing option {option.name!r}: {option.type_text}")
    return {name: _check(known[name], value, owner) for name, value in options.items()}


def _check(option: Option, value: Any, owner: str) -> Any:
    """``value`` if it fits the option's annotation."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    if option.annotation is Any or (not option.required and value is option.default):
        return value
    config = ConfigDict(strict=True, arbitrary_types_allowed=True)
    adapter: TypeAdapter[Any]
    try:
        adapter = TypeAdapter(option.annotation, config=config)
    except PydanticUserError:  # the annotated type brings a configuration of its own
        adapter = TypeAdapter(option.annotation)
    except PydanticSchemaGenerationError:  # not a type that can be checked
        return value
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        try:  # TOML has no tuples
            return adapter.validate_python(_tuples(value))
        except ValidationError:
            message = error.errors(include_url=False)[0]["msg"]
        raise ValueError(
            f"{owner}: {option.name}: expected {option.type_text}, got {value!r} ({message})"
        ) from None


def _tuples(value: Any) -> Any:
    """``value`` with every list in it turned into a tuple."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The resolved annotations of ``function``; those whose names do not resolve are left out."""
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:  # say, a name imported under TYPE_CHECKING only: take the others one by one
        pass
    hints: dict[str, Any] = {}
    names = getattr(function, "__globals__", {})
    for name, annotation in getattr(function, "__annotations__", {}).items():
        holder = type("holder", (), {"__annotations__": {name: annotation}})
        try:
            hints.update(get_type_hints(holder, names, include_extras=True))
        except Exception:
            continue
    return hints
