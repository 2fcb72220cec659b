"""The two ways that are timed give the same number, and their table says what was measured."""

from __future__ import annotations

import csv

import torch

from flowzoo.priors import NoisyInjectiveGaussian
from flowzoo_bench.speed.low_rank import dense_log_prob, measure, write


def test_both_ways_agree():
    prior = NoisyInjectiveGaussian(6, latent_features=2).double()
    with torch.no_grad():
        prior.bias.normal_()
        prior.log_std.normal_()
    y = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(dense_log_prob(prior, y), prior.log_prob(y))


def test_table_and_figure(tmp_path):
    row = measure(12, 3, batch=4, rounds=1, seconds=1e-3)
    assert row.difference < 1e-10
    assert min(row.woodbury_ms, row.dense_ms) > 0.0
    write([row], "how it was measured", tmp_path)
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        (found,) = csv.DictReader(file)
    assert (found["features"], found["latent_features"]) == ("12", "3")
    text = (tmp_path / "table.md").read_text("utf-8")
    assert "how it was measured" in text
    assert f"| 12 | 3 | {row.woodbury_ms:.3f} | {row.dense_ms:.3f} |" in text
    assert (tmp_path / "cost.png").stat().st_size > 1000
