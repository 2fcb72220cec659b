"""``flowzoo list``."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from flowzoo.catalogue import Entry, entries, problems


def list_plugins(
    kind: Annotated[
        str | None, typer.Option(help="Only this kind, e.g. mixture or base-flow.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """List the installed plugins and the state each is in."""
    listed = entries(kind)
    if as_json:
        typer.echo(json.dumps([_record(entry) for entry in listed], indent=2))
    else:
        typer.echo(table([["kind", "name", "state", "distribution", ""], *map(_row, listed)]))
    for problem in problems():
        print(f"flowzoo: warning: {problem.where}: {problem.error}", file=sys.stderr)


def table(rows: list[list[str]]) -> str:
    """Rows as text, columns aligned, the last one free."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def _row(entry: Entry) -> list[str]:
    owner = f"{entry.distribution} {entry.version}".strip() or "(this process)"
    text = entry.error or entry.summary
    return [entry.kind, entry.name, entry.state, owner, text]


def _record(entry: Entry) -> dict[str, str]:
    """What ``--json`` prints; the keys are public."""
    return {
        "kind": entry.kind,
        "name": entry.name,
        "state": entry.state,
        "distribution": entry.distribution,
        "version": entry.version,
        "summary": entry.summary,
    }
