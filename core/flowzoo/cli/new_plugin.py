"""``flowzoo new-plugin``."""

from __future__ import annotations

import builtins
import importlib.util
import keyword
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Annotated, Literal

import typer

from flowzoo._version import __version__
from flowzoo.catalogue import entries
from flowzoo.plugin import GROUPS

_SUFFIX = ".tmpl"  # so that no tool takes a template for code

NewKind = Literal["mixture", "base-flow", "partitioner", "task"]


class UnusableNameError(ValueError):
    """The name or the place cannot be used; nothing was written."""

    exit_code = 2  # of the command: bad usage


@dataclass(frozen=True)
class _Start:
    """What the templates of one kind leave to be filled in."""

    file: str
    summary: str
    capabilities: str
    check_options: str


_STARTS: dict[NewKind, _Start] = {
    "mixture": _Start(
        "mixture",
        "K regions, a diagonal Gaussian in each, trained by gradient",
        '{"evaluations": {"exact": "exact, lebesgue"}, "packable": True}',
        '{"num_regions": 4, "training": {"epochs": 2}}',
    ),
    "base-flow": _Start(
        "flow",
        "a triangular affine map, linear in the context",
        '{"conditional": True, "packable": True, "fast": "both"}',
        "{}",
    ),
    "partitioner": _Start(
        "partitioner",
        "Voronoi cells of random centres after some steps of Lloyd",
        '{"codes": "data space", "trained": False, "packable": True}',
        '{"num_charts": 4, "steps": 3}',
    ),
    "task": _Start(
        "task",
        "concentric rings in the plane with Gaussian noise",
        '{"features": 2, "oracle": True, "support": True, "real": False}',
        '{"num_train": 200, "num_valid": 100, "num_test": 100}',
    ),
}


def new_plugin(
    name: Annotated[
        str, typer.Argument(help="Its name and its distribution's, e.g. my-flow.", metavar="NAME")
    ],
    kind: Annotated[NewKind, typer.Option(help="Which contract it fulfils.")],
    folder: Annotated[
        Path, typer.Option("--dir", help="Where the new folder NAME is made.")
    ] = Path(),
) -> None:
    """Write a small distribution with a working plugin, to be changed into yours.

    It can be installed, listed, checked, tested and benchmarked as it is.
    """
    target = folder / name
    texts = plugin_files(name, kind)
    try:
        target.mkdir(parents=True)
    except FileExistsError:
        raise UnusableNameError(
            f"NAME: expected a folder that does not exist yet, got {str(target)!r}"
        ) from None
    for place, text in texts.items():
        file = target / place
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
        typer.echo(f"wrote {file}")
    typer.echo(
        "\nNext:\n"
        f"  cd {shlex.quote(str(target))}\n"
        "  pip install -e '.[test]'\n"
        f"  flowzoo check {kind} {name}\n"
        "  pytest\n"
        "  flowzoo bench experiment.toml --out runs/first"
    )


def plugin_files(name: str, kind: NewKind) -> dict[str, str]:
    """Path in the new folder -> text, for every file of a new plugin.

    Args:
        name: of the plugin and of its distribution.
        kind: which contract it fulfils.

    Raises:
        ValueError: the name is malformed, reserved by Python, or taken.

    Example:
        >>> sorted(plugin_files("my-flow", "base-flow"))[-1]
        'tests/test_my_flow.py'
    """
    module = _check_name(name, kind)
    start = _STARTS[kind]
    values = {
        "name": name,
        "kind": kind,
        "module": module,
        "class_name": _class_name(name),
        "group": GROUPS[kind],
        "flowzoo": __version__,
        "file": start.file,
        "summary": start.summary,
        "capabilities": start.capabilities,
        "check_options": start.check_options,
    }
    return {
        place.format(module=module, file=start.file): Template(text).substitute(values)
        for place, text in _templates(kind)
    }


_PLACES = {
    "gitignore": ".gitignore",
    "init.py": "{module}/__init__.py",
    "plugin.py": "{module}/plugin.py",
    "py.typed": "{module}/py.typed",
    "test.py": "tests/test_{module}.py",
}


def _templates(kind: NewKind) -> Iterator[tuple[str, str]]:
    """(place in the new folder, template), first what all kinds share."""
    root = files("flowzoo") / "templates"
    for folder in (root / "common", root / kind):
        for item in sorted(folder.iterdir(), key=_name_of):
            file = item.name.removesuffix(_SUFFIX)
            if file != item.name:
                own = "{module}/{file}.py" if file == f"{_STARTS[kind].file}.py" else file
                yield _PLACES.get(file, own), item.read_text("utf-8")


def _name_of(item: Traversable) -> str:
    return item.name


def _check_name(name: str, kind: NewKind) -> str:
    """The importable form of ``name``; see ``plugin_files`` for what is raised."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 60:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:60].strip("-")
        hint = f"; try {plain!r}" if plain else ""
        raise UnusableNameError(
            "NAME: expected at most 60 lower-case letters and digits, in parts joined by single "
            f"dashes, a letter first, got {name!r}{hint}"
        )
    for entry in entries(kind):
        if entry.name == name:
            owner = entry.distribution or "this process"
            raise UnusableNameError(
                f"NAME: expected one that no {kind} has, but {name!r} belongs to {owner}; "
                f"try {f'my-{name}'!r}"
            )
    module, class_name = name.replace("-", "_"), _class_name(name)
    if any(keyword.iskeyword(word) or hasattr(builtins, word) for word in (module, class_name)):
        raise UnusableNameError(f"NAME: {name!r} means something in Python; try {f'my-{name}'!r}")
    if module in ("tests", *sys.stdlib_module_names) or _installed(module):
        raise UnusableNameError(
            f"NAME: there is a module {module!r} already, which yours would hide; "
            f"try {f'my-{name}'!r}"
        )
    if module in _left_out():
        raise UnusableNameError(
            f"NAME: the new plugin's .gitignore leaves /{module}/ out of the repository and of the "
            f"wheel; try {f'my-{name}'!r}"
        )
    return module


def _left_out() -> set[str]:
    """The names of folders that the template's .gitignore names."""
    text = (files("flowzoo") / "templates" / "common" / f"gitignore{_SUFFIX}").read_text("utf-8")
    return {line.strip("/") for line in text.splitlines()}


def _installed(module: str) -> bool:
    """Whether ``import module`` finds a file; a bare folder of that name does not count."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def _class_name(name: str) -> str:
    """``my-flow`` as ``MyFlow``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("-"))
