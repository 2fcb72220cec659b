"""True densities of sets on a manifold and near it: quadrature of another kind, mass, draws."""

import math

import pytest
import torch

from flowzoo.interfaces.measure import LEBESGUE, Measure
from flowzoo.testing.distribution import check_overlap
from flowzoo.testing.outcome import CheckFailed
from flowzoo_bench.tasks import FadingSquare, Line, ManifoldUnion, SCurve, Sine
from flowzoo_bench.tasks.blurred_interval import blurred_interval


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def even(low, high, count):
    """Midpoints of ``count`` equal cells: (count,)."""
    return low + (high - low) * (torch.arange(count, dtype=torch.float64) + 0.5) / count


def blurred(x, support, log_weight, noise):
    """log of the weighted mean of N(x; support, noise² I), by brute force: (N,)."""
    exponents = [log_weight - (support - row).square().sum(dim=1) / (2 * noise**2) for row in x]
    constant = x.shape[1] / 2 * math.log(2 * math.pi * noise**2)
    return torch.stack([torch.logsumexp(e, dim=0) for e in exponents]) - constant


def normal(t):
    return -0.5 * (t.square() + math.log(2 * math.pi))


@pytest.mark.parametrize(
    ("frequency", "noise"), [(2.0, 0.01), (2.0, 1.0), (0.3, 0.05), (20.0, 0.05), (7.0, 3.0)]
)
def test_blurred_sine_is_brute_force(frequency, noise):
    task = Sine(frequency=frequency, noise=noise)
    far = rows([0, 3.0], [2, -2], [40, 0.5], [-7, 8], [0, 30])
    x = torch.cat([task.splits(0).test[:15], far])
    found = task.log_prob(x)
    for row, value in zip(x, found, strict=True):
        centre, reach = float(row[0]) / (1 + noise**2), math.pi / frequency + 12 * min(noise, 1)
        t = even(centre - reach, centre + reach, 100_000)
        log_weight = normal(t) + math.log(2 * reach / 100_000)
        support = torch.stack([t, (frequency * t).sin()], dim=1)
        expected = blurred(row[None], support, log_weight, noise)
        torch.testing.assert_close(value[None], expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("task", [Line(), Sine(), Sine(frequency=7.5)])
def test_density_along_the_curve_has_mass_one(task):
    t = torch.linspace(-9, 9, 20_001, dtype=torch.float64)[:, None]
    x = task.place(t)
    lengths = (x[1:] - x[:-1]).norm(dim=1)
    middle = task.place((t[1:] + t[:-1]) / 2)
    assert float((task.log_prob(middle).exp() * lengths).sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("period", [0.0, math.pi, -2 * math.pi])
def test_a_row_off_the_sine_is_scored_at_its_nearest_point(period):
    task = Sine()
    t = rows([0.3], [1.2], [-0.7]) + period
    x, slope = task.place(t), 2 * (2 * t).cos()
    across = torch.cat([-slope, torch.ones_like(slope)], dim=1) / (1 + slope**2).sqrt()
    torch.testing.assert_close(task.log_prob(x + 0.05 * across), task.log_prob(x))
    assert not torch.allclose(task.log_prob(x), task.log_prob(x + rows([0.05, 0.0])))


def test_line_is_the_dense_gaussian():
    task = Line(noise=0.1)
    covariance = rows([1.01, 1.0], [1.0, 1.01])
    dense = torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance)
    x = torch.cat([task.splits(0).test[:50], rows([3, -3], [50, 0])])
    torch.testing.assert_close(task.log_prob(x), dense.log_prob(x), rtol=1e-9, atol=1e-9)


def on_sheet(x, noise):
    """log of the mean of N(x; S-curve, noise² I), brute force."""
    found = []
    for row in x:
        t = even(-1.5 * math.pi, 1.5 * math.pi, 200_000)
        arc = torch.stack([t.sin(), t.sign() * (t.cos() - 1)], dim=1)
        w = even(0.0, 2.0, 200_000)
        cell = -math.log(200_000)
        section = blurred(row[None, [0, 2]], arc, cell, noise)
        found.append(section + blurred(row[None, [1]], w[:, None], cell, noise))
    return torch.cat(found)


@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_blurred_s_curve_is_brute_force(noise):
    task = SCurve(noise=noise)
    special = rows([0, 1, 0], [0, 1, 1], [-1, 0, -1], [0, 2.02, -2], [1, 0.5, 1.05], [0, -1, 3])
    x = torch.cat([task.splits(0).test[:4], special])
    torch.testing.assert_close(task.log_prob(x), on_sheet(x, noise), rtol=1e-7, atol=1e-6)


def test_density_on_the_sheet_has_mass_one():
    task = SCurve()
    z = torch.stack([even(-4.7, 4.7, 99), even(0.0, 2.0, 99)], dim=1)
    jacobian = torch.stack([torch.autograd.functional.jacobian(_place(task), row) for row in z])
    area = jacobian.mT @ jacobian
    torch.testing.assert_close(area, torch.eye(2).double().expand(99, 2, 2))  # an isometry
    assert task.log_prob(task.place(z)).exp().mul(3 * math.pi * 2).allclose(torch.ones(99).double())


def _place(task):
    return lambda z: task.place(z[None])[0]


@pytest.mark.parametrize(("square", "noise"), [(1, 0.05), (2, 0.3), (2, 20.0)])
def test_blurred_fading_square_is_brute_force(square, noise):
    task = FadingSquare(side=3, square=square, start=1, noise=noise)
    generator = torch.Generator().manual_seed(0)
    far = torch.randn(8, 9, generator=generator, dtype=torch.float64)
    x = torch.cat([task.splits(0).test[:10], 2 * far])
    images = task.place(even(0.0, 1.0, 200_000)[:, None])
    expected = blurred(x, images, -math.log(200_000), noise)
    torch.testing.assert_close(task.log_prob(x), expected, rtol=1e-8, atol=1e-6)
    assert float(FadingSquare().log_prob(torch.zeros(1, 1024))) == pytest.approx(-math.log(6))


def test_blurred_interval_far_away_and_mirrored():
    x = rows(-5.0, -0.3, 0.0, 0.7, 2.0, 2.4, 8.0)
    expected = blurred(x[:, None], even(0.0, 2.0, 2_000_000)[:, None], -math.log(2e6), 0.1)
    torch.testing.assert_close(blurred_interval(x, 2.0, 0.1), expected, rtol=1e-7, atol=1e-7)
    x = torch.linspace(-60, 62, 301, dtype=torch.float64)
    found = blurred_interval(x, 2.0, 0.1)
    torch.testing.assert_close(found, blurred_interval(2 - x, 2.0, 0.1))
    assert torch.isfinite(found).all()
    away = torch.tensor([-1e160, 1e160, -torch.inf, torch.inf], dtype=torch.float64)
    assert (blurred_interval(away, 2.0, 0.1) == -torch.inf).all()


@pytest.mark.parametrize("options", [{}, {"gap": 0.0, "weight": 0.2, "noise": 0.05}])
def test_blurred_union_is_the_mixture_of_its_parts(options):
    task = ManifoldUnion(**options)
    touching = rows([1, 1, -1], [1.02, 1, -1], [1.5, 0, -0.5], [1.5, 2.1, -0.5], [4, 4, 4])
    x = torch.cat([task.splits(0).test[:6], touching])
    angle = even(0.0, 2 * math.pi, 200_000)
    helix = torch.stack(
        [1.5 + task.gap + angle.cos() / 2, angle / math.pi, angle.sin() / 2 - 1], dim=1
    )
    of_helix = blurred(x, helix, -math.log(200_000), task.noise)
    expected = torch.logaddexp(
        of_helix + math.log(task.weight), on_sheet(x, task.noise) + math.log(1 - task.weight)
    )
    torch.testing.assert_close(task.log_prob(x), expected, rtol=1e-7, atol=1e-6)


TASKS = [
    Sine(noise=0.2),
    Line(noise=0.2),
    SCurve(noise=0.2),
    FadingSquare(side=2, square=1, start=0, noise=0.3),
    ManifoldUnion(noise=0.1, gap=0.3, weight=0.3),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_rows_follow_the_density(task):
    check_overlap(task.log_prob, task.splits(1).train[:5000])


def test_rows_of_another_set_do_not():
    with pytest.raises(CheckFailed):
        check_overlap(TASKS[0].log_prob, Sine(frequency=1.5, noise=0.2).splits(1).train)
    with pytest.raises(CheckFailed):
        check_overlap(TASKS[4].log_prob, ManifoldUnion(noise=0.1, gap=0.3).splits(1).train)


def test_measures():
    for task, dim in ((Sine(), 1), (Line(), 1), (SCurve(), 2), (FadingSquare(), 1)):
        assert task.oracle.measure == Measure("surface", dim=dim)
        assert task.noise_scale is None and task.dimension == dim
        # scaled to unit variance a surface would be stretched, and its density unknown
        assert not task.standardize and task.levels is None and task.logit is None
    for task in TASKS:
        assert task.oracle.measure == LEBESGUE and task.noise_scale == task.noise
    nowhere = ManifoldUnion(noise=0.0)
    assert nowhere.oracle is None
    with pytest.raises(TypeError, match="no known density"):
        nowhere.log_prob(torch.zeros(1, 3))
