"""Deep noisy injective flows: bound and estimate against exact densities and quadrature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import flowzoo
from flowzoo.testing import run_checks
from flowzoo.testing.distribution import check_overlap
from flowzoo.testing.numerics import moons, perturb
from flowzoo_plugins.noisy_injective import DeepNIF
from flowzoo_plugins.noisy_injective.gaussian import GaussianInjection

F64 = torch.float64
SMALL = {"name": "realnvp", "layers": 2, "hidden": [8], "normalization": "none"}
LATENT = {"name": "nsf-autoregressive", "layers": 1, "hidden": [8], "normalization": "none"}
COUPLING = {"name": "stochastic-coupling", "hidden": [6]}
BARE = {"latent_flow": "none", "base_flow": "none"}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def model_of(features: int, latent: int, **options) -> DeepNIF:
    """A model in eval mode with nothing at its starting value, float64."""
    options = {"latent_flow": LATENT, "base_flow": SMALL, **options}
    model = DeepNIF(features, latent_features=latent, **options).double().eval()
    perturb(model)
    return model


def on_a_grid(model: DeepNIF, x: Tensor) -> Tensor:
    """log p(x) of a model with one latent column, by a sum over a grid of z."""
    assert isinstance(model.injection, GaussianInjection)
    line = torch.linspace(-20, 20, 401, dtype=F64)[:, None]
    log_p = torch.zeros(len(line), dtype=F64)
    e = line
    if model.latent_flow is not None:
        e, log_p = model.latent_flow.encode(line)
    log_p = log_p + Normal(0.0, 1.0).log_prob(e).sum(dim=1)
    plane = model.injection.plane
    y, log_abs_det = model.base_flow.encode(x)
    values = []
    for row in y:
        around = Normal(plane.place(line), plane.log_std.exp()).log_prob(row).sum(dim=1)
        values.append((around + log_p).logsumexp(dim=0) + (line[1, 0] - line[0, 0]).log())
    return torch.stack(values) + log_abs_det


def draws_of(model: DeepNIF, x: Tensor, repeats: int, **options) -> Tensor:
    """``log_prob`` of independent seeds, (repeats, N)."""
    seeds = (torch.Generator().manual_seed(seed) for seed in range(repeats))
    with torch.no_grad():
        return torch.stack([model.log_prob(x, generator=seed, **options) for seed in seeds])


# bound, estimate, truth ---------------------------------------------------------------------------


@pytest.mark.parametrize("latent_flow", ["none", LATENT])
@torch.no_grad()
def test_bound_below_estimates_below_the_density(latent_flow):
    """Truth by the closed form where there is one, and by a grid of z."""
    model = model_of(3, 1, latent_flow=latent_flow)
    x = moons(5, 3)
    exact = on_a_grid(model, x)
    if latent_flow == "none":
        torch.testing.assert_close(model.log_prob(x, evaluation="exact"), exact)
    repeats = 40
    found = {
        "elbo": draws_of(model, x, repeats, evaluation="elbo", num_samples=2),
        "10": draws_of(model, x, repeats, evaluation="importance", num_samples=10),
        "500": draws_of(model, x, repeats, evaluation="importance", num_samples=500),
    }
    mean = {name: value.mean(dim=0) for name, value in found.items()}
    error = {name: 3.0 * value.std(dim=0) / repeats**0.5 for name, value in found.items()}
    assert (mean["elbo"] <= mean["10"] + error["elbo"] + error["10"]).all()
    assert (mean["10"] <= mean["500"] + error["10"] + error["500"]).all()
    assert (mean["500"] <= exact + error["500"]).all()
    assert (mean["elbo"] < exact - 0.01).any()  # and they are told apart
    torch.testing.assert_close(mean["500"], exact, rtol=0, atol=0.02)


@torch.no_grad()
def test_elbo_without_a_latent_flow_is_the_closed_form():
    model = model_of(4, 2, latent_flow="none")
    x = moons(3, 4)
    y, log_abs_det = model.base_flow.encode(x)
    closed = model.injection.plane.elbo(y) + log_abs_det
    torch.testing.assert_close(model.log_prob(x, evaluation="elbo"), closed)
    noise = torch.randn(3, 200_000, 2, dtype=F64)
    _, log_weight = model._weigh(y, noise)
    error = log_weight.std(dim=1) / noise.shape[1] ** 0.5
    assert ((log_weight.mean(dim=1) + log_abs_det - closed).abs() < 4.0 * error).all()


def test_exact_is_the_dense_gaussian_after_the_flow():
    model = model_of(4, 2, latent_flow="none", frame="pca")
    model.frame.fit(moons(100, 4))
    x = moons(5, 4)
    y, log_abs_det = model.base_flow.encode(model.frame.encode(x).value)
    plane = model.injection.plane
    dense = MultivariateNormal(plane.bias, plane.covariance()).log_prob(y)
    expected = dense + log_abs_det + model.frame.log_abs_det
    torch.testing.assert_close(model.log_prob(x), expected)


@torch.no_grad()
def test_density_integrates_to_one():
    line = torch.linspace(-12, 12, 201, dtype=F64)
    grid = torch.cartesian_prod(line, line)
    for options in ({}, {"latent_features": 2, "injection": COUPLING}):
        model = DeepNIF(2, **{**BARE, "start": "random", **options}).double()
        perturb(model, size=0.3)
        values = model.log_prob(
            grid, evaluation="importance", num_samples=20, generator=torch.Generator()
        )
        mass = values.exp().sum() * (line[1] - line[0]) ** 2
        assert mass.item() == pytest.approx(1.0, abs=0.01)


@torch.no_grad()
def test_draws_follow_the_density():
    model = model_of(3, 1)
    draws = model.sample(6000, generator=torch.Generator().manual_seed(1))
    check_overlap(lambda x: on_a_grid(model, x), draws[:1600])


# draws in blocks ----------------------------------------------------------------------------------


def test_a_generator_decides_the_draws_and_the_number_of_samples():
    model = model_of(3, 1)
    x = moons(4, 3)
    first, again = (draws_of(model, x, 1, num_samples=8) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, draws_of(model, x, 1, num_samples=9))
    usual = draws_of(model, x, 1)
    assert torch.equal(usual, draws_of(model, x, 1, num_samples=model.num_samples))


@torch.no_grad()
def test_effective_sample_size_tells_how_far_the_proposal_is_off():
    """Little noise: the posterior is the stochastic inverse. Much noise: it is the prior."""
    sizes = []
    for log_std in (-4.0, 2.0):
        model = model_of(4, 2, latent_flow="none", base_flow="none")
        model.injection.plane.log_std.fill_(log_std)
        found = model.importance_estimate(model.sample(50), num_samples=64)
        sizes.append(found.effective_sample_size)
    assert sizes[0].min() > 0.9 * 64
    assert sizes[1].max() < 0.5 * 64
    assert all(((size >= 1.0 - 1e-9) & (size <= 64 + 1e-9)).all() for size in sizes)


def test_the_estimate_keeps_no_gradients():
    model = model_of(4, 2, latent_flow="none", base_flow="none")
    found = model.importance_estimate(torch.zeros(2, 4, dtype=torch.float64), num_samples=8)
    assert not any(value.requires_grad for value in found)


# latent space and manifold ------------------------------------------------------------------------


@torch.no_grad()
def test_posterior_mean():
    x = moons(4, 3)
    model = model_of(3, 1, latent_flow="none")
    closed = model.embed(x, rule="posterior-mean")
    y, _ = model.base_flow.encode(x)
    seed = torch.Generator().manual_seed(0)
    drawn = model._weights(y, 10_000, seed).mean
    torch.testing.assert_close(drawn, closed, rtol=0, atol=0.03)

    model = model_of(3, 1)
    line = torch.linspace(-20, 20, 401, dtype=F64)[:, None]
    e, log_abs_det = model.latent_flow.encode(line)
    log_p = Normal(0.0, 1.0).log_prob(e).sum(dim=1) + log_abs_det
    plane = model.injection.plane
    found = model.embed(x, rule="posterior-mean", num_samples=10_000, generator=seed)
    for row, mean in zip(model.base_flow.encode(x).value, found, strict=True):
        around = Normal(plane.place(line), plane.log_std.exp()).log_prob(row).sum(dim=1)
        expected = ((around + log_p).softmax(dim=0)[:, None] * e).sum(dim=0)
        torch.testing.assert_close(mean, expected, rtol=0, atol=0.03)


@torch.no_grad()
def test_without_noise_draws_lie_on_the_manifold():
    for injection in ("gaussian", COUPLING):
        model = model_of(5, 2, injection=injection)
        seed = torch.Generator().manual_seed(3)
        x = model.sample(20, noise_scale=0.0, temperature=2.0, generator=seed)
        torch.testing.assert_close(model.reconstruct(x), x)
        noisy = model.sample(20)
        assert (model.reconstruct(noisy) - noisy).abs().max() > 0.1
        # it is embedded where it came from
        seed = torch.Generator().manual_seed(3)
        e = model.latent_prior.sample(20, temperature=2.0, generator=seed)
        torch.testing.assert_close(model.embed(x), e)


@torch.no_grad()
def test_knobs_are_factors_on_standard_deviations():
    model = model_of(3, 1, **BARE)
    plane = model.injection.plane
    seed = torch.Generator().manual_seed(0)
    x = model.sample(200_000, temperature=2.0, noise_scale=0.5, generator=seed)
    matrix = plane.loading.matrix()
    expected = 4.0 * matrix @ matrix.T + 0.25 * torch.diag((2.0 * plane.log_std).exp())
    scale = expected.diagonal().sqrt()
    assert ((x.T.cov() - expected).abs() / torch.outer(scale, scale)).max() < 0.02


# training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["importance", "elbo"])
@pytest.mark.parametrize("injection", ["gaussian", {"name": "stochastic-coupling", "hidden": [3]}])
def test_gradient_of_the_loss_with_fixed_noise(objective, injection):
    flow = {**SMALL, "hidden": [3], "layers": 1}
    model = model_of(
        3,
        2,
        injection=injection,
        objective=objective,
        training_samples=3,
        latent_flow=flow,
        base_flow=flow,
    )
    (_, stage) = model.stages()
    x, noise = moons(2, 3), torch.randn(2, stage.noise_features, dtype=F64)
    names = [name for name, _ in model.named_parameters()]

    def loss(*values: Tensor) -> Tensor:
        model.forward = lambda: model._loss(x, noise, 0.0)  # type: ignore[method-assign]
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), ())

    assert torch.autograd.gradcheck(loss, tuple(model.parameters()), atol=1e-5)


@torch.no_grad()
def test_objectives_are_the_evaluations():
    model = model_of(3, 1, training_samples=7)
    x = moons(6, 3)
    noise = torch.randn(6, 7, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    for objective in ("importance", "elbo"):
        model.objective = objective
        found = -model._loss(x, noise.reshape(6, 7), 0.0)
        torch.testing.assert_close(
            found, draws_of(model, x, 1, evaluation=objective, num_samples=7)[0]
        )


def test_training_comes_near_the_density_of_linear_data():
    axis = torch.tensor([[2.0, 1.0, -1.0]])
    x = torch.randn(600, 1) @ axis + 0.2 * torch.randn(600, 3)
    model = DeepNIF(
        3,
        latent_features=1,
        latent_flow="none",
        base_flow="none",
        start="random",
        training={"steps": 150, "lr": 3e-2, "patience": 0},
    )
    assert flowzoo.fit(model, x[:500], x[500:], seed=0).status == "ok"
    truth = MultivariateNormal(torch.zeros(3), axis.T @ axis + 0.04 * torch.eye(3))
    with torch.no_grad():
        gap = (truth.log_prob(x[500:]) - model.log_prob(x[500:], evaluation="exact")).mean()
    assert gap.abs() < 0.06


def test_a_start_by_the_data_is_near_the_best_plane():
    axis = torch.tensor([[2.0, 1.0, -1.0]])
    x = torch.randn(4000, 1) @ axis + 0.3 * torch.randn(4000, 3) + 5.0
    model = DeepNIF(3, latent_features=1, **BARE)
    place, _ = model.stages()
    place.prepare(x, x[:1], torch.Generator())
    truth = MultivariateNormal(torch.full((3,), 5.0), axis.T @ axis + 0.09 * torch.eye(3))
    with torch.no_grad():
        gap = (truth.log_prob(x) - model.log_prob(x, evaluation="exact")).mean()
    assert gap < 0.25


def test_a_singular_plane_is_not_hidden():
    model = DeepNIF(3, latent_features=2, **BARE)
    with torch.no_grad():
        model.injection.plane.loading.weight[:, 1] = 0.0
    assert model.log_prob(torch.zeros(2, 3), evaluation="importance").isnan().all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "iwae"}, r"objective: expected one of \('importance', 'elbo'\), got 'iwae'"),
        ({"start": "pca"}, "start: expected one of"),
        ({"frame": "zca"}, "frame: expected one of"),
        ({"num_samples": 0}, "num_samples: expected a positive integer, got 0"),
        ({"training_samples": 0}, "training_samples: expected a positive integer"),
        ({"latent_features": 4}, "latent_features: expected at most"),
        ({"base_flow": "cef"}, "base_flow: expected"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(ValueError, match=said):
        DeepNIF(3, **options)


def test_bad_arguments():
    model = DeepNIF(3, latent_features=1).eval()
    with pytest.raises(ValueError, match="noise_scale: expected"):
        model.sample(2, noise_scale=-0.1)
    with pytest.raises(ValueError, match="rule: expected one of"):
        model.embed(torch.zeros(2, 3), rule="mean")
    with pytest.raises(ValueError, match="x: expected shape"):
        model.importance_estimate(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="num_samples: expected a positive integer"):
        model.log_prob(torch.zeros(2, 3), num_samples=0)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"objective": "elbo", "start": "random"}, (2,)),  # with an exact density
        ({"latent_features": 2, "injection": COUPLING}, (3,)),
    ],
)
def test_other_configurations(options, sizes):
    given = {**BARE, "num_samples": 8, "training_samples": 4, **options}
    done_elsewhere = ("import", "save-load")  # in other processes
    report = run_checks("mixture", "deep-nif", options=given, sizes=sizes, deselect=done_elsewhere)
    assert report.ok, str(report)
