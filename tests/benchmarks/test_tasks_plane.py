"""Generators, splits, labels, distances and bad input of the five sets in the plane."""

from math import pi

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from flowzoo_bench.tasks import Checkerboard, EightGaussians, Rings, TwoSpirals, TwoUniforms

ALL = [TwoUniforms, Checkerboard, EightGaussians, Rings, TwoSpirals]
PARTS = {TwoUniforms: 2, Checkerboard: 8, EightGaussians: 8, Rings: 4, TwoSpirals: 2}
NOISE = {EightGaussians: 0.5 / 1.414, Rings: 0.08, TwoSpirals: 0.1}


def two_uniforms(num, rng):
    right = rng.random(num) > 0.5
    return np.stack([rng.random(num) + np.where(right, 1, -2), 2 * rng.random(num) - 1], axis=1)


def checkerboard(num, rng):
    x1 = 4 * rng.random(num) - 2
    x2 = rng.random(num) - 2 * rng.integers(2, size=num) + np.floor(x1) % 2
    return 2 * np.stack([x1, x2], axis=1)


def eight_gaussians(num, rng):
    angle = rng.integers(8, size=num) * pi / 4
    centre = 4 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (centre + 0.5 * rng.standard_normal((num, 2))) / 1.414


def rings(num, rng):
    radius = 3 * np.array([1, 0.75, 0.5, 0.25])[rng.integers(4, size=num)]
    angle = 2 * pi * rng.random(num)
    circle = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return circle + 0.08 * rng.standard_normal((num, 2))


def two_spirals(num, rng):
    t = np.sqrt(rng.random(num)) * 540 * 2 * pi / 360
    x = np.stack(
        [-t * np.cos(t) + 0.5 * rng.random(num), t * np.sin(t) + 0.5 * rng.random(num)], axis=1
    )
    sign = 2 * rng.integers(2, size=num) - 1
    return sign[:, None] * x / 3 + 0.1 * rng.standard_normal((num, 2))


WRITTEN = {
    TwoUniforms: two_uniforms,
    Checkerboard: checkerboard,
    EightGaussians: eight_gaussians,
    Rings: rings,
    TwoSpirals: two_spirals,
}


def alike(x, y):
    """Smallest p-value of Kolmogorov's test over columns, products, radius and a projection."""
    views = [
        lambda z: z[:, 0],
        lambda z: z[:, 1],
        lambda z: np.hypot(z[:, 0], z[:, 1]),
        lambda z: np.arctan2(z[:, 1], z[:, 0]),
        lambda z: z[:, 0] * z[:, 1],
        lambda z: z[:, 0] + 0.3 * z[:, 1],
        lambda z: np.sin(pi / 2 * z[:, 0]) * np.sin(pi / 2 * z[:, 1]),
    ]
    return min(ks_2samp(view(x), view(y)).pvalue for view in views)


@pytest.mark.parametrize("cls", ALL)
def test_rows_are_draws_of_the_written_generator(cls):
    x = torch.cat(cls(num_train=40_000).splits(7)).numpy()
    rng = np.random.default_rng(2)
    assert alike(x, WRITTEN[cls](40_000, rng)) > 1e-3
    others = [WRITTEN[other](40_000, rng) for other in ALL if other is not cls]
    assert all(alike(x, other) < 1e-6 for other in others)


@pytest.mark.parametrize("cls", ALL)
def test_splits_depend_on_the_seed_alone_and_share_no_rows(cls):
    task = cls()
    first, again, other = task.splits(5), cls().splits(5), task.splits(6)
    assert [len(x) for x in first] == [10_000, 1_000, 5_000]
    for x, y, z in zip(first, again, other, strict=True):
        assert x.dtype == torch.float64 and x.shape[1] == task.features == 2
        assert torch.equal(x, y)
        assert not torch.equal(x, z)
    rows = torch.cat([*first, *other])
    assert len(rows.unique(dim=0)) == len(rows)
    assert task.standardize is False
    small = cls(num_train=7, num_valid=5, num_test=3).splits(0)
    assert [len(x) for x in small] == [7, 5, 3]


@pytest.mark.parametrize("cls", ALL)
def test_rows_are_independent_in_any_order(cls):
    """No pairs of mirrored rows, as the known spirals are; no order to cut splits by."""
    train = cls().splits(0).train
    for x in (train, train - train.mean(dim=0)):
        near = torch.cat([(x[1:] * x[:-1]).sum(dim=1), (x[5000:] * x[:5000]).sum(dim=1)])
        assert abs(float(near.mean() / near.std())) * len(near) ** 0.5 < 4
    labels = cls().labels(0)
    share = torch.full((PARTS[cls],), 1 / PARTS[cls])
    for part in labels:
        counts = torch.bincount(part, minlength=PARTS[cls]) / len(part)
        torch.testing.assert_close(counts, share, rtol=0, atol=4 * (share[0] / len(part)) ** 0.5)


@pytest.mark.parametrize("cls", ALL)
def test_splits_leave_global_random_state_alone(cls):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    cls().splits(0)
    cls().labels(0)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()


@pytest.mark.parametrize("seed", [0, 3])
def test_labels_name_the_part_that_a_row_is_of(seed):
    def both(cls):
        task = cls()
        return task.splits(seed).test, task.labels(seed).test

    x, part = both(TwoUniforms)
    assert torch.equal(part, (x[:, 0] > 0).long())
    x, part = both(Checkerboard)
    column, row = (x[:, 0] / 2).floor().long() + 2, (x[:, 1] / 2).floor().long() + 2
    assert torch.equal(part // 2, column) and torch.equal(part % 2, row // 2)
    x, part = both(EightGaussians)
    nearest = (torch.atan2(x[:, 1], x[:, 0]) / (pi / 4)).round().long() % 8
    assert float((nearest == part).double().mean()) > 0.995
    x, part = both(Rings)
    radii = torch.tensor([3, 2.25, 1.5, 0.75]).double()
    nearest = (x.norm(dim=1, keepdim=True) - radii).abs().argmin(dim=1)
    assert float((nearest == part).double().mean()) > 0.999
    x, part = both(TwoSpirals)
    for index, sign in enumerate((1, -1)):  # outer ends
        tip = (x - sign * torch.tensor([pi + 1 / 12, 0.1]).double()).norm(dim=1) < 0.2
        assert int(tip.sum()) > 10 and (part[tip] == index).all()


@pytest.mark.parametrize("cls", ALL)
def test_what_the_task_says_of_its_noise(cls):
    task = cls()
    assert task.noise_scale == NOISE.get(cls)
    x = task.splits(0).test
    distance = task.distance(x)
    if cls not in NOISE:
        assert not distance.any()
    elif cls is EightGaussians:  # a Rayleigh variable
        assert float(distance.mean()) == pytest.approx(NOISE[cls] * (pi / 2) ** 0.5, rel=0.03)
    elif cls is Rings:
        assert float(distance.mean()) == pytest.approx(NOISE[cls] * (2 / pi) ** 0.5, rel=0.03)
    else:
        assert 0.1 < float((distance == 0).double().mean()) < 0.9
        assert float(distance.max()) < 5 * NOISE[cls]
    known = {TwoUniforms: 2, Checkerboard: 2, Rings: 1}
    assert task.dimension == known.get(cls)


def points(num=60, scale=3.0):
    return torch.as_tensor(scale * np.random.default_rng(4).standard_normal((num, 2)))


def nearest(x, support):
    return torch.stack([(support - row).norm(dim=1).min() for row in x])


def support(cls):
    """Many points of the set without its noise, no gap above 0.02."""
    unit = torch.linspace(0, 1, 101, dtype=torch.float64)
    square = torch.cartesian_prod(unit, unit)
    if cls is TwoUniforms:
        box = square * torch.tensor([1.0, 2.0]) - torch.tensor([0.0, 1.0])
        return torch.cat([box + torch.tensor([1.0, 0.0]), box - torch.tensor([2.0, 0.0])])
    if cls is Checkerboard:
        corners = [(a, b) for a in range(-4, 4, 2) for b in range(-4, 4, 2) if (a + b) % 4 == 0]
        assert len(corners) == 8
        return torch.cat([2 * square + torch.tensor(corner) for corner in corners])
    if cls is EightGaussians:
        angle = torch.arange(8).double() * pi / 4
        return 4 / 1.414 * torch.stack([angle.cos(), angle.sin()], dim=1)
    if cls is Rings:
        angle = torch.linspace(0, 2 * pi, 20_001, dtype=torch.float64)
        circle = torch.stack([angle.cos(), angle.sin()], dim=1)
        return torch.cat([radius * circle for radius in (3, 2.25, 1.5, 0.75)])
    t = torch.linspace(0, 3 * pi, 3001, dtype=torch.float64)
    curve = torch.stack([-t * t.cos(), t * t.sin()], dim=1)
    cell = torch.cartesian_prod(unit[::10], unit[::10]) / 2
    swept = (curve[:, None] + cell).reshape(-1, 2) / 3
    return torch.cat([swept, -swept])


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("scale", [0.3, 3.0, 50.0])
def test_distance_equals_brute_force(cls, scale):
    x, known = points(scale=scale), support(cls)
    brute, got = nearest(x, known), cls().distance(x)
    assert (got <= brute + 1e-9).all()  # a grid can only be too far
    torch.testing.assert_close(got, brute, rtol=0, atol=0.02)
    assert float(cls().distance(known[::97]).max()) < 1e-7


def test_distance_to_the_swept_spirals_is_exact():
    x = torch.cat([points(100), points(20, 0.2), points(20, 40.0)])
    t = torch.linspace(0, 3 * pi, 400_001, dtype=torch.float64)
    curve = torch.stack([-t * t.cos(), t * t.sin()], dim=1) / 3
    found = []
    for row in x:
        both = [point - curve for point in (row, -row)]
        outside = [(beyond - beyond.clamp(0, 1 / 6)).norm(dim=1).min() for beyond in both]
        found.append(min(outside))
    brute, got = torch.stack(found), TwoSpirals().distance(x)
    assert (got <= brute + 1e-12).all()
    torch.testing.assert_close(got, brute, rtol=0, atol=1e-4)
    apart = brute > 0.01  # there a step of the grid is an error of second order
    torch.testing.assert_close(got[apart], brute[apart], rtol=0, atol=1e-6)


def test_spirals_start_at_a_square_and_mirror_each_other():
    task = TwoSpirals()
    x = torch.cat(task.splits(0))[:2000]
    assert torch.equal(task.distance(x), task.distance(-x))
    torch.testing.assert_close(task.log_prob(x), task.log_prob(-x))
    middle = torch.tensor([[0.0, 0.0], [1 / 6, 1 / 6], [0.1, 0.1]], dtype=torch.float64)
    assert float(task.distance(middle).max()) < 1e-12
    # from the last corner that the curve reaches
    tip = torch.tensor([[pi + 1 / 6 + 0.3, -0.4]], dtype=torch.float64)
    assert float(task.distance(tip)) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize(
    ("option", "value"), [("num_train", 0), ("num_valid", -1), ("num_test", 2.5)]
)
def test_bad_options_are_named(cls, option, value):
    with pytest.raises(ValueError, match=option):
        cls(**{option: value})


@pytest.mark.parametrize("cls", ALL)
def test_bad_seeds_and_rows_are_named(cls):
    task = cls()
    for draw in (task.splits, task.labels):
        with pytest.raises(ValueError, match="seed"):
            draw(-1)
    for call in (task.log_prob, task.distance):
        with pytest.raises(ValueError, match=r"\(N, 2\)"):
            call(torch.zeros(4, 3))
        with pytest.raises(ValueError, match="floating"):
            call(torch.zeros(4, 2, dtype=torch.int64))
        with pytest.raises(ValueError, match="1 of 2 rows"):
            call(torch.tensor([[0.0, 0], [float("nan"), 0]]))
        with pytest.raises(TypeError):
            call([[0.0, 0]])
