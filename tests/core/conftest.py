"""Fixtures of the core's tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_site import Site
from flowzoo import registry


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delenv("FLOWZOO_DISABLE", raising=False)
    monkeypatch.delenv("FLOWZOO_PLUGIN_AUTOLOAD", raising=False)
    before = set(sys.modules)
    registry.refresh()
    yield Site(tmp_path / "site")
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]
    registry.refresh()
