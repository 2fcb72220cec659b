"""Prepared tables are read from the cache only as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flowzoo_bench.cache import CACHE_VARIABLE
from flowzoo_bench.tasks.uci.prepared import Parts, prepared


@pytest.mark.parametrize("damage", ["short header", "fewer rows"])
def test_a_header_that_leaves_some_of_a_large_table_unread_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """A checksum is looked at where a member ends, which such a header keeps from being read."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    source = tmp_path / "source"
    source.write_bytes(b"any")
    x = np.random.default_rng(0).random((20_000, 6))
    first = prepared("power", [source], lambda: Parts.of(x, x, x))
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    whole = bytearray(kept.read_bytes())
    if damage == "short header":
        whole[whole.index(b"\x93NUMPY") + 8] ^= 4  # so every number would be its neighbour
    else:
        at = whole.index(b"(20000, 6)") + 1
        whole[at : at + 5] = b"10000"
    kept.write_bytes(whole)
    again = prepared("power", [source], lambda: Parts.of(x + 1, x, x))
    assert np.array_equal(again.train, (x + 1).astype(np.float32))
    assert np.array_equal(again.test, first.test)
