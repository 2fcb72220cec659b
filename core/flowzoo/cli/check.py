"""``flowzoo check``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flowzoo.catalogue import UnknownPluginError, entries
from flowzoo.options import nearest

if TYPE_CHECKING:
    from flowzoo.testing import Report, Result


def check(
    kind: Annotated[
        str | None, typer.Argument(help="What it is, e.g. base-flow, or prior.", metavar="KIND")
    ] = None,
    name: Annotated[
        str | None, typer.Argument(help="Its name, or distribution:name.", metavar="NAME")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Check every plugin that is ready; KIND narrows it.")
    ] = False,
    level: Annotated[str, typer.Option(help="quick, or full with the slow checks.")] = "quick",
    device: Annotated[
        str | None, typer.Option(help="A second device it must run on, e.g. cuda.")
    ] = None,
    deselect: Annotated[
        list[str] | None, typer.Option(help="A check to leave out; may be repeated.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds after which one check fails.")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """Prove that plugins keep their contracts: the conformance suite."""
    if everything == (name is not None) or (kind is None and not everything):
        raise UnknownPluginError("expected KIND and NAME, or --all")
    from flowzoo import testing

    if everything:
        chosen = [pair for pair in testing.everything() if kind in (None, pair[0])]
        if not chosen:
            testing.check_names(str(kind))  # an unknown kind is refused
    else:
        chosen = [(str(kind), str(name))]
    known = {word for one_kind, _ in chosen for word in testing.check_names(one_kind)}
    for word in deselect or ():
        if word not in known:
            raise UnknownPluginError(
                f"--deselect: expected some of {sorted(known)}, got {word!r}{nearest(word, known)}"
            )
    reports = []
    for one_kind, one_name in chosen:
        # what cannot be checked at all is refused before its heading is printed
        next(testing.checks(one_kind, one_name, level=level, device=device))  # type: ignore[arg-type]
        if not as_json:
            typer.echo(f"{one_kind} {one_name}")
        own = testing.check_names(one_kind)
        reports.append(
            testing.run_checks(
                one_kind,
                one_name,
                level=level,  # type: ignore[arg-type]
                device=device,
                deselect=tuple(word for word in deselect or () if word in own),
                on_result=None if as_json else _show,
                timeout=timeout,
            )
        )
    if everything:
        for entry in entries(None if kind == "prior" else kind):
            if entry.state not in ("ready", "disabled"):
                line = f"{entry.kind} {entry.name} not checked, {entry.state}: {entry.error}"
                print(f"flowzoo: warning: {line}", file=sys.stderr)
    if as_json:
        typer.echo(json.dumps([report.to_json() for report in reports], indent=2))
    else:
        typer.echo(_summary(reports))
    if not all(report.ok for report in reports):
        raise typer.Exit(1)


def _show(result: Result) -> None:
    mark = {"passed": "ok", "skipped": "--", "expected failure": "xf"}.get(result.status, "FAILED")
    text = f": {result.message}" if result.message else ""
    typer.echo(f"  {mark:<6} {result.name} ({result.seconds:.2f} s){text}")
    sys.stdout.flush()


def _summary(reports: list[Report]) -> str:
    """One line of counts, and one for each plugin that fails."""
    counts: dict[str, int] = {}
    for report in reports:
        for result in report.results:
            counts[result.status] = counts.get(result.status, 0) + 1
    seconds = sum(result.seconds for report in reports for result in report.results)
    lines = [
        f"{report.kind} {report.name} fails: {', '.join(r.name for r in report.failures)}"
        for report in reports
        if not report.ok
    ]
    total = ", ".join(f"{number} {status}" for status, number in counts.items())
    return "\n".join([*lines, f"{len(reports)} checked: {total}, {seconds:.0f} s"])
