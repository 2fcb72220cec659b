"""Spread flows: density, manifold, dimension."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import jacrev, vmap

from flowzoo.dimension import rank_of_spectrum
from flowzoo.training import TrainingWarning, fit
from flowzoo_plugins.spread_flows.dimension import rank_around, rank_of_rows
from flowzoo_plugins.spread_flows.flow import SpreadFlow
from flowzoo_plugins.spread_flows.geometry import pushed_lengths
from spread_models import (
    CURVED,
    F64,
    GIN,
    NICE,
    REALNVP,
    Diagonal,
    Shell,
    generator,
    line_and_plane,
    model_of,
    rows,
    sine,
    squeezed_line,
)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# a curve in the plane -----------------------------------------------------------------------------


def trained(**objective):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"steps": 250, "batch_size": 200, "lr": 1e-2, "schedule": "cosine"}
        model = model_of(CURVED, noise=0.05, training=options, **objective)
        fit(model, sine(2000), sine(200, 1), seed=0)
    return model.eval()


@pytest.fixture(scope="module")
def curve():
    return trained(spread="data")


def test_a_curve_has_dimension_one(curve):
    found = curve.spectrum_rank()
    dimensions = (curve.intrinsic_dimension(), curve.spectrum_rank().dimension, curve.kept)
    assert [int(each) for each in dimensions] == [1, 1, 1]
    assert float(found.margin) > 0.3
    assert (curve.local_dimension(sine(300, 5)) == 1).double().mean() > 0.95


def test_training_without_the_entropy_squeezes_the_curve():
    """The same net, rows and steps on noisy codes, with the entropy of the batch and without."""
    kept, dropped = (trained(entropy=entropy).spectrum() for entropy in ("kde", "drop"))
    assert float(dropped[0]) < 0.4 * float(kept[0])


@pytest.fixture(scope="module")
def grid():
    across, up = torch.linspace(-6.0, 6.0, 601).double(), torch.linspace(-4.0, 4.0, 401).double()
    return torch.cartesian_prod(across, up), 0.02 * 0.02


def test_density_integrates_to_one_and_draws_follow_it(curve, grid):
    points, area = grid
    with torch.no_grad():
        log_density = torch.cat([curve.log_prob(part) for part in points.split(60_000)])
    share = log_density.exp() * area
    assert float(share.sum()) == pytest.approx(1.0, abs=2e-3)
    draws = curve.sample(20_000, generator=generator())
    scores = curve.log_prob(draws).detach()
    error = float(scores.std()) / math.sqrt(len(draws))
    assert float(scores.mean()) == pytest.approx(
        float((share * log_density).sum()), abs=5 * error + 5e-3
    )
    cells = (points / 0.5).round()
    for cell in torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [-1.0, -2.0]], dtype=F64):
        expected = float(share[(cells == cell).all(dim=1)].sum())
        found = float(((draws / 0.5).round() == cell).all(dim=1).double().mean())
        assert found == pytest.approx(expected, abs=5 * math.sqrt(expected / len(draws)) + 2e-3)
    both = curve.sample_and_log_prob(5, generator=generator())
    torch.testing.assert_close(both[1], curve.log_prob(both[0]))


def test_manifold_density_integrates_to_one_along_the_curve(curve):
    part = curve.atlas().parts[0]
    reach = 8.0 * float(part.eigenvalues()[0].detach().sqrt())
    coordinates = torch.linspace(-reach, reach, 4001, dtype=F64)[:, None]
    with torch.no_grad():
        x = curve._decode_rows(part.place(coordinates))
        density = curve.log_prob(x, evaluation="manifold").exp()
    arcs = (x[1:] - x[:-1]).norm(dim=1)
    mass = (0.5 * (density[1:] + density[:-1]) * arcs).sum()
    assert mass.item() == pytest.approx(1.0, abs=1e-3)
    torch.testing.assert_close(curve.embed(x), coordinates, atol=1e-8, rtol=1e-8)


def test_reconstructions_and_draws_without_noise_lie_on_the_curve(curve):
    x = curve.reconstruct(rows(50))
    torch.testing.assert_close(curve.reconstruct(x), x)
    bare = curve.sample(50, noise_scale=0.0, generator=generator())
    torch.testing.assert_close(curve.reconstruct(bare), bare)
    noisy = curve.sample(50, generator=generator())
    assert bool(((curve.reconstruct(noisy) - noisy).norm(dim=1) > 1e-4).any())
    away = (curve.reconstruct(sine(200, 7)) - sine(200, 7)).norm(dim=1).detach()
    assert float(away.median()) < 0.05


def test_a_manifold_of_another_dimension_can_be_asked_for(curve):
    x = rows(40)
    torch.testing.assert_close(curve.reconstruct(x, dimension=2), x)
    assert torch.equal(curve.reconstruct(x, dimension=1), curve.reconstruct(x))
    codes = [curve.codes(y) for y in (x, curve.reconstruct(x, dimension=0))]
    torch.testing.assert_close(codes[1], curve.prior.mean.expand_as(x))
    assert [curve.embed(x, k).shape[1] for k in (0, 1, 2)] == [0, 1, 2]
    about = codes[0] - curve.prior.mean
    torch.testing.assert_close(curve.embed(x, 2).norm(dim=1), about.norm(dim=1))
    bare = curve.sample(4000, noise_scale=0.0, dimension=2, generator=generator())
    prior = curve.atlas().parts[0]
    spread = curve.codes(bare) - prior.mean
    expected = (prior.covariance().detach() - prior.noise_std**2 * torch.eye(2)).double()
    found = (spread.mT @ spread / 4000).detach()
    assert float((found - expected).norm() / expected.norm()) < 0.1
    with pytest.raises(ValueError, match="dimension: expected 0 to 2, got 3"):
        curve.reconstruct(x, dimension=3)


def test_the_dimension_is_saved_with_the_model(curve):
    fresh = model_of(CURVED, noise=0.05)
    assert set(fresh.evaluations) == {"exact", "manifold"} and int(fresh.kept) == 2
    fresh.load_state_dict(curve.state_dict())
    assert int(fresh.kept) == 1
    x = rows(9)
    assert fresh.evaluations["manifold"].measure == curve.evaluations["manifold"].measure
    for name in ("exact", "manifold"):
        assert torch.equal(fresh.log_prob(x, evaluation=name), curve.log_prob(x, evaluation=name))
    assert torch.equal(fresh.reconstruct(x), curve.reconstruct(x))


# local dimension ----------------------------------------------------------------------------------


def test_pushed_lengths_are_the_singular_values_of_the_jacobian():
    model = model_of(GIN, 3, moved=0.4)
    z, directions = rows(6, 3), rows(3, 2, seed=4)
    j = vmap(jacrev(lambda row: model._decode_rows(row[None])[0]))(z)
    expected = torch.linalg.svdvals(j @ directions)
    torch.testing.assert_close(pushed_lengths(model._decode_rows, z, directions), expected)


@pytest.mark.parametrize("data_noise", [0.0, 0.05])
def test_a_sphere_has_the_dimension_of_its_surface(data_noise):
    """Its codes fill the space, so the spectrum says D; the density is thin along the radius."""
    model = model_of(Shell(4, 1e-3), 4, data_noise=data_noise)
    x = model.sample(40, generator=generator())
    torch.testing.assert_close(x.norm(dim=1), torch.ones(40, dtype=F64), atol=1e-2, rtol=0)
    torch.testing.assert_close(model._decode_rows(model.codes(x)), x)
    assert int(model.spectrum_rank().dimension) == 4
    assert model.local_dimension(x).tolist() == [3] * 40
    assert int(model.dimension_rank(x).dimension) == 3
    model.centres.copy_(x.repeat(7, 1)[:256])  # as training keeps rows
    assert int(model.intrinsic_dimension()) == 3


def test_the_last_noise_is_the_noise_of_the_dimension():
    """Of deviations 1 and 0.5, which noise that starts at 1 would hide."""
    model = model_of(Diagonal(0.0, 0.0), noise={"start": 1.0, "end": 0.01})
    with torch.no_grad():
        model.prior.weight.copy_(torch.diag(torch.tensor([1.0, 0.5])))
    assert int(model.intrinsic_dimension()) == 2


def test_the_threshold_decides_what_is_noise():
    """Variances over sigma^2 of 1000, 100, 0.1; where the density is looked at, one more each."""
    x = torch.zeros(2, 3, dtype=F64)
    found = {}
    for threshold in (1.0, 200.0):
        model = model_of(Diagonal(0.0, 0.0, 0.0), 3, noise=0.1, threshold=threshold)
        with torch.no_grad():
            model.prior.weight.copy_(torch.diag(torch.tensor([10.0, 1.0, 0.001])).sqrt())
        local = model.local_dimension(x).tolist()
        dimensions = (model.intrinsic_dimension(), model.spectrum_rank().dimension)
        found[threshold] = (*(int(each) for each in dimensions), *local)
    assert found == {1.0: (2, 2, 2, 2), 200.0: (1, 1, 1, 1)}
    with torch.no_grad():  # nothing but noise
        model.prior.weight.copy_(math.sqrt(0.001) * torch.eye(3))
    assert int(model.spectrum_rank().dimension) == 0
    assert int(model.intrinsic_dimension()) == 0 and not model.local_dimension(x).any()


@pytest.mark.parametrize(("more", "expected"), [(0.0, 2), (0.3, 1)])
def test_local_dimension_counts_the_noise_of_the_data_as_noise(more, expected):
    """Of deviations 1 and 0.5: beside noise of 0.1 both are signal, beside 0.32 the first is."""
    model = model_of(Diagonal(0.0, 0.0), noise=0.1, data_noise=more)
    with torch.no_grad():
        model.prior.weight.copy_(torch.diag(torch.tensor([1.0, 0.5])))
    assert model.local_dimension(torch.zeros(1, 2, dtype=F64)).tolist() == [expected]


def test_rows_that_are_not_finite_are_refused():
    model = model_of(NICE)
    x = torch.tensor([[0.0, math.nan]], dtype=F64)
    for method in (model.embed, model.reconstruct, model.assign, model.local_dimension):
        with pytest.raises(ValueError, match=r"x: .*finite"):
            method(x)
    x = torch.zeros(1, 2, dtype=F64)
    for dimension in (1.5, 2.0, True, 3, -1):
        for method in (model.embed, model.reconstruct, model.sample):
            with pytest.raises(ValueError, match="dimension: expected 0 to 2"):
                method(3 if method == model.sample else x, dimension=dimension)
    assert model.embed(x, dimension=np.int64(1)).shape == (1, 1)


def test_the_dimension_does_not_see_what_a_takes_back():
    """f followed by a linear map of determinant 1, A by the same: the density stays as it is."""
    x = rows(30) * torch.tensor([1.0, 0.0])
    for s, rank in ((0.0, 1), (3.0, 1), (6.0, 0)):
        model = squeezed_line(s)
        assert int(model.spectrum_rank().dimension) == rank  # eigenvalue e^-2s against 1e-4
        assert model.local_dimension(x).tolist() == [1] * 30
        assert int(model.dimension_rank(x).dimension) == 1


def test_the_spectrum_of_noise_on_the_data_does_see_it():
    """A map diag(e^-s, e^s) costs nothing there; A then holds noise that f has stretched."""
    x = rows(30) * torch.tensor([1.0, 0.0])
    for s, rank in ((0.0, 1), (1.4, 1), (1.6, 2), (2.0, 2)):
        model = model_of(Diagonal(-s, s), spread="data")
        codes = torch.tensor([(1.0 + 1e-4) * math.exp(-2 * s), 1e-4 * math.exp(2 * s)])
        with torch.no_grad():  # as fits best
            model.prior.weight.copy_(torch.diag((codes - 1e-4).clamp(min=0.0).sqrt()))
        assert int(model.spectrum_rank().dimension) == rank
        assert model.local_dimension(x).tolist() == [1] * 30
        assert int(model.dimension_rank(x).dimension) == 1


def test_the_dimension_is_that_of_most_rows():
    """By the median: one row in three that the density is thin or wide around changes nothing."""
    variances = torch.tensor([[1.0, 0.5, 1e-4], [1.0, 0.5, 1e-4], [1e6, 1e-4, 1e-4]], dtype=F64)
    alone = model_of(NICE, 3).spectrum_rank()
    charts = torch.zeros(3, dtype=torch.int64)
    found = rank_around(variances.sqrt(), charts, 2e-4, alone)
    assert int(found.dimension) == 2 and found.dimension.shape == ()
    assert float(found.gap) == pytest.approx(math.log(0.5 / 2e-4))
    assert float(found.margin) == pytest.approx(math.log(0.5 / 2e-4) - math.log(2.0))
    assert rank_of_rows(variances.sqrt(), 2e-4).tolist() == [2, 2, 1]


def test_each_part_has_the_dimension_of_its_rows_and_an_empty_one_that_of_its_axes():
    deviations = torch.tensor([[1.0, 1e-3], [1.0, 0.5]], dtype=F64)
    axes = rank_of_spectrum(torch.tensor([[1.0, 0.9], [1.0, 0.0], [1.0, 0.9]]), 1e-4)
    found = rank_around(deviations, torch.tensor([0, 1]), 1e-4, axes)
    assert found.dimension.tolist() == [1, 2, 2] and found.margin.shape == (3,)


def test_a_jacobian_that_is_not_finite_is_said():
    deviations = torch.tensor([[1.0, 1e-3], [math.nan, math.nan]], dtype=F64)
    known, unknown = rank_of_rows(deviations, 1e-4).tolist()
    assert known == 1 and math.isnan(unknown)
    assert rank_of_rows(deviations[:0], 1e-4).shape == (0,)
    with pytest.raises(ValueError, match=r"finite Jacobians .* at 1 of 2 rows"):
        rank_around(deviations, torch.zeros(2), 1e-4, model_of(NICE).spectrum_rank())
    with pytest.raises(ValueError, match="x: expected at least one row"):
        model_of(NICE).dimension_rank(torch.zeros(0, 2, dtype=F64))
    lengths = pushed_lengths(lambda z: z / z[:, :1], torch.eye(2, dtype=F64), torch.eye(2).double())
    assert bool(lengths[0].isfinite().all()) and bool(lengths[1].isnan().all())


# several parts ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def union():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        training = {"steps": 30, "batch_size": 200, "lr": 1e-3}
        model = model_of(NICE, 3, noise=0.05, components=2, training=training)
        fit(model, line_and_plane(500)[0], line_and_plane(50, 7)[0], seed=0)
    return model.eval()


def test_parts_find_the_dimension_of_each_piece(union):
    x, piece = line_and_plane(200, 11)
    found = union.intrinsic_dimension()
    assert sorted(found.tolist()) == [1, 2] and torch.equal(found, union.kept)
    assert (found[union.assign(x)] == piece + 1).double().mean() > 0.98
    assert (union.local_dimension(x) == piece + 1).double().mean() > 0.95
    assert union.spectrum().shape == (2, 3) and set(union.evaluations) == {"exact"}


def test_embeddings_of_parts_are_padded_to_the_largest(union):
    x, _ = line_and_plane(100, 13)
    dimension = union.kept[union.assign(x)]
    coordinates = union.embed(x).detach()
    assert coordinates.shape == (200, 2)
    assert not coordinates[dimension == 1, 1].any()
    assert bool((coordinates[dimension == 2] != 0).all())
    near = union.reconstruct(x).detach()
    torch.testing.assert_close(union.reconstruct(near).detach(), near, atol=1e-6, rtol=1e-6)
    assert float((near - x).norm(dim=1).median()) < 0.1
    bare = union.sample(200, noise_scale=0.0, generator=generator())
    torch.testing.assert_close(union.reconstruct(bare).detach(), bare, atol=1e-6, rtol=1e-6)


# options and documentation ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"entropy": "none"}, "entropy: expected one of"),
        ({"spread": "data", "entropy": "kde"}, "entropy: expected 'drop' for noise on the data"),
        ({"spread": "uniform"}, "spread: expected one of"),
        ({"start": "random"}, "start: expected one of"),
        ({"components": 2, "start": "identity"}, "start: expected 'principal' with components"),
        ({"components": 0}, "components: expected"),
        ({"rank": 4}, "rank: expected at most"),
        ({"noise": 0.0}, "noise"),
        ({"data_noise": 0.1, "frame": "pca"}, "frame: expected 'none', 'rotation' or"),
        ({"spread": "data", "frame": "pca"}, "frame: expected 'none', 'rotation' or"),
        ({"threshold": 0.0}, "threshold: expected"),
        ({"prior_lr": 0.0}, "prior_lr: expected"),
        ({"base_flow": {"name": "cef", "latent_features": 1, "base_flow": REALNVP}}, "base_flow"),
    ],
)
def test_bad_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        model_of(**{"features": 3, **options})


@pytest.mark.parametrize(
    ("options", "spread", "entropy"),
    [
        ({}, "data", "drop"),
        ({"entropy": "kde"}, "latent", "kde"),
        ({"entropy": "drop"}, "latent", "drop"),
        ({"frame": "pca"}, "latent", "kde"),
        ({"spread": "latent"}, "latent", "kde"),
        ({"spread": "data", "entropy": "drop"}, "data", "drop"),
    ],
)
def test_noise_is_on_the_data_unless_an_entropy_is_asked_for(options, spread, entropy):
    model = SpreadFlow(3, base_flow=NICE, **options)
    assert (model.spread, model.entropy) == (spread, entropy)


@pytest.mark.parametrize("options", [{}, {"entropy": "drop"}])
def test_a_plane_in_eight_columns_keeps_its_dimension(options):
    """Training at a high rate bends its codes or presses them; the density stays that of it."""
    turn = torch.randn(3, 8, generator=generator(1))
    x = torch.randn(1500, 3, generator=generator(2)) @ turn + 5.0
    flow = {"name": "gin", "layers": 4, "hidden": [32], "order": "rotation"}
    training = {"steps": 400, "lr": 1e-2}
    model = SpreadFlow(8, base_flow=flow, noise=0.03, training=training, **options)
    with pytest.warns(TrainingWarning, match="dimension: 3 around rows, and A A' has"):
        fit(model, x, x[:100], seed=0)
    assert int(model.intrinsic_dimension()) == 3 != int(model.spectrum_rank().dimension)
    assert float(model.dimension_rank().margin) > 3.0


def test_the_examples_of_the_readme_run():
    import flowzoo_plugins.spread_flows as package

    text = (Path(package.__path__[0]) / "README.md").read_text("utf-8")
    names = {"x_train": sine(300).float(), "x_valid": sine(60, 1).float()}
    for code in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        exec(compile(code, "README.md", "exec"), names)
    assert isinstance(names["model"], SpreadFlow)
