"""KernelDensity: agreement with scikit-learn, cross-validation, storage."""

import math
import warnings

import numpy as np
import pytest
import torch

from flowzoo.dimension import levina_bickel, two_nn
from flowzoo.registry import build
from flowzoo_plugins.baselines import KernelDensity
from flowzoo_plugins.baselines.bandwidth import (
    _folds,
    _grid,
    cross_validated_bandwidth,
    held_out_scores,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def moons(rows=300, seed=0):
    angle = math.pi * torch.rand(rows, generator=generator(seed), dtype=torch.float64)
    x = torch.stack([angle.cos(), angle.sin()], dim=1)
    x[::2] = torch.tensor([1.0, 0.5]) - x[::2]
    return x + 0.1 * torch.randn(rows, 2, generator=generator(seed + 50), dtype=torch.float64)


def fitted(x, seed=0, **options):
    model = KernelDensity(x.shape[1], **options).to(x.dtype)
    model.stages()[0].prepare(x, x[:0], generator(seed))
    return model


@pytest.mark.parametrize("bandwidth", [0.01, 0.3, 5.0])
def test_equals_scikit_learn(bandwidth):
    from sklearn.neighbors import KernelDensity as Reference

    x, test = moons(), moons(seed=1)
    # one leaf, so no tree: with its default leaves scikit-learn is wrong by tens of nats far out
    reference = Reference(bandwidth=bandwidth, leaf_size=len(x)).fit(x.numpy())
    expected = torch.from_numpy(reference.score_samples(test.numpy()))
    found = fitted(x, bandwidth=bandwidth).log_prob(test)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_float32_keeps_its_digits_far_from_the_origin():
    x = (1000 + moons()).float()
    model = fitted(x, bandwidth=0.02)
    double = fitted(x.double(), bandwidth=0.02)
    torch.testing.assert_close(
        model.log_prob(x).double(), double.log_prob(x.double()), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("folds", [None, 2, 7])
def test_held_out_scores_equal_the_definition(folds):
    x = moons(60)
    x[5] = x[6]  # copies share a fold
    bandwidths = _grid(1e-3, 10.0)
    found = held_out_scores(x, bandwidths, folds=folds, rows=1000, generator=generator(3))
    fold = _folds(x, folds, generator(3))
    assert fold[5] == fold[6]
    assert len(fold.unique()) == (59 if folds is None else folds)
    square = torch.cdist(x, x).square().masked_fill(fold[:, None] == fold, torch.inf)
    others = (fold[:, None] != fold).sum(dim=1)
    for h, score in zip(bandwidths, found, strict=True):
        kernels = -square / (2 * h * h) - math.log(2 * math.pi * h * h)
        expected = (torch.logsumexp(kernels, dim=1) - others.log()).mean()
        torch.testing.assert_close(score, expected, rtol=1e-6, atol=1e-6)


def test_scored_rows_are_a_random_subset(monkeypatch):
    x = moons(200)
    bandwidths = _grid(0.05, 1.0)
    monkeypatch.setattr("flowzoo_plugins.baselines.bandwidth._NUMBERS", 1000)  # five rows a chunk
    everything = held_out_scores(x, bandwidths, folds=None, rows=200, generator=generator())
    some = held_out_scores(x, bandwidths, folds=None, rows=50, generator=generator())
    assert not torch.equal(everything, some)
    torch.testing.assert_close(everything, some, rtol=0, atol=0.5)


def test_grid_spans_what_was_asked():
    grid = _grid(1e-3, 10.0)
    assert grid[0] == 10.0
    assert 1e-3 / 2**0.25 < grid[-1] <= 1e-3 * (1 + 1e-9)
    ratios = np.array(grid[1:]) / np.array(grid[:-1])
    np.testing.assert_allclose(ratios, 2**-0.25)


@pytest.mark.parametrize("folds", [None, 5])
def test_the_chosen_bandwidth_is_the_best_on_new_data(folds):
    x, test = moons(500), moons(4000, seed=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fitted(x, folds=folds)
    chosen = float(model.log_prob(test).mean())
    tried = [
        float(fitted(x, bandwidth=float(h)).log_prob(test).mean())
        for h in np.geomspace(0.02, 1.0, 40)
    ]
    assert chosen > max(tried) - 0.02
    assert chosen > tried[0] + 1
    assert chosen > tried[-1] + 0.3


def test_the_parabola_finds_the_vertex_between_grid_points():
    # N(0, I) in 16-D: fine grid against what the coarse grid interpolates to
    x = torch.randn(400, 16, generator=generator(1), dtype=torch.float64)
    h, edge = cross_validated_bandwidth(
        x, grid=(1e-3, 10.0), folds=None, rows=400, generator=generator()
    )
    assert not edge
    fine = [0.4 * 1.01**i for i in range(100)]
    scores = [
        float(held_out_scores(x, [b], folds=None, rows=400, generator=generator())[0]) for b in fine
    ]
    assert h == pytest.approx(fine[int(np.argmax(scores))], rel=0.02)


@pytest.mark.parametrize("grid", [(1.0, 10.0), (1e-3, 5e-3)])
def test_warns_at_the_end_of_the_grid(grid):
    with pytest.warns(RuntimeWarning, match="end of the grid"):
        model = fitted(moons(), grid=grid)
    assert float(model.log_bandwidth.exp()) == pytest.approx(
        grid[0] if grid[0] == 1 else grid[1], rel=0.2
    )


def test_a_duplicated_data_set_chooses_the_same_bandwidth():
    x = moons(150)
    once = float(fitted(x).log_bandwidth)
    thrice = float(fitted(x.repeat(3, 1)).log_bandwidth)
    assert thrice == pytest.approx(once, abs=1e-6)


def test_needs_two_distinct_rows_to_choose():
    for x in (torch.ones(1, 2), torch.ones(30, 2)):
        with pytest.raises(ValueError, match="at least 2 distinct rows"):
            fitted(x)
    assert fitted(torch.tensor([[0.0], [1.0]])).log_bandwidth.isfinite()


def test_sample_moments_at_a_temperature():
    x = moons()
    model = fitted(x, bandwidth=0.5)
    for temperature in (1.0, 2.0):
        draws = model.sample(100_000, temperature=temperature, generator=generator(2))
        expected = torch.cov(x.mT, correction=0) + (0.5 * temperature) ** 2 * torch.eye(2)
        torch.testing.assert_close(torch.cov(draws.mT), expected, rtol=0.03, atol=0.02)
        torch.testing.assert_close(draws.mean(dim=0), x.mean(dim=0), rtol=0, atol=0.02)


def test_state_of_another_size_loads():
    x = moons(40)
    model = fitted(x)
    for fresh in (KernelDensity(2).double(), fitted(moons(7), bandwidth=1.0)):
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(fresh.points, x)
        assert torch.equal(fresh.log_prob(x), model.log_prob(x))
    nested = torch.nn.ModuleList([KernelDensity(2).double()])
    nested.load_state_dict({f"0.{name}": t for name, t in model.state_dict().items()})
    assert torch.equal(nested[0].points, x)
    # loading keeps the module's own dtype, and does not alias the state
    single = KernelDensity(2)
    single.load_state_dict(model.state_dict())
    assert single.points.dtype == torch.float32
    with pytest.raises(RuntimeError, match="Missing key"):
        KernelDensity(2).load_state_dict({"points": x})


def test_does_not_alias_the_training_data():
    x = moons(20)
    model = fitted(x, bandwidth=1.0)
    before = model.log_prob(x[:3].clone())
    probe = x[:3].clone()
    x.zero_()
    assert torch.equal(model.log_prob(probe), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bandwidth": 0.0}, "bandwidth"),
        ({"bandwidth": -1}, "bandwidth"),
        ({"bandwidth": float("nan")}, "bandwidth"),
        ({"bandwidth": "scott"}, "bandwidth"),
        ({"folds": 1}, "folds"),
        ({"grid": (1.0, 0.1)}, "grid"),
        ({"grid": (0.0, 1.0)}, "grid"),
        ({"cv_rows": 0}, "cv_rows"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        KernelDensity(2, **options)


def test_is_built_from_toml_data():
    model = build("mixture", "kde", features=2, grid=[0.01, 1], folds=5)
    assert model.grid == (0.01, 1)


# --- dimension ---------------------------------------------------------------------------------


def union(rows=400):
    """A line and, far from it, a disc, in R^3."""
    z = torch.randn(rows, 3, generator=generator(), dtype=torch.float64)
    line = z * torch.tensor([1.0, 0.0, 0.0])
    disc = z * torch.tensor([1.0, 1.0, 0.0]) + torch.tensor([0.0, 0.0, 50.0])
    return line[: rows // 2], disc[rows // 2 :]


def test_dimension_is_that_of_the_rows():
    x = moons(500) @ torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    for options, expected in (
        ({}, 1 / (1 / levina_bickel(x, 20)).mean()),
        ({"neighbours": 7}, 1 / (1 / levina_bickel(x, 7)).mean()),
        ({"dimension": "two-nn"}, two_nn(x)),
    ):
        found = [float(fitted(x, bandwidth=h, **options).intrinsic_dimension()) for h in (0.1, 2.0)]
        assert found == [pytest.approx(float(expected))] * 2
        assert abs(found[0] - 2) < 0.35


def test_dimension_is_at_most_that_of_the_space():
    x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None].sqrt()
    assert two_nn(x) > 1
    found = fitted(x, bandwidth=0.1, dimension="two-nn").intrinsic_dimension()
    assert float(found) == 1


@pytest.mark.parametrize("options", [{}, {"dimension": "two-nn"}], ids=["levina-bickel", "two-nn"])
def test_rows_on_a_lattice_have_no_dimension(options):
    lattice = torch.eye(30, dtype=torch.float64)  # all equally far
    with pytest.raises(ValueError, match=r"points: .* as in rounded data"):
        fitted(lattice, bandwidth=0.1, **options).intrinsic_dimension()


def test_rounded_rows_are_said_to_be_so():
    rounded = torch.arange(400, dtype=torch.float64).remainder(2)[:, None] * torch.ones(1, 2)
    with pytest.warns(RuntimeWarning, match="of 400 of 400 rows are equally far, as in rounded"):
        found = fitted(rounded, bandwidth=0.1).local_dimension(rounded)
    assert bool(found.isposinf().all())
    with pytest.raises(ValueError, match="rounded"):
        fitted(rounded, bandwidth=0.1).intrinsic_dimension()
    some = torch.cat([rounded, moons(200) + 50.0])
    with pytest.warns(RuntimeWarning, match="of 400 of 600 rows are equally far"):
        mixed = fitted(some, bandwidth=0.1).intrinsic_dimension()
    local = levina_bickel(some, 20)
    assert float(mixed) == min(2.0, float(1 / (1 / local).mean()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(moons(), bandwidth=0.1).local_dimension(moons(20))


def test_local_dimension_tells_a_curve_from_a_surface():
    line, disc = union()
    model = fitted(torch.cat([line, disc]), bandwidth=0.1)
    for x, dim in ((line, 1.0), (disc, 2.0), (line + 1e-3, 1.0)):
        local = model.local_dimension(x)
        assert local.shape == (200,)
        assert 1 / float((1 / local).mean()) == pytest.approx(dim, rel=0.15)
    # a stored row does not count as its own neighbour
    x = torch.cat([line, disc])
    torch.testing.assert_close(model.local_dimension(x), levina_bickel(x, 20), rtol=1e-12, atol=0)
    assert model.float().local_dimension(line.float()).dtype == torch.float32


def test_options_of_the_dimension_are_checked():
    with pytest.raises(ValueError, match="dimension: expected one of"):
        KernelDensity(2, dimension="correlation")
    with pytest.raises(ValueError, match="neighbours: expected at least 2"):
        KernelDensity(2, neighbours=1)
    with pytest.raises(ValueError, match="expected at least 21 rows"):
        fitted(moons(20), bandwidth=0.1).intrinsic_dimension()
    with pytest.raises(ValueError, match="x: expected shape"):
        fitted(moons(40), bandwidth=0.1).local_dimension(torch.zeros(3, 5))
