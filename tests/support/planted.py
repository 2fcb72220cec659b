"""One named check on one plugin: how it ends for what is right, and for a mistake in it."""

from __future__ import annotations

from typing import Any

from flowzoo.testing import Result, checks
from flowzoo.testing.run import run_check


def outcome(plugin: Any, name: str, **keywords: Any) -> Result:
    """How the check ``name`` ends for a class or a pair (kind, name); keywords as of ``checks``."""
    named = plugin if isinstance(plugin, tuple) else (plugin,)
    (check,) = [one for one in checks(*named, **keywords) if one.name == name]
    return run_check(check)


def assert_found(plugin: Any, name: str, said: str = "", **keywords: Any) -> None:
    """The check fails, and its message holds ``said``."""
    found = outcome(plugin, name, **keywords)
    assert found.status == "failed" and said in found.message, f"{found.status}: {found.message}"
