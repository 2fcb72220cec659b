"""The pytest door of the suite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from flowzoo.plugin import PluginSpec
from flowzoo.testing.outcome import Check, Level, NotApplicable
from flowzoo.testing.suite import checks

Plugin = PluginSpec | type | tuple[str, str] | tuple[str, str, Mapping[str, Any]]


def parametrize_with_checks(
    plugins: Iterable[Plugin], *, level: Level = "quick"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a test with an argument ``check``: it runs once for each check of each plugin.

    The test's body is ``check()``. A check with nothing to look at is skipped with its reason; a
    declared failure that passes fails the test.

    Args:
        plugins: specs, classes, (kind, name), or (kind, name, keywords of ``checks``).
        level: ``quick`` or ``full``.

    Example:
        >>> @parametrize_with_checks([("base-flow", "realnvp")])
        ... def test_conformance(check):
        ...     check()
    """
    import pytest

    found = [check for plugin in plugins for check in _checks_of(plugin, level)]
    cases = [
        pytest.param(_Skipping(check), id=f"{check.subject.kind}-{check.subject.name}-{check.name}")
        for check in found
    ]
    return pytest.mark.parametrize("check", cases)


def _checks_of(plugin: Plugin, level: Level) -> Iterator[Check]:
    if not isinstance(plugin, tuple):
        return checks(plugin, level=level)
    kind, name, *rest = plugin
    keywords: dict[str, Any] = {"level": level, **dict(*rest)}
    return checks(kind, name, **keywords)


class _Skipping:
    """A check that tells pytest to skip where it has nothing to look at."""

    def __init__(self, check: Check) -> None:
        self.check = check

    def __call__(self) -> None:
        import pytest

        try:
            self.check()
        except NotApplicable as reason:
            pytest.skip(str(reason))

    def __repr__(self) -> str:
        return str(self.check)
