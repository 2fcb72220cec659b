"""``flowzoo doctor``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from flowzoo.cli.list import table
from flowzoo.diagnosis import environment, plugins
from flowzoo.diagnosis.finding import Finding, ok, problem
from flowzoo.discovery import first_line

LOOKS: tuple[Callable[[], Iterable[Finding]], ...] = (
    environment.versions,
    environment.torch_state,
    environment.variables,
    plugins.readers_agree,
    plugins.unreadable_metadata,
    plugins.repeated_distributions,
    plugins.stale_installs,
    plugins.states,
)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """Look for what is wrong with this installation.

    Exit code: 0 when nothing is, 1 when something is.
    """
    found = [finding for look in LOOKS for finding in _tried(look)]
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in found], indent=2))
    else:
        typer.echo(table([[finding.level, finding.about, finding.text] for finding in found]))
        problems = sum(finding.level == "problem" for finding in found)
        typer.echo(f"\n{problems} problem{'' if problems == 1 else 's'}")
    raise typer.Exit(int(any(finding.level == "problem" for finding in found)))


def _tried(look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What one look finds; a look that fails is a problem, the others go on."""
    name = look.__name__.replace("_", " ")
    found = []
    try:
        for finding in look():
            found.append(finding)
    except Exception as error:
        found.append(problem(name, f"could not be looked at: {first_line(error)}"))
    return found or [ok(name, "nothing wrong")]
