"""One terminal for every test, whatever the caller's, and a process for every core."""

from __future__ import annotations

import os

import pytest

# typer takes each for a wish to have colours on stderr, once, at the import of its rich_utils
_COLOURS = ("GITHUB_ACTIONS", "FORCE_COLOR", "PY_COLORS", "CLICOLOR_FORCE", "TTY_COMPATIBLE")
_WIDTHS = ("TERMINAL_WIDTH", "LINES", "TTY_INTERACTIVE")
_PLAIN = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
_MOST = 8  # each process has its own torch, some 400 MiB

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch, whose threads would fight over the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Of ``-n auto``: one per core, or this process alone where single files are asked for."""
    if any(".py" in argument for argument in config.args):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, _MOST)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before any test module, and so before typer; after pytest chose colours for itself."""
    if session.config.pluginmanager.has_plugin("terminalreporter"):  # workers have none
        writer = session.config.get_terminal_writer()
        writer.fullwidth = writer.fullwidth  # pytest's own lines stay as wide as the terminal
    for name in (*_COLOURS, *_WIDTHS):
        os.environ.pop(name, None)
    os.environ.update(_PLAIN)
