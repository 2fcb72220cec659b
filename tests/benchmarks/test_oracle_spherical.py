"""The true density of the spherical set, on the sphere and with noise."""

from math import pi

import numpy as np
import pytest
import torch

from flowzoo.interfaces.measure import LEBESGUE, Measure
from flowzoo_bench.tasks import Spherical


def sphere(latitudes, longitudes):
    """Midpoint rule in latitude and longitude: points (M, 3) and areas (M,)."""
    polar = (np.arange(latitudes) + 0.5) * pi / latitudes
    turn = (np.arange(longitudes) + 0.5) * 2 * pi / longitudes
    polar, turn = (a.ravel() for a in np.meshgrid(polar, turn, indexing="ij"))
    x = np.stack([np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn), np.cos(polar)], 1)
    return torch.as_tensor(x), torch.as_tensor(
        np.sin(polar) * (pi / latitudes) * (2 * pi / longitudes)
    )


def test_oracle_values():
    assert Spherical().expected_log_prob().mean == pytest.approx(-0.307, abs=0.02)
    assert Spherical(noise=0.01).expected_log_prob().mean == pytest.approx(2.880, abs=0.02)
    assert Spherical().oracle.measure == Measure("surface", dim=2)
    assert Spherical(noise=0.01).oracle.measure == LEBESGUE
    assert Spherical().noise_scale is None


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_mean_score_of_draws_is_the_entropy(noise):
    task = Spherical(noise=noise, num_test=40000)
    values = task.log_prob(task.splits(0).test)
    stderr = float(values.std()) / len(values) ** 0.5
    assert stderr < 0.01
    assert float(values.mean()) == pytest.approx(task.expected_log_prob().mean, abs=4 * stderr)


def test_surface_density_integrates_to_one():
    x, area = sphere(300, 300)
    mass = float((Spherical().log_prob(x).exp() * area).sum())
    assert mass == pytest.approx(1, abs=1e-4)


def test_surface_density_is_that_of_the_draws():
    task = Spherical(num_train=200_000)
    x, area = sphere(300, 300)
    density = task.log_prob(x).exp() * area
    draws = task.splits(0).train
    for axis in torch.tensor([[-0.15, -0.77, 0.94], [0.0, 0, 1], [0.8, -0.6, 0]]).double():
        axis = axis / axis.norm()
        expected = float(density[x @ axis > 0.9].sum())
        share = float((draws @ axis > 0.9).double().mean())
        assert share == pytest.approx(expected, abs=4 * (expected / 200_000) ** 0.5 + 2e-3)


@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_noisy_density_equals_the_convolution(noise):
    task = Spherical(noise=noise)
    x = torch.cat([task.splits(0).test[:20], torch.tensor([[0.0, 0, 0], [3, 0, 0]]).double()])
    y, area = sphere(300, 600)
    surface = task.surface_log_prob(y) + area.log()
    squares = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    expected = torch.logsumexp(surface - squares / (2 * noise**2), dim=1)
    expected -= 1.5 * np.log(2 * pi * noise**2)
    torch.testing.assert_close(task.log_prob(x), expected, rtol=1e-6, atol=1e-4)


def test_noisy_density_integrates_to_one():
    task = Spherical(noise=0.01)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    x, area = sphere(30, 60)
    mass = 0.0
    for node, weight in zip(1 + 0.06 * nodes, 0.06 * weights, strict=True):
        mass += weight * node**2 * float((task.log_prob(node * x).exp() * area).sum())
    assert mass == pytest.approx(1, abs=2e-3)


def test_far_points_stay_finite_and_distance_is_to_the_sphere():
    task = Spherical(noise=0.01)
    x = torch.tensor([[1e-9, 0, 0], [0, 0, 0], [0, 0, -50.0], [1e6, 0, 0]], dtype=torch.float64)
    assert torch.isfinite(task.log_prob(x)).all()
    torch.testing.assert_close(
        task.distance(x), torch.tensor([1 - 1e-9, 1, 49, 1e6 - 1], dtype=torch.float64)
    )
    assert float(Spherical().distance(Spherical().splits(0).test).max()) < 1e-14
