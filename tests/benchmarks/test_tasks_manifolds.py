"""Linear and curved manifolds of known dimension: density, distance, moments, curvature."""

import math

import pytest
import torch

from flowzoo_bench.tasks import CurvedManifold, Helix, LinearManifold, Spherical
from flowzoo_bench.tasks.wave_distance import squared_distance_to_wave

BOTH = [LinearManifold, CurvedManifold]
SHAPES = [(1, 16), (4, 16), (16, 16), (1, 64), (16, 64)]


def rows(num, features, seed=0):
    return torch.randn(num, features, generator=torch.Generator().manual_seed(seed)).double()


def pushed_forward(task, y):
    """x, and log p(x) from the density of y and the Jacobian of y -> x, by autograd."""

    def forward(row):
        return (task._bend(row[None]) @ task.rotation.T)[0]

    variance = torch.full((task.features,), task.noise**2, dtype=torch.float64)
    variance[: task.dimension] += task.spread**2
    base = torch.distributions.Normal(0.0, variance.sqrt()).log_prob(y).sum(dim=1)
    jacobian = torch.stack([torch.autograd.functional.jacobian(forward, row) for row in y])
    return torch.stack([forward(row) for row in y]), base - jacobian.slogdet().logabsdet


@pytest.mark.parametrize(("dimension", "features"), SHAPES)
def test_linear_density_is_the_dense_gaussian(dimension, features):
    task = LinearManifold(dimension=dimension, features=features, noise=0.1)
    loading = task.place(torch.eye(dimension)).T
    covariance = loading @ loading.T + 0.01 * torch.eye(features).double()
    dense = torch.distributions.MultivariateNormal(torch.zeros(features).double(), covariance)
    for x in (rows(50, features), task.splits(0).test[:50]):
        torch.testing.assert_close(task.log_prob(x), dense.log_prob(x), rtol=1e-9, atol=1e-8)
    assert task.expected_log_prob().mean == pytest.approx(-float(dense.entropy()), abs=1e-8)


@pytest.mark.parametrize(("dimension", "features"), [(1, 2), (2, 5), (3, 3)])
def test_curved_density_is_the_push_forward(dimension, features):
    task = CurvedManifold(dimension=dimension, features=features, noise=0.2)
    x, log_prob = pushed_forward(task, rows(20, features))
    torch.testing.assert_close(task.log_prob(x), log_prob, rtol=0, atol=1e-9)


@pytest.mark.parametrize("cls", BOTH)
def test_density_integrates_to_one(cls):
    task = cls(dimension=1, features=2, noise=0.2)
    axis = torch.linspace(-6, 6, 801).double()
    grid = torch.cartesian_prod(axis, axis)
    mass = float(task.log_prob(grid).exp().sum()) * (12 / 800) ** 2
    assert mass == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize(("dimension", "features"), SHAPES)
def test_rows_have_the_closed_forms_mean_score(cls, dimension, features):
    task = cls(dimension=dimension, features=features)
    score = task.log_prob(torch.cat(task.splits(3)))
    # -1/2 chi-square of D degrees of freedom: variance D / 2
    error = math.sqrt(features / 2 / len(score))
    assert float(score.mean()) == pytest.approx(task.expected_log_prob().mean, abs=4 * error)
    assert float(score.std()) == pytest.approx(math.sqrt(features / 2), rel=0.05)


@pytest.mark.parametrize(("dimension", "features"), SHAPES)
def test_linear_rows_have_the_planes_spectrum(dimension, features):
    task = LinearManifold(dimension=dimension, features=features)
    std = torch.linalg.eigvalsh(torch.cov(task.splits(0).train.T)).flip(0).sqrt()
    spread = torch.linspace(2.0, 0.5, dimension).double() if dimension > 1 else torch.ones(1)
    torch.testing.assert_close(std[:dimension], spread.double(), rtol=0.05, atol=0)
    if dimension < features:
        torch.testing.assert_close(
            std[dimension:],
            torch.full((features - dimension,), 0.05, dtype=torch.float64),
            rtol=0.1,
            atol=0,
        )


@pytest.mark.parametrize("dimension", [1, 2, 4, 8, 16])
def test_curved_rows_span_more_than_the_manifold(dimension):
    task = CurvedManifold(dimension=dimension, features=64)
    std = torch.linalg.eigvalsh(torch.cov(task.splits(0).train.T)).flip(0).sqrt()
    assert (std[: 2 * dimension] > 4 * task.noise).all()  # d + d directions, not d
    assert (std[2 * dimension :] < 1.2 * task.noise).all()


def test_curved_manifold_has_its_dimension():
    task = CurvedManifold(dimension=3, features=12)
    jacobian = torch.autograd.functional.jacobian(
        lambda z: task.place(z[None])[0], torch.tensor([0.3, -0.2, 0.5]).double()
    )
    assert jacobian.shape == (12, 3)
    assert (torch.linalg.svdvals(jacobian) >= 1 - 1e-12).all()  # a graph stretches
    spread = LinearManifold(dimension=3, features=12)
    plane = spread.place(torch.eye(3))
    torch.testing.assert_close(plane.norm(dim=1), torch.tensor([0.5, 1.25, 2.0]).double())


def test_curved_manifold_without_room_is_a_round_gaussian():
    task = CurvedManifold(dimension=4, features=4, noise=0.3)
    normal = torch.distributions.Normal(0.0, math.sqrt(1.09))
    x = rows(20, 4)
    torch.testing.assert_close(task.log_prob(x), normal.log_prob(x).sum(dim=1))


def test_distance_to_the_plane():
    task = LinearManifold(dimension=3, features=7)
    on = task.place(rows(30, 3))
    assert float(task.distance(on).max()) < 1e-12
    basis = task.place(torch.eye(3)).T  # (7, 3)
    x = rows(30, 7)
    residual = x - (basis @ torch.linalg.lstsq(basis, x.T).solution).T
    torch.testing.assert_close(task.distance(x), residual.norm(dim=1))
    test = task.splits(0).test
    assert float(task.distance(test).square().mean()) == pytest.approx(4 * 0.05**2, rel=0.1)
    assert task.distance(x[:0]).shape == (0,)


# -- without noise --------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize(("dimension", "features"), [(1, 2), (2, 5), (3, 4), (2, 9)])
def test_surface_density_is_the_push_forward_of_the_coordinates(cls, dimension, features):
    task = cls(dimension=dimension, features=features, noise=0)
    z = rows(10, dimension)
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda r: task.place(r[None])[0], row) for row in z]
    )
    volume = 0.5 * torch.logdet(jacobian.mT @ jacobian)
    normal = torch.distributions.Normal(0.0, torch.tensor(1.0).double())
    expected = normal.log_prob(z).sum(dim=1) - volume
    torch.testing.assert_close(task.log_prob(task.place(z)), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("amplitude", [1.0, 4.0])
def test_density_against_arc_length_has_mass_one_and_its_mean_score(amplitude):
    task = CurvedManifold(dimension=1, features=3, noise=0, amplitude=amplitude)
    z = torch.linspace(-9, 9, 20001, dtype=torch.float64)[:, None]
    points = task.place(z)
    length = (points[1:] - points[:-1]).norm(dim=1)  # chords: second order in the step
    score = task.log_prob(task.place((z[1:] + z[:-1]) / 2))
    assert float((length * score.exp()).sum()) == pytest.approx(1.0, abs=1e-6)
    mean = float((length * score.exp() * score).sum())
    assert task.expected_log_prob().mean == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize(("dimension", "features"), [(1, 16), (4, 16), (12, 16), (16, 16)])
def test_rows_without_noise_are_on_the_manifold_and_have_its_mean_score(cls, dimension, features):
    task = cls(dimension=dimension, features=features, noise=0)
    x = torch.cat(task.splits(3))
    assert float(task.distance(x).max()) < 1e-12
    score = task.log_prob(x)
    error = float(score.std()) / math.sqrt(len(score))
    assert float(score.mean()) == pytest.approx(task.expected_log_prob().mean, abs=4 * error)
    assert task.noise_scale is None
    whole = dimension == features
    assert str(task.oracle.measure) == ("lebesgue" if whole else f"surface(dim={dimension})")


@pytest.mark.parametrize("amplitude", [0.5, 6.0])
@pytest.mark.parametrize(("dimension", "features"), [(1, 3), (2, 3), (2, 5)])
def test_distance_to_the_waves_is_the_least_over_a_grid(dimension, features, amplitude):
    task = CurvedManifold(dimension=dimension, features=features, noise=0, amplitude=amplitude)
    x = 4.0 * rows(12, features)
    axis = torch.linspace(-30, 30, 60001).double() if dimension == 1 else None
    if axis is None:
        fine = torch.linspace(-24, 24, 401).double()
        points = task.place(torch.cartesian_prod(fine, fine))
        least, step = torch.cdist(x, points).amin(dim=1), 0.12
    else:
        least, step = torch.cdist(x, task.place(axis[:, None])).amin(dim=1), 0.001
    distance = task.distance(x)
    assert (distance <= least + 1e-12).all()
    # the next grid point is this far along the surface at most
    reach = step / 2 * math.sqrt(dimension * (1 + (1.25 * amplitude) ** 2))
    assert (distance >= least - reach).all()


def test_distance_to_a_wave_is_the_best_of_many_searches():
    optimize = pytest.importorskip("scipy.optimize")
    phase, height = 9.0 * rows(1, 40)[0], 3.0 * rows(1, 40, seed=1)[0]
    frequency = torch.tensor(1.2).double()
    for amplitude in (0.3, 2.0, 9.0):
        got = squared_distance_to_wave(phase, height, amplitude=amplitude, frequency=frequency)
        for theta, h, value in zip(phase.tolist(), height.tolist(), got.tolist(), strict=True):

            def f(t, theta=theta, h=h, a=amplitude):
                return (t - theta) ** 2 / 1.44 + (h - a * math.cos(t)) ** 2

            starts = [theta + step for step in (-4, -3, -2, -1, 0, 1, 2, 3, 4)]
            found = min(
                optimize.minimize_scalar(f, bounds=(s - 1, s + 1), method="bounded").fun
                for s in starts
            )
            # the search is to 1e-5 in theta, where f is level
            assert found - 1e-6 * (1 + found) <= value <= found + 1e-12


GOLDEN = {
    LinearManifold: [
        -0.07247056342582635,
        -0.2825854227103846,
        0.4678157957121733,
        65549.64033324504,
        19.54371492395373,
        17.86087646636721,
    ],
    CurvedManifold: [
        0.21767364090104083,
        -0.08392229859631493,
        -0.005285961737826339,
        47074.768412003425,
        19.564186257588098,
        17.811706014211943,
    ],
}


@pytest.mark.parametrize("cls", BOTH)
def test_rows_and_scores_stay_those_of_earlier_results(cls):
    task = cls()
    x = torch.cat(task.splits(2))
    got = [*x[0, :3].tolist(), float(x.square().sum()), *task.log_prob(x)[:2].tolist()]
    assert got == pytest.approx(GOLDEN[cls], rel=1e-9)


@pytest.mark.parametrize("cls", BOTH)
def test_the_manifold_is_the_options_not_the_replicates(cls):
    task, again, other = cls(), cls(), cls(manifold_seed=1)
    z = rows(5, 2)
    assert torch.equal(task.place(z), again.place(z))
    assert not torch.equal(task.place(z), other.place(z))
    assert torch.equal(task.splits(4).train, again.splits(4).train)
    first, second = task.splits(4), task.splits(5)
    assert not torch.equal(first.train, second.train)
    # rows of another replicate are draws of the same density
    assert float(task.log_prob(second.test).mean()) > float(other.log_prob(second.test).mean())
    assert [len(x) for x in first] == [10000, 2500, 2500]


def test_what_tasks_say_of_themselves():
    assert (LinearManifold().dimension, LinearManifold().noise_scale) == (2, 0.05)
    assert CurvedManifold(dimension=16).noise_scale is None  # no row is off R^D
    assert (Helix().dimension, Spherical().dimension) == (1, 2)
    assert not LinearManifold().standardize  # the noise must stay round


@pytest.mark.parametrize("cls", BOTH)
def test_bad_options(cls):
    for options, name in (
        ({"dimension": 17}, "dimension"),
        ({"dimension": 0}, "dimension"),
        ({"features": 0}, "features"),
        ({"noise": -1.0}, "noise"),
        ({"manifold_seed": -1}, "seed"),
        ({"num_train": 0}, "num_train"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            cls(**options)
    for amplitude in (0.0, math.inf, True):
        with pytest.raises(ValueError, match=r"^amplitude: expected"):
            CurvedManifold(amplitude=amplitude)
    with pytest.raises(ValueError, match=r"^z: expected"):
        cls().place(rows(3, 16))
