"""``flowzoo info``."""

from __future__ import annotations

import inspect
import json
from typing import Annotated, Any

import typer

from flowzoo.catalogue import Entry, PluginError, find
from flowzoo.cli.list import table
from flowzoo.options import Option, options_of
from flowzoo.registry import load


def info(
    kind: Annotated[str, typer.Argument(help="What it is, e.g. mixture.", metavar="KIND")],
    name: Annotated[str, typer.Argument(help="Its name, or distribution:name.", metavar="NAME")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show one plugin: what it says about itself, its options, where it comes from."""
    entry = find(kind, name)
    options: list[Option] = []
    file, error = "", entry.error
    if entry.state == "ready":
        try:
            target = load(kind, name)
        except PluginError as failure:
            error = str(failure)
        else:
            options = list(options_of(target).values())
            file = _file(target)
    facts = {**_facts(entry), "error": error, "file": file}
    if as_json:
        rows = [
            {"name": o.name, "type": o.type_text, "default": _default(o), "required": o.required}
            for o in options
        ]
        typer.echo(json.dumps({**facts, "options": rows}, indent=2, default=str))
        return
    shown = [[f"{label}:", _text(value)] for label, value in facts.items() if value]
    typer.echo(table(shown))
    if options:
        typer.echo("\noptions:")
        typer.echo(table([[f"  {o.name}", o.type_text, _default(o)] for o in options]))
    if entry.spec is not None and entry.spec.bibtex:
        typer.echo(f"\n{entry.spec.bibtex.strip()}")


def _facts(entry: Entry) -> dict[str, Any]:
    """What is known without importing the plugin's target."""
    facts: dict[str, Any] = {
        "kind": entry.kind,
        "name": entry.name,
        "state": entry.state,
        "distribution": entry.distribution,
        "version": entry.version,
        "entry point": entry.value,
    }
    spec = entry.spec
    if spec is not None:
        facts |= {
            "summary": spec.summary,
            "method version": spec.version,
            "api": spec.api,
            "target": spec.target,
            "requires": list(spec.requires),
            "capabilities": dict(spec.capabilities),
            "paper": spec.paper,
            "expected failures": dict(spec.expected_failed_checks),
        }
    return facts


def _text(value: Any) -> str:
    """A fact on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)


def _default(option: Option) -> str:
    return "required" if option.required else repr(option.default)


def _file(target: Any) -> str:
    """The file that defines the target; empty when it has none."""
    try:
        return inspect.getsourcefile(target) or ""
    except TypeError:
        return ""
