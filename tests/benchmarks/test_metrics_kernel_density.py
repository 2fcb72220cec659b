"""The kernel density estimate and its bandwidth, against scikit-learn and published values."""

import logging
from math import log, pi

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.neighbors import KernelDensity

from flowzoo_bench.metrics.kernel_density import kde_log_prob, leave_one_out_bandwidth
from flowzoo_bench.tasks import (
    BentLissajous,
    DisjointCircles,
    Helix,
    InterlockedCircles,
    Knotted,
    Lissajous,
    NonKnotted,
    Spherical,
    Star,
    TwistedEight,
)

# mean score of held-out real rows at h = 0.1
TABLE = [
    (Spherical, {}, 1.02),
    (Helix, {}, -0.84),
    (Lissajous, {}, 0.61),
    (TwistedEight, {}, 0.24),
    (Knotted, {}, -0.61),
    (InterlockedCircles, {}, 0.21),
    (NonKnotted, {}, 0.12),
    (BentLissajous, {}, 0.19),
    (BentLissajous, {"printed": True}, 0.72),
    (DisjointCircles, {}, 0.20),
    (Star, {}, 1.01),
]


@pytest.mark.parametrize(("cls", "options", "expected"), TABLE, ids=lambda v: str(v)[-25:])
def test_published_reference_row_is_reproduced(cls, options, expected):
    splits = cls(**options).splits(0)
    got = float(kde_log_prob(splits.test, splits.train, 0.1).mean())
    assert got == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(("features", "h", "offset"), [(3, 0.1, 0), (1, 1e-3, 50), (8, 2.0, -9)])
def test_kde_equals_scipy_and_scikit_learn(features, h, offset):
    rng = np.random.default_rng(features)
    train, x = offset + rng.normal(size=(300, features)), offset + rng.normal(size=(700, features))
    squares = ((x[:, None] - train) ** 2).sum(axis=-1)
    expected = logsumexp(-squares / (2 * h * h), axis=1) - log(300)
    expected -= features / 2 * log(2 * pi * h * h)
    got = kde_log_prob(torch.as_tensor(x), torch.as_tensor(train), h)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-7)
    # its trees are exact only where the density is not tiny
    sklearn = KernelDensity(bandwidth=h).fit(train).score_samples(x)
    dense = expected > np.median(expected)
    np.testing.assert_allclose(got.numpy()[dense], sklearn[dense], rtol=1e-6, atol=1e-6)


def test_kde_far_away_is_finite_and_exact():
    train = torch.zeros(4, 2, dtype=torch.float64)
    got = float(kde_log_prob(torch.tensor([[1e3, 0.0]]).double(), train, 1e-3))
    assert got == pytest.approx(-(1e6) / 2e-6 - log(2 * pi * 1e-6), rel=1e-12)
    assert kde_log_prob(train[:0], train, 1.0).shape == (0,)


def brute_force_scores(train, grid):
    """Leave-one-out by refitting without each row."""
    scores = []
    for h in grid:
        total = 0.0
        for index in range(len(train)):
            rest = np.delete(train, index, axis=0)
            total += KernelDensity(bandwidth=h).fit(rest).score_samples(train[index : index + 1])[0]
        scores.append(total / len(train))
    return np.array(scores)


def test_bandwidth_is_the_best_of_its_grid_by_brute_force():
    train = np.random.default_rng(0).normal(size=(60, 2))
    grid = np.logspace(-3, 1, 33)
    scores = brute_force_scores(train, grid)
    got = leave_one_out_bandwidth(torch.as_tensor(train), 1e-3, 10.0, 33, 1000)
    assert got.value == pytest.approx(grid[scores.argmax()])
    assert got.score == pytest.approx(scores.max(), abs=1e-6)
    assert not got.at_edge


def test_bandwidth_of_a_curve_is_near_its_noise():
    splits = Helix().splits(0)
    got = leave_one_out_bandwidth(splits.train, 1e-3, 10.0, 65, 500)
    assert 0.006 < got.value < 0.015
    held_out = float(kde_log_prob(splits.test, splits.train, got.value).mean())
    assert held_out == pytest.approx(2.34, abs=0.1)
    assert got.score == pytest.approx(held_out, abs=0.15)


def test_duplicates_drive_the_bandwidth_to_the_edge():
    x = torch.as_tensor(np.random.default_rng(0).normal(size=(200, 3)))
    got = leave_one_out_bandwidth(torch.cat([x, x]), 1e-3, 10.0, 65, 500)
    assert got.at_edge and got.value == pytest.approx(1e-3)
    assert logging.getLogger("flowzoo_bench").level == logging.NOTSET
