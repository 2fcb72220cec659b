"""Puts the command together and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.main import get_command

from flowzoo._version import __version__
from flowzoo.catalogue import entries
from flowzoo.cli.check import check
from flowzoo.cli.cite import cite
from flowzoo.cli.doctor import doctor
from flowzoo.cli.info import info
from flowzoo.cli.lazy import LazyCommand
from flowzoo.cli.list import list_plugins
from flowzoo.cli.new_plugin import new_plugin

OK, FAILURE, INTERRUPTED = 0, 1, 130


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit()


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and stop.", callback=_version),
    ] = False,
) -> None:
    """A zoo of local normalizing flows: list, inspect, train and compare them."""


def command() -> Any:
    """The whole command: the core's subcommands, then the plugins', which are not imported yet."""
    app = typer.Typer(add_completion=False, no_args_is_help=True)
    app.callback()(_root)
    app.command("list")(list_plugins)
    app.command("info")(info)
    app.command("check")(check)
    app.command("cite")(cite)
    app.command("doctor")(doctor)
    app.command("new-plugin")(new_plugin)
    group: Any = get_command(app)
    for entry in entries("command"):
        if entry.state != "disabled" and entry.name not in group.commands:
            group.add_command(LazyCommand(entry))
    return group


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``flowzoo``; returns the exit code.

    0: done; 1: failed; 2: bad usage; 130: interrupted. A failure of ours is one line on stderr, and
    an error with an attribute ``exit_code`` chooses the code; ``FLOWZOO_TRACEBACK=1`` shows where
    it came from.
    """
    try:
        command().main(args=None if arguments is None else list(arguments), prog_name="flowzoo")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or OK
        return _complain(str(stop.code), FAILURE)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except (ValueError, OSError) as error:
        if os.environ.get("FLOWZOO_TRACEBACK", "0") not in ("", "0"):
            raise
        return _complain(str(error) or type(error).__name__, getattr(error, "exit_code", FAILURE))
    return OK


def _complain(message: str, code: int) -> int:
    print(f"flowzoo: error: {' '.join(message.split())}", file=sys.stderr)
    return code
