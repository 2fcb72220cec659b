"""What gaussian, gmm and kde have in common: proper densities, samples, state, bad input."""

import copy
import math

import pytest
import torch

from flowzoo.interfaces import EXACT, LEBESGUE
from flowzoo.registry import build
from flowzoo.training import TrainingData, fit, train_pack
from flowzoo_plugins.baselines import Gaussian, GaussianMixture, KernelDensity

MODELS = {
    "gaussian": lambda features: Gaussian(features),
    "gmm": lambda features: GaussianMixture(features, num_components=[1, 3, 5]),
    "kde": lambda features: KernelDensity(features, bandwidth=0.3),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def data(features, rows=200, seed=0, dtype=torch.float64):
    """Two correlated clouds."""
    x = torch.randn(rows, features, generator=generator(seed), dtype=torch.float64)
    x = x @ (torch.eye(features, dtype=x.dtype) + 0.4)
    x[::2] += 3
    return x.to(dtype)


def fitted(name, features=2, dtype=torch.float64, x=None, seed=0):
    model = MODELS[name](features).to(dtype)
    x = data(features, dtype=dtype) if x is None else x
    (stage,) = model.stages()
    assert stage.loss is None
    stage.prepare(x, data(features, seed=1, dtype=dtype), generator(seed))
    return model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_integrates_to_one(name, when):
    axis = torch.linspace(-16, 20, 721, dtype=torch.float64)
    step = float(axis[1] - axis[0])
    for features in (1, 2):
        model = fitted(name, features) if when == "after" else MODELS[name](features).double()
        grid = torch.cartesian_prod(*[axis] * features).view(-1, features)
        assert float(model.log_prob(grid).exp().sum()) * step**features == pytest.approx(1, 1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_samples_follow_the_density(name):
    model = fitted(name)
    x, log_prob = model.sample_and_log_prob(40_000, generator=generator(3))
    assert torch.equal(log_prob, model.log_prob(x))
    # importance weights of the model against itself, widened: mean 1
    wide = model.sample(40_000, temperature=1.5, generator=generator(4))
    assert wide.var(dim=0).sum() > x.var(dim=0).sum()
    # cells of a grid: the frequency of samples is the integral of the density
    edges = torch.linspace(-6, 10, 17, dtype=x.dtype)
    counts = torch.histogramdd(x, [edges, edges]).hist / len(x)
    centres = torch.linspace(-6, 10, 321, dtype=x.dtype)[:-1] + 0.025
    fine = model.log_prob(torch.cartesian_prod(centres, centres)).exp().view(16, 20, 16, 20)
    mass = fine.sum(dim=(1, 3)) * 0.05**2
    error = (counts - mass).abs() / (mass / len(x)).clamp(min=1e-12).sqrt()
    assert error[mass > 1e-3].max() < 4.5
    assert counts[mass < 1e-6].max() < 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_dtype_shape_and_rows(name):
    x = data(2, rows=17, seed=5)
    for dtype in (torch.float32, torch.float64):
        model = fitted(name, dtype=dtype)
        found = model.log_prob(x.to(dtype))
        assert found.dtype == dtype
        assert found.shape == (17,)
        torch.testing.assert_close(
            found.double(),
            fitted(name).log_prob(x),
            rtol=0,
            atol=1e-3 if found.dtype != x.dtype else 1e-9,
        )
        torch.testing.assert_close(model.log_prob(x[3:4].to(dtype)), found[3:4])
        assert model.log_prob(x[:0].to(dtype)).shape == (0,)
        assert model.sample(0).shape == (0, 2)
        assert model.sample(5).dtype == dtype


@pytest.mark.parametrize("name", MODELS)
def test_chunks_do_not_change_scores(name, monkeypatch):
    model, x = fitted(name), data(2, rows=41, seed=6)
    whole = model.log_prob(x)
    monkeypatch.setattr("flowzoo_plugins.baselines.closed_form._NUMBERS", 100)
    torch.testing.assert_close(model.log_prob(x), whole)


@pytest.mark.parametrize("name", MODELS)
def test_gradient_in_x_is_finite_and_right(name):
    model = fitted(name)
    x = data(2, rows=4, seed=7).requires_grad_()
    assert torch.autograd.gradcheck(model.log_prob, (x,))
    at_data = data(2)[:4].requires_grad_()
    model.log_prob(at_data).sum().backward()
    assert at_data.grad.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_state_moves_with_the_module(name):
    model, x = fitted(name), data(2, rows=9, seed=8)
    fresh = MODELS[name](2).double()
    fresh.load_state_dict(model.state_dict())
    for other in (copy.deepcopy(model), fresh):
        assert torch.equal(other.log_prob(x), model.log_prob(x))
        assert torch.equal(
            other.sample(3, generator=generator()), model.sample(3, generator=generator())
        )
    with pytest.raises(RuntimeError, match="size mismatch"):
        MODELS[name](3).double().load_state_dict(model.state_dict())
    meta = copy.deepcopy(model).to("meta")
    assert meta.log_prob(torch.empty(6, 2, device="meta", dtype=x.dtype)).shape == (6,)
    assert not list(model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_the_generator_decides_and_nothing_else_moves(name):
    x = data(2)
    before, state = x.clone(), torch.random.get_rng_state()
    models = [fitted(name, x=x, seed=3) for _ in range(2)]
    assert torch.equal(models[0].log_prob(x), models[1].log_prob(x))
    draws = [model.sample(10, generator=generator(1)) for model in models]
    assert torch.equal(*draws)
    assert torch.equal(x, before)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", MODELS)
def test_declares_what_it_is(name):
    model = build("mixture", name, features=2)
    assert {k: (v.likelihood, v.measure) for k, v in model.evaluations.items()} == {
        "exact": (EXACT, LEBESGUE)
    }
    assert "sample_and_log_prob" in model.capabilities
    for method in model.capabilities:
        assert callable(getattr(model, method))


@pytest.mark.parametrize("name", MODELS)
def test_trains_in_a_pack_member_by_member(name):
    pairs = [TrainingData(data(2, seed=s), data(2, seed=9 + s)) for s in range(3)]
    packed = [MODELS[name](2).double() for _ in pairs]
    results = train_pack(packed, pairs, [1, 2, 3])
    assert [result.status for result in results] == ["ok"] * 3
    x = data(2, rows=9, seed=30)
    for model, pair, seed in zip(packed, pairs, [1, 2, 3], strict=True):
        alone = MODELS[name](2).double()
        fit(alone, *pair, seed=seed)
        assert torch.equal(alone.log_prob(x), model.log_prob(x))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "x",
    [
        torch.full((30, 2), 0.1, dtype=torch.float64),
        torch.ones(1, 2, dtype=torch.float64),
        torch.stack([torch.linspace(0, 1, 40, dtype=torch.float64), torch.full((40,), 5.0)], dim=1),
        torch.arange(3, dtype=torch.float64)[:, None].repeat(8, 2),
        1e8 + torch.randn(40, 2, generator=generator(), dtype=torch.float64),
    ],
    ids=["equal rows", "one row", "constant column", "duplicates", "far away"],
)
def test_degenerate_data_give_finite_densities(name, x, recwarn):
    model = fitted(name, x=x)
    assert model.log_prob(x).isfinite().all()
    assert model.sample(20, generator=generator()).isfinite().all()
    assert not recwarn.list
    single = fitted(name, dtype=torch.float32, x=x.float())
    assert single.log_prob(x.float()).isfinite().all()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.tensor([[0.0, float("nan")]]), "x_train: expected finite"),
        (torch.zeros(4, 3), r"x_train: expected shape \(N, 2\), got \(4, 3\)"),
        (torch.zeros(4, 2, dtype=torch.int64), "x_train: expected a floating dtype"),
        (torch.zeros(0, 2), "x_train: expected at least one row"),
    ],
)
def test_bad_training_rows_are_refused(name, x, message):
    with pytest.raises(ValueError, match=message):
        fitted(name, dtype=torch.float32, x=x)


def test_gaussian_is_maximum_likelihood():
    from scipy.stats import multivariate_normal

    x, test = data(3), data(3, seed=2)
    model = fitted("gaussian", 3, x=x)
    covariance = torch.cov(x.mT, correction=0)
    covariance += 1e-6 * covariance.trace() / 3 * torch.eye(3, dtype=x.dtype)
    truth = multivariate_normal(x.mean(dim=0).numpy(), covariance.numpy())
    torch.testing.assert_close(model.log_prob(test), torch.from_numpy(truth.logpdf(test.numpy())))
    z = model.embed(x)
    torch.testing.assert_close(
        torch.cov(z.mT, correction=0), torch.eye(3, dtype=x.dtype), atol=1e-4, rtol=0
    )
    hot = model.sample(100_000, temperature=2.0, generator=generator())
    torch.testing.assert_close(torch.cov(hot.mT), 4 * covariance, rtol=0.05, atol=0.05)
    torch.testing.assert_close(hot.mean(dim=0), x.mean(dim=0), rtol=0, atol=0.1)


def test_gaussian_of_one_row_is_as_wide_as_the_regularisation():
    x = torch.full((1, 2), 4.0, dtype=torch.float64)
    model = Gaussian(2, regularisation=0.25).double()
    model.stages()[0].prepare(x, x, generator())
    peak = float(model.log_prob(x))
    assert peak == pytest.approx(-math.log(2 * math.pi * 0.25))
    for wrong in (0.0, math.inf):
        with pytest.raises(ValueError, match="regularisation"):
            Gaussian(2, regularisation=wrong)
