"""``flowzoo cite``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from flowzoo._version import __version__
from flowzoo.catalogue import Entry, PluginError, UnknownPluginError, check_kind, entries, find
from flowzoo.options import nearest
from flowzoo.plugin import KINDS

OWN = f"""@misc{{flowzoo,
  title = {{{{flowzoo}}: a zoo of local normalizing flows}},
  author = {{{{The flowzoo authors}}}},
  howpublished = {{Python package, version {__version__}}}
}}"""


def cite(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="NAME, KIND:NAME or DISTRIBUTION:NAME.", metavar="NAME"),
    ] = None,
    own: Annotated[bool, typer.Option("--self", help="And flowzoo's own entry, last.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """Print the BibTeX entries of the methods used, each once.

    A name that several kinds share stands for all of them.
    """
    if not names and not own:
        raise typer.BadParameter("expected at least one, or --self", param_hint="NAME")
    printed: dict[str, str] = {}  # citation key -> entry
    rows: list[dict[str, str]] = []
    for entry in [entry for name in names or [] for entry in _named(name)]:
        for key, text in _bibtex(entry):
            if key not in printed:
                printed[key] = text
                rows.append({"kind": entry.kind, "name": entry.name, "key": key, "bibtex": text})
            elif _title(printed[key]) != _title(text):
                _warn(
                    f"{entry.kind} {entry.name!r} means another work by {key!r}, "
                    "which is left out: see `flowzoo info`"
                )
    if own and "flowzoo" not in printed:
        rows.append({"kind": "", "name": "flowzoo", "key": "flowzoo", "bibtex": OWN})
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        typer.echo("\n\n".join(row["bibtex"] for row in rows))


def _named(name: str) -> list[Entry]:
    """The plugins a name stands for, by kind."""
    kind, colon, rest = name.partition(":")
    if colon and kind in KINDS:
        return [_readable(find(check_kind(kind), rest))]
    found = []
    for kind in KINDS:
        try:
            found.append(find(kind, name))
        except UnknownPluginError:
            continue
    if not found:
        known = sorted({entry.name for entry in entries()})
        raise UnknownPluginError(
            f"unknown plugin {name!r}, expected one that `flowzoo list` shows"
            f"{nearest(name.rpartition(':')[2], known)}"
        )
    if len(found) > 1:
        kinds = " and a ".join(entry.kind for entry in found)
        _warn(f"{name!r} is a {kinds}; {found[0].kind}:{name} names one of them")
    return [_readable(entry) for entry in found]


def _readable(entry: Entry) -> Entry:
    """The entry if its spec could be read."""
    if entry.spec is None:
        raise PluginError(f"{entry.kind} {entry.name!r} is {entry.state}: {entry.error}")
    return entry


def _bibtex(entry: Entry) -> Iterator[tuple[str, str]]:
    """(citation key, text) of each BibTeX entry a plugin gives; says so when there is none."""
    spec = entry.spec
    text = spec.bibtex.strip() if spec else ""
    if not text:
        paper = f"; its paper: {spec.paper}" if spec and spec.paper else ""
        _warn(f"{entry.kind} {entry.name!r} gives no BibTeX entry{paper}")
        return
    for item in re.split(r"^(?=@)", text, flags=re.MULTILINE):
        if item.strip():
            match = re.match(r"@\w+\s*[{(]\s*([^,\s]+)", item)
            yield (match[1] if match else item.strip()), item.strip()


def _title(text: str) -> str:
    """The first line of an entry's title, without braces, spaces and case."""
    match = re.search(r"^\s*title\s*=\s*(.+)$", text, flags=re.MULTILINE | re.IGNORECASE)
    return re.sub(r"[^\w]+", "", match[1]).lower() if match else ""


def _warn(message: str) -> None:
    print(f"flowzoo: warning: {message}", file=sys.stderr)
