"""The true density of the nine curves, against published values and brute force."""

from math import log, pi
from time import process_time

import numpy as np
import pytest
import torch

from flowzoo.interfaces.measure import LEBESGUE
from flowzoo_bench.tasks import (
    BentLissajous,
    CurveTask,
    DisjointCircles,
    Helix,
    InterlockedCircles,
    Knotted,
    Lissajous,
    NonKnotted,
    Star,
    TwistedEight,
)
from flowzoo_bench.tasks.curves import Curve

# entropy (with the sign of a log-likelihood) and total curve length
TABLE = [
    (Helix, {}, 2.801, 35.54),
    (Lissajous, {}, 4.197, 9.43),
    (TwistedEight, {}, 3.847, 12.57),
    (Knotted, {}, 3.021, 28.83),
    (InterlockedCircles, {}, 3.841, 12.57),
    (NonKnotted, {}, 3.754, 14.46),
    (BentLissajous, {}, 3.789, 13.32),
    (BentLissajous, {"printed": True}, 4.347, 15.28),
    (DisjointCircles, {}, 3.892, 19.65),
    (DisjointCircles, {"fixed": True}, 3.423, 20.36),
    (Star, {}, 4.724, 12.00),
]
IDS = [f"{cls.__name__}-{'-'.join(options) or 'default'}" for cls, options, _, _ in TABLE]


@pytest.mark.parametrize(("cls", "options", "expected", "length"), TABLE, ids=IDS)
def test_oracle_table_is_reproduced(cls, options, expected, length):
    task = cls(**options)
    result = task.expected_log_prob(num=12000, seed=1)
    assert result.mean == pytest.approx(expected, abs=0.02)
    assert 0 < result.stderr < 0.009
    assert sum(curve.length for curve in task.curves) == pytest.approx(length, abs=0.01)
    assert task.oracle.measure == LEBESGUE


@pytest.mark.parametrize(("cls", "options"), [row[:2] for row in TABLE], ids=IDS)
def test_mean_score_of_test_rows_is_the_entropy(cls, options):
    """Plain Monte Carlo over the rows a benchmark really uses: ties the sampler to the density."""
    task = cls(**options)
    values = task.log_prob(task.splits(3).test)
    stderr = float(values.std()) / len(values) ** 0.5
    expected = task.expected_log_prob(num=12000).mean
    assert float(values.mean()) == pytest.approx(expected, abs=4.5 * stderr)


class Circle(CurveTask):
    def _curves(self):
        return (
            Curve(
                lambda t: torch.stack([t.sin(), t.cos(), 0 * t], dim=-1),
                lambda t: torch.stack([t.cos(), -t.sin(), 0 * t], dim=-1),
                -pi,
                pi,
            ),
        )


def test_circle_has_its_closed_form_entropy():
    # uniform on the circle times a two-dimensional Gaussian across it, up to curvature O(sigma²)
    expected = -log(2 * pi) - log(2 * pi * 0.01**2) - 1
    assert expected == pytest.approx(4.535, abs=5e-4)
    assert Circle().expected_log_prob().mean == pytest.approx(expected, abs=1e-3)


def test_centre_of_the_circle_is_exact():
    # every point of the circle is at distance 1 from its centre
    sigma = 0.01
    expected = -1 / (2 * sigma**2) - 1.5 * log(2 * pi * sigma**2)
    value = Circle().log_prob(torch.zeros(1, 3, dtype=torch.float64))
    assert float(value) == pytest.approx(expected, abs=1e-6)


def brute_force(task, x, nodes=300_000):
    """Midpoint rule with so many nodes, where the integrand matters, that it needs no thought."""
    parts = []
    for curve in task.curves:

        def exponent(theta, curve=curve):
            points = curve.position(torch.as_tensor(theta)).numpy()
            return ((points - x) ** 2).sum(axis=1) / (-2 * task.noise**2)

        coarse = np.linspace(curve.start, curve.stop, 20001)
        values = exponent(coarse)
        active = np.flatnonzero(values > values.max() - 60)
        low, high = coarse[max(active[0] - 1, 0)], coarse[min(active[-1] + 1, 20000)]
        step = (high - low) / nodes
        values = exponent(low + (np.arange(nodes) + 0.5) * step)
        best = values.max()
        mass = np.exp(values - best).sum() * step / (curve.stop - curve.start)
        parts.append(best + np.log(mass))
    total = np.logaddexp.reduce(np.array(parts)) - np.log(len(parts))
    return float(total - 1.5 * np.log(2 * np.pi * task.noise**2))


@pytest.mark.parametrize("cls", [Helix, Knotted, DisjointCircles])
@pytest.mark.parametrize("distance", [0.0, 0.02, 0.5, 3.0, 40.0])
def test_log_prob_equals_brute_force_near_and_far(cls, distance):
    task = cls()
    rng = np.random.default_rng(int(10 * distance) + 1)
    theta = torch.as_tensor(rng.uniform(-pi, pi, 2))
    direction = rng.standard_normal((2, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    x = task.curves[0].position(theta).numpy() + distance * direction
    expected = [brute_force(task, row) for row in x]
    got = task.log_prob(torch.as_tensor(x)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-6)


@pytest.mark.parametrize("beyond", [-0.01, 0.0, 0.02, 1.0, 100.0])
def test_log_prob_is_exact_at_the_open_ends_of_the_helix(beyond):
    # a midpoint rule of step sigma / 3 is off by 1e-3 here, and by nats far beyond the end
    task = Helix()
    x = np.array([-beyond, 1.0, 0.0])
    got = float(task.log_prob(torch.as_tensor(x)[None]))
    assert got == pytest.approx(brute_force(task, x), rel=1e-13, abs=1e-6)


def test_density_integrates_to_one():
    task = Circle(noise=0.3)
    axes = [torch.arange(-half, half, 0.25, dtype=torch.float64) for half in (2.75, 2.75, 1.75)]
    x = torch.cartesian_prod(*axes)
    assert float(task.log_prob(x).exp().sum() * 0.25**3) == pytest.approx(1, abs=1e-5)


def test_far_points_neither_underflow_nor_overflow():
    task = Star()
    x = torch.tensor([[1e3, 0, 0], [1e8, 1e8, 0], [1e-300, 0, 0]], dtype=torch.float64)
    value = task.log_prob(x)
    assert torch.isfinite(value).all()
    # the nearest point is a tip, reached with an arcsine density
    assert float(value[0]) == pytest.approx(-(999.0**2) / 2e-4, rel=1e-5)


def test_log_prob_of_helix_takes_well_under_a_second():
    task = Helix()
    x = task.splits(0).test
    task.log_prob(x)
    start = process_time()
    task.log_prob(x)
    assert process_time() - start < 1.0


def test_rows_are_scored_alone_and_float32_is_accepted():
    task = Knotted()
    x = task.splits(0).test[:50]
    together = task.log_prob(x)
    alone = torch.cat([task.log_prob(row[None]) for row in x])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)
    assert task.log_prob(x[:0]).shape == (0,)
    single = task.log_prob(x.float())
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, task.log_prob(x.float().double()), rtol=0, atol=0)
