"""A subcommand that a plugin brings, imported only when it runs or shows its own help."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from flowzoo.catalogue import Entry
from flowzoo.registry import load


class LazyCommand(TyperCommand):
    """Stands for a plugin's function in ``flowzoo --help``, by its spec's summary alone.

    Args:
        entry: the plugin; one that is not ready says so in the help and when it is run.
    """

    def __init__(self, entry: Entry) -> None:
        text = entry.summary if entry.state == "ready" else f"({entry.state}) {entry.error}"
        super().__init__(name=entry.name, help=text, short_help=text)
        self.entry = entry

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """The context of the plugin's own command, which is imported here."""
        app = typer.Typer(add_completion=False)
        app.command(self.entry.name)(load("command", self.entry.name))
        command: Any = get_command(app)
        return command.make_context(info_name, args, parent=parent, **extra)
