"""One terminal for every test, whatever the caller's."""

from __future__ import annotations

import os

import pytest

# typer takes each for a wish to have colours on stderr, once, at the import of its rich_utils
_COLOURS = ("GITHUB_ACTIONS", "FORCE_COLOR", "PY_COLORS", "CLICOLOR_FORCE", "TTY_COMPATIBLE")
_WIDTHS = ("TERMINAL_WIDTH", "LINES", "TTY_INTERACTIVE")
_PLAIN = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before any test module, and so before typer; after pytest chose colours for itself."""
    writer = session.config.get_terminal_writer()
    writer.fullwidth = writer.fullwidth  # pytest's own lines stay as wide as the terminal
    for name in (*_COLOURS, *_WIDTHS):
        os.environ.pop(name, None)
    os.environ.update(_PLAIN)
