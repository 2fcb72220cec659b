"""Distances to the noiseless curves."""

from math import pi

import numpy as np
import pytest
import torch

from flowzoo_bench.tasks import (
    BentLissajous,
    DisjointCircles,
    Helix,
    InterlockedCircles,
    Knotted,
    Lissajous,
    NonKnotted,
    Star,
    TwistedEight,
)

ALL = [
    Helix,
    Lissajous,
    TwistedEight,
    Knotted,
    InterlockedCircles,
    NonKnotted,
    BentLissajous,
    DisjointCircles,
    Star,
]


def points(num, scale, seed=0):
    return torch.as_tensor(scale * np.random.default_rng(seed).standard_normal((num, 3)))


def test_circles_have_their_closed_form():
    x = points(500, 1.5)
    flat = ((x[:, :2].norm(dim=1) - 1) ** 2 + x[:, 2] ** 2).sqrt()
    upright = (((x[:, [0, 2]] - torch.tensor([1.0, 0])).norm(dim=1) - 1) ** 2 + x[:, 1] ** 2).sqrt()
    got = InterlockedCircles().distance(x)
    torch.testing.assert_close(got, torch.minimum(flat, upright), rtol=0, atol=1e-11)


def test_segments_have_their_closed_form_inside_and_beyond_their_tips():
    x = torch.cat([points(500, 1.0), torch.tensor([[2.0, 0.1, 0], [0.999999, 0, 0]]).double()])
    per_axis = [
        ((x - torch.eye(3).double()[k] * x[:, k : k + 1].clamp(-1, 1)).norm(dim=1))
        for k in range(3)
    ]
    expected = torch.stack(per_axis).amin(dim=0)
    torch.testing.assert_close(Star().distance(x), expected, rtol=0, atol=1e-9)


def test_open_ends_of_the_helix():
    x = torch.tensor([[-2.0, 1, 0], [8 * pi + 0.5, 1, 0]], dtype=torch.float64)
    expected = torch.tensor([2.0, 0.5], dtype=torch.float64)
    got = Helix().distance(x)
    # the end is nearest only if no other part of the first turn is nearer
    assert (got <= expected + 1e-12).all()
    assert float(got[1]) == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("cls", ALL)
def test_points_of_the_curve_are_at_distance_zero(cls):
    task = cls()
    for curve in task.curves:
        theta = torch.linspace(curve.start, curve.stop, 777, dtype=torch.float64)
        assert float(task.distance(curve.position(theta)).max()) < 1e-9


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("scale", [0.7, 5.0])
def test_distance_equals_brute_force(cls, scale):
    task = cls()
    x = points(12, scale, seed=3)
    nearest = []
    for curve in task.curves:
        theta = torch.linspace(curve.start, curve.stop, 400_001, dtype=torch.float64)
        grid = curve.position(theta)
        nearest.append(torch.stack([(grid - row).norm(dim=1).min() for row in x]))
    brute = torch.stack(nearest).amin(dim=0)
    got = task.distance(x)
    assert (got <= brute + 1e-12).all()  # a grid can only be too far
    torch.testing.assert_close(got, brute, rtol=0, atol=2e-7)


def test_mean_distance_of_real_data_is_that_of_two_normal_directions():
    task = InterlockedCircles()
    distance = task.distance(task.splits(0).test)
    expected = task.noise_scale * (pi / 2) ** 0.5  # mean of a Rayleigh variable
    assert float(distance.mean()) == pytest.approx(expected, rel=0.05)
    assert float(distance.max()) < 6 * task.noise_scale


def test_degenerate_point_at_equal_distance_from_everything():
    centre = torch.tensor([[0.0, 0, 0], [0, 0, 3]], dtype=torch.float64)
    got = TwistedEight().distance(centre)
    assert float(got[0]) == pytest.approx(1, abs=1e-12)
    assert TwistedEight().distance(centre[:0]).shape == (0,)


@pytest.mark.parametrize(
    "task",
    [*(cls() for cls in ALL), BentLissajous(printed=True), DisjointCircles(fixed=True)],
    ids=lambda task: type(task).__name__,
)
def test_velocities_are_the_derivatives_of_the_positions(task):
    for curve in task.curves:
        theta = torch.linspace(curve.start, curve.stop, 301, dtype=torch.float64)
        step = 1e-5
        slope = (curve.position(theta + step) - curve.position(theta - step)) / (2 * step)
        torch.testing.assert_close(curve.velocity(theta), slope, rtol=0, atol=1e-8)
