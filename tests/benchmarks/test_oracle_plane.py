"""The true densities of the five sets in the plane: mass, entropy, brute force, draws."""

from functools import cache, partial
from math import cos, log, pi, sin
from time import thread_time

import numpy as np
import pytest
import torch

from flowzoo.interfaces.measure import LEBESGUE
from flowzoo.testing.distribution import check_overlap, draws_follow
from flowzoo.testing.outcome import CheckFailed
from flowzoo_bench.tasks import Checkerboard, EightGaussians, Rings, TwoSpirals, TwoUniforms

# E log p as estimated before these classes were written, and the standard error of that
TABLE = [
    (TwoUniforms, -log(4), 0.0),
    (Checkerboard, -log(32), 0.0),
    (EightGaussians, -2.836, 0.007),
    (Rings, -2.618, 0.014),
    (TwoSpirals, -2.637, 0.016),
]
ALL = [row[0] for row in TABLE]
SMOOTH = [EightGaussians, Rings, TwoSpirals]
IDS = [cls.__name__ for cls in ALL]


@pytest.mark.parametrize("cls", ALL, ids=IDS)
def test_far_away_the_density_is_zero_and_no_nan(cls):
    most = torch.finfo(torch.float64).max
    far = [[1e160, 0.3], [-1e160, 1e160], [0.3, 1e200], [most, most], [-most, 0.0]]
    assert (cls().log_prob(torch.tensor(far, dtype=torch.float64)) == -torch.inf).all()
    near = torch.tensor([[1e120, 0.3], [0.3, -1e150]], dtype=torch.float64)
    assert not cls().log_prob(near).isnan().any()


@pytest.mark.parametrize("cls", ALL, ids=IDS)
def test_expected_log_prob_is_not_of_the_points_of_the_splits(cls):
    task = cls(num_train=400, num_valid=50, num_test=50)
    own = float(task.log_prob(torch.cat(task.splits(7))).mean())
    expected = task.expected_log_prob(500, seed=7)
    assert expected == task.expected_log_prob(500, seed=7)
    assert cls in (TwoUniforms, Checkerboard) or expected.mean != own


def grid(half, count):
    """Midpoints of count² cells of [-half, half]², and the area of one."""
    step = 2 * half / count
    axis = (torch.arange(count, dtype=torch.float64) + 0.5) * step - half
    return torch.cartesian_prod(axis, axis), step**2


# a midpoint rule is exact on boxes that are whole cells, and nearly so on smooth densities
GRIDS = {
    TwoUniforms: (3.0, 60),
    Checkerboard: (5.0, 50),
    EightGaussians: (6.0, 120),
    Rings: (4.0, 200),
    TwoSpirals: (4.4, 110),
}


@cache
def on_grid(cls):
    """log p at midpoints, and the area of a cell."""
    x, area = grid(*GRIDS[cls])
    return cls().log_prob(x), area


@pytest.mark.parametrize("cls", ALL, ids=IDS)
def test_mass_is_one(cls):
    log_p, area = on_grid(cls)
    assert float(log_p.exp().sum() * area) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("cls", "expected", "stderr"), TABLE, ids=IDS)
def test_expected_log_prob_is_the_known_number_and_the_integral(cls, expected, stderr):
    found = cls().expected_log_prob()
    allowed = 3 * (stderr**2 + found.stderr**2) ** 0.5 + 1e-12
    assert found.mean == pytest.approx(expected, abs=allowed)
    assert found.stderr < 0.009
    log_p, area = on_grid(cls)
    integral = float(torch.xlogy(log_p.exp(), log_p.exp()).sum() * area)
    assert found.mean == pytest.approx(integral, abs=4 * found.stderr + 1e-9)
    assert integral == pytest.approx(expected, abs=3 * stderr + 1e-9)


@pytest.mark.parametrize("cls", ALL, ids=IDS)
def test_mean_score_of_test_rows_is_the_entropy(cls):
    task = cls()
    values = task.log_prob(task.splits(3).test)
    assert torch.isfinite(values).all()
    expected = task.expected_log_prob()
    stderr = (float(values.var()) / len(values) + expected.stderr**2) ** 0.5
    assert float(values.mean()) == pytest.approx(expected.mean, abs=4 * stderr + 1e-12)


@pytest.mark.parametrize("cls", ALL, ids=IDS)
def test_rows_follow_the_density(cls):
    task = cls()
    rows = torch.cat(task.splits(1))
    # cell by cell, but for the spirals, whose many cells take a quarter of a minute
    follow = check_overlap if cls is TwoSpirals else partial(draws_follow, tolerance=1e-2)
    follow(task.log_prob, rows)
    assert task.oracle.measure == LEBESGUE
    angle = pi / 2 if cls is TwoSpirals else pi / 6  # a quarter turn puts arms between arms
    turn = torch.tensor([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])
    with pytest.raises(CheckFailed):
        follow(task.log_prob, 1.05 * rows if cls is Rings else rows @ turn.double())


@pytest.mark.parametrize(("cls", "value"), [(TwoUniforms, -log(4)), (Checkerboard, -log(32))])
def test_uniform_sets_are_constant_inside_and_nothing_outside(cls, value):
    task = cls()
    x = 10 * torch.rand(4000, 2, generator=torch.Generator().manual_seed(0)).double() - 5
    if cls is TwoUniforms:
        inside = (x[:, 0].abs() > 1) & (x[:, 0].abs() < 2) & (x[:, 1].abs() < 1)
    else:
        column, row = (x / 2).floor().T
        inside = (x.abs() < 4).all(dim=1) & ((column + row) % 2 == 0)
    got = task.log_prob(x)
    assert 100 < int(inside.sum()) < 3000
    assert torch.equal(got == -torch.inf, ~inside)
    torch.testing.assert_close(got[inside], torch.full_like(got[inside], value))
    assert float(task.log_prob(torch.tensor([[1e300, 0.0]], dtype=torch.float64))) == -torch.inf


def test_eight_gaussians_are_the_mixture():
    angle = torch.arange(8).double() * pi / 4
    centres = 4 / 1.414 * torch.stack([angle.cos(), angle.sin()], dim=1)
    parts = torch.distributions.Independent(torch.distributions.Normal(centres, 0.5 / 1.414), 1)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(8).double()), parts
    )
    x = torch.cat([EightGaussians().splits(0).test[:200], 20 * torch.eye(2).double()])
    torch.testing.assert_close(EightGaussians().log_prob(x), mixture.log_prob(x))


def brute_rings(x):
    angle = 2 * pi * (np.arange(50_000) + 0.5) / 50_000
    parts = []
    for radius in (3, 2.25, 1.5, 0.75):
        circle = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        exponent = -((circle - x) ** 2).sum(axis=1) / (2 * 0.08**2)
        parts.append(np.logaddexp.reduce(exponent) - np.log(len(angle)))
    return np.logaddexp.reduce(parts) - np.log(4) - np.log(2 * pi * 0.08**2)


def test_rings_are_brute_force_near_and_far():
    task = Rings()
    special = [[0, 0], [1e-9, 0], [0.3, 0.1], [0, 1.9], [-8, 8], [0, 20]]
    x = torch.cat([task.splits(0).test[:10], torch.tensor(special, dtype=torch.float64)])
    expected = [brute_rings(row) for row in x.numpy()]
    np.testing.assert_allclose(task.log_prob(x).numpy(), expected, rtol=1e-11, atol=1e-9)


def brute_spirals(x, nodes=100_000):
    """Midpoint rule in t where the integrand matters, Gauss-Legendre in the jitter of a column."""
    unit, weight = np.polynomial.legendre.leggauss(64)
    jitter, log_weight = (unit + 1) / 12, np.log(weight / 2)  # of 1 / 6

    def column(values):  # density of jitter + noise, at values (M,)
        exponent = -((values[:, None] - jitter) ** 2) / (2 * 0.1**2) + log_weight
        top = exponent.max(axis=1)
        total = np.exp(exponent - top[:, None]).sum(axis=1)
        return top + np.log(total) - np.log(2 * pi * 0.1**2) / 2

    def integrand(t, point):
        first = column(point[0] + t * np.cos(t) / 3)
        return first + column(point[1] - t * np.sin(t) / 3) + np.log(2 * t / (3 * pi) ** 2)

    parts = []
    for point in (x, -x):
        coarse = np.linspace(1e-9, 3 * pi, 4001)
        values = integrand(coarse, point)
        active = np.flatnonzero(values > values.max() - 60)
        low, high = coarse[max(active[0] - 1, 0)], coarse[min(active[-1] + 1, 4000)]
        step = (high - low) / nodes
        exponent = integrand(low + (np.arange(nodes) + 0.5) * step, point)
        parts.append(np.logaddexp.reduce(exponent) + np.log(step))
    return np.logaddexp.reduce(parts) - np.log(2)


def test_two_spirals_are_brute_force_near_and_far():
    task = TwoSpirals()
    special = [[0, 0], [pi, 0], [pi + 0.5, 0.5], [0.1, 0], [2, -1]]  # (pi, 0) is where one ends
    # beyond the ends and across the arms, to 100 standard deviations
    special += [[0, -12.0], [-10, -3], [6, 8], [-13, 0.2]]
    x = torch.cat([task.splits(0).test[:6], torch.tensor(special, dtype=torch.float64)])
    expected = [brute_spirals(row) for row in x.numpy()]
    np.testing.assert_allclose(task.log_prob(x).numpy(), expected, rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("cls", SMOOTH, ids=lambda cls: cls.__name__)
def test_far_points_neither_underflow_nor_overflow(cls):
    task = cls()
    angle = torch.arange(16, dtype=torch.float64)
    directions = torch.stack([angle.cos(), angle.sin()], dim=1)
    for size in (100 * task.noise_scale + 4, 1e3, 1e6, 1e100):
        value = task.log_prob(size * directions)
        assert torch.isfinite(value).all()
        leading = -(task.distance(size * directions) ** 2) / (2 * task.noise_scale**2)
        slack = 0.1 if size < 1e3 else 1e-3
        torch.testing.assert_close(value, leading, rtol=slack, atol=0)


@pytest.mark.parametrize("cls", ALL, ids=IDS)
def test_rows_are_scored_alone_and_float32_is_accepted(cls):
    task = cls()
    x = task.splits(0).test[:50]
    together = task.log_prob(x)
    alone = torch.cat([task.log_prob(row[None]) for row in x])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)
    single = x.float()
    for method in (task.log_prob, task.distance):
        assert method(x[:0]).shape == (0,)
        assert method(x[:0]).dtype == method(single).dtype == torch.float64
        torch.testing.assert_close(method(single), method(single.double()), rtol=0, atol=0)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_log_prob_of_5000_rows_of_the_spirals_takes_about_a_second(one_thread):
    task = TwoSpirals()
    x = task.splits(0).test
    task.log_prob(x[:100])
    start = thread_time()
    task.log_prob(x)
    assert thread_time() - start < 3.0  # 0.7 on an idle core
