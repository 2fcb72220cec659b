"""Memory of importance sampling: measured in a process of its own, and it does not grow with S."""

from __future__ import annotations

import csv
import sys

import pytest
from typer.testing import CliRunner

from flowzoo_bench.speed import importance_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory as Linux counts it")
def test_peak_memory_does_not_grow_with_the_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(importance_memory, "DRAWS", (10, 100))
    import typer

    app = typer.Typer()
    app.command()(importance_memory.main)
    result = CliRunner().invoke(app, ["--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        few, many = list(csv.DictReader(file))
    assert (few["num_samples"], many["num_samples"]) == ("10", "100")
    assert float(many["peak_mib"]) < 1.1 * float(few["peak_mib"])
    # all draws at once would hold 2000 x 100 x 128 numbers a layer: ten times this, and more
    assert float(many["added_mib"]) < 150
    # the more draws, the higher the estimate
    assert float(few["mean"]) < float(many["mean"])
