"""Spheres of any dimension: Bessel averages, density with and without noise, distance."""

import math

import numpy as np
import pytest
import torch

from flowzoo.testing import run_checks
from flowzoo_bench.tasks import Sphere
from flowzoo_bench.tasks.sphere_average import log_sphere_average


def rows(num, features, seed=0):
    return torch.randn(num, features, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("n", [2, 3, 5, 17, 65, 82, 83, 128, 785])
def test_averages_are_bessel_functions_of_many_digits(n):
    mpmath = pytest.importorskip("mpmath")
    nu = n / 2 - 1
    edges = [4 + nu - 1e-3, 4 + nu + 1e-3, 100 * (1 + nu**2) - 1, 100 * (1 + nu**2) + 1]
    kappas = [1e-8, 0.3, 3.0, 3 * nu + 7, 1e3, 1e6, 1e8, 1e13, *edges]
    got = log_sphere_average(torch.tensor([0.0, *kappas], dtype=torch.float64), n)
    assert float(got[0]) == pytest.approx(0.0, abs=1e-9)
    with mpmath.workdps(30):
        for kappa, value in zip(kappas, got[1:].tolist(), strict=True):
            power = nu * mpmath.log(2 / mpmath.mpf(kappa)) + mpmath.loggamma(nu + 1)
            exact = mpmath.log(mpmath.besseli(nu, kappa)) - kappa + power
            assert value == pytest.approx(float(exact), rel=1e-10, abs=1e-9)


@pytest.mark.parametrize(("dimension", "noise"), [(1, 0.3), (1, 2.0), (2, 0.2), (4, 0.5)])
def test_density_with_noise_is_the_average_of_gaussians(dimension, noise):
    """By Gauss-Jacobi quadrature over the height of u, whose density is (1 - t²)^(d/2 - 1)."""
    special = pytest.importorskip("scipy.special")
    task = Sphere(dimension=dimension, features=dimension + 3, radius=1.5, noise=noise)
    power = dimension / 2 - 1
    nodes, weights = special.roots_jacobi(300, power, power)
    weights = torch.as_tensor(weights / weights.sum())
    x = rows(30, dimension + 3)
    within = (x @ task.frame).norm(dim=1)[:, None]
    squares = x.square().sum(dim=1)[:, None] + 2.25 - 3.0 * within * torch.as_tensor(nodes)
    size = (2 * math.pi * noise**2) ** (-(dimension + 3) / 2)
    expected = (weights * (-squares / (2 * noise**2)).exp()).sum(dim=1) * size
    torch.testing.assert_close(task.log_prob(x), expected.log(), rtol=0, atol=1e-9)


def test_density_with_noise_integrates_to_one():
    task = Sphere(dimension=1, features=2, noise=0.1)
    axis = torch.linspace(-2, 2, 401, dtype=torch.float64)
    mass = float(task.log_prob(torch.cartesian_prod(axis, axis)).exp().sum()) * 0.01**2
    assert mass == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("dimension", "features"), [(1, 3), (4, 16), (16, 64), (100, 128)])
@pytest.mark.parametrize("noise", [0.0, 1e-4, 0.05, 3.0])
def test_rows_have_the_mean_score_of_the_density(dimension, features, noise):
    task = Sphere(dimension=dimension, features=features, noise=noise, num_train=2000)
    x = torch.cat(task.splits(1))
    score = task.log_prob(x)
    assert torch.isfinite(score).all()
    error = float(score.std()) / math.sqrt(len(x)) + 1e-9
    assert float(score.mean()) == pytest.approx(task.expected_log_prob().mean, abs=4 * error)
    if 0 < noise < 1e-3:  # less than the curvature shows
        off = float(task.distance(x).square().mean()) / noise**2
        assert off == pytest.approx(features - dimension, rel=0.1)


def test_thin_shells_approach_the_surface_density():
    """Across the sphere a thin shell is a Gaussian: log p = log p_surface + log N(offset)."""
    task = Sphere(dimension=3, features=128, radius=2.0, noise=2e-4)
    bare = Sphere(dimension=3, features=128, radius=2.0)
    x = task.splits(0).test[:200]
    across = torch.distributions.Normal(0.0, torch.tensor(2e-4).double())
    off = 125 * across.log_prob(torch.zeros(()).double()) - (task.distance(x) / 2e-4) ** 2 / 2
    torch.testing.assert_close(task.log_prob(x), bare.log_prob(x) + off, rtol=0, atol=2e-3)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_surface_density_is_uniform_and_distance_is_to_the_nearest_point(dimension):
    area = {1: 2 * math.pi * 3, 2: 4 * math.pi * 9, 5: math.pi**3 * 3**5}[dimension]
    task = Sphere(dimension=dimension, features=7, radius=3.0)
    x = rows(20, 7)
    np.testing.assert_allclose(task.log_prob(x).exp() * area, 1.0, rtol=1e-12)
    nearest = 3.0 * torch.nn.functional.normalize(x @ task.frame, dim=1) @ task.frame.T
    torch.testing.assert_close(task.distance(x), (x - nearest).norm(dim=1))
    others = torch.cat(task.splits(0))
    assert (torch.cdist(x, others).amin(dim=1) >= task.distance(x) - 1e-12).all()
    assert float(task.distance(others).max()) < 1e-12
    moments = others @ task.frame  # covariance r² / (d + 1) I in the subspace
    expected = 9 / (dimension + 1) * torch.eye(dimension + 1).double()
    torch.testing.assert_close(torch.cov(moments.T), expected, rtol=0, atol=0.25)
    assert torch.linalg.matrix_rank(others) == dimension + 1


@pytest.mark.parametrize("options", [{"features": 9}, {"features": 3, "radius": 1e-3}])
def test_a_sphere_without_noise_passes_the_checks_of_tasks(options):
    small = {"num_train": 500, "num_valid": 200, "num_test": 200, **options}
    report = run_checks("task", "sphere", options=small, deselect=("spec", "import"))
    assert report.ok, report.failures


def test_bad_options():
    for options, name in (
        ({"dimension": 16}, "dimension"),
        ({"dimension": 0}, "dimension"),
        ({"radius": 0.0}, "radius"),
        ({"noise": -1.0}, "noise"),
        ({"manifold_seed": -1}, "seed"),
        ({"num_valid": 0}, "num_valid"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            Sphere(**options)
    assert (Sphere().dimension, Sphere().noise_scale, Sphere(noise=0.1).noise_scale) == (
        2,
        None,
        0.1,
    )
    assert str(Sphere(dimension=3).oracle.measure) == "surface(dim=3)"
