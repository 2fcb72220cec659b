"""NIF: an exact density around a manifold, its knobs, its start, its dimension."""

import copy
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from flowzoo.registry import build
from flowzoo.training import TrainingData, fit, train_pack
from flowzoo_plugins.noisy_injective import NoisyInjectiveFlow

FLOW = {"name": "realnvp", "layers": 3, "hidden": [12], "normalization": "none"}
NICE = {"name": "nice", "layers": 2, "hidden": [8]}
CEF = {"name": "cef", "latent_features": 2, "base_flow": FLOW}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def model(features=3, latent=1, seed=0, **options):
    """A flow with random weights, far from the identity, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        given = {"base_flow": FLOW, **options}
        built = NoisyInjectiveFlow(features, latent_features=latent, **given).double().eval()
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return built


def rows(count, features=3, seed=0):
    return torch.randn(count, features, generator=generator(seed), dtype=torch.float64)


def plane(count=1500, features=6, stds=(2.0, 1.0), noise=0.05, seed=0):
    """Rows near a plane of as many dimensions as there are ``stds``."""
    axes = torch.linalg.qr(rows(features, features, seed=99))[0][:, : len(stds)]
    z = rows(count, len(stds), seed=seed) * torch.tensor(stds, dtype=torch.float64)
    return z @ axes.T + noise * rows(count, features, seed=seed + 1)


def test_density_is_the_change_of_variables_under_the_dense_gaussian():
    flow, x = model(4, 2), rows(6, 4)
    prior = MultivariateNormal(flow.gaussian.bias, flow.gaussian.covariance())
    z = flow._encode(x)[0]
    jacobian = torch.func.vmap(torch.func.jacrev(lambda r: flow._encode(r[None])[0][0]))(x)
    expected = prior.log_prob(z) + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(flow.log_prob(x), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("frame", ["none", "pca"])
def test_density_integrates_to_one(frame):
    flow = model(2, 1, frame=frame)
    if frame == "pca":
        flow.frame.fit(rows(50, 2) * 1.5 + 0.5)
    axis = torch.linspace(-14.0, 14.0, 700, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = float(flow.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2)
    assert mass == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("base_flow", [FLOW, CEF])
def test_bound_plus_gap_is_the_log_density(base_flow):
    flow, x = model(3, 1, base_flow=base_flow), rows(20)
    elbo, gap = flow.log_prob(x, evaluation="elbo"), flow.gap(x)
    assert bool((gap > 1e-3).all())  # it is never zero
    torch.testing.assert_close(elbo + gap, flow.log_prob(x))


def test_knobs_scale_signal_and_noise():
    flow = NoisyInjectiveFlow(3, latent_features=1, base_flow=NICE).double().eval()
    flow.gaussian.start(
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([[2.0], [0.0], [1.0]]),
        torch.tensor([0.5, 1, 2]),
    )
    matrix, noise = flow.gaussian.loading.matrix(), flow.gaussian.log_std.exp().square()
    for t, s in ((1.0, 1.0), (2.0, 0.5), (0.5, 0.0)):
        z = flow._encode(flow.sample(60_000, temperature=t, noise_scale=s, generator=generator()))[
            0
        ]
        expected = t**2 * matrix @ matrix.T + s**2 * torch.diag(noise)  # B18: s is on the std
        torch.testing.assert_close(torch.cov(z.T), expected, rtol=0.05, atol=0.03)
        torch.testing.assert_close(z.mean(dim=0), flow.gaussian.bias.detach(), rtol=0, atol=0.05)


def test_noise_of_the_reference_code_is_the_identity_whatever_was_learned():
    draws = {}
    for noise in ("learned", "identity"):
        flow = NoisyInjectiveFlow(2, latent_features=1, base_flow=NICE, sample_noise=noise).double()
        flow.gaussian.start(torch.zeros(2), torch.zeros(2, 1), torch.tensor([0.01, 0.04]))
        draws[noise] = flow._encode(flow.sample(40_000, generator=generator()))[0].var(dim=0)
    torch.testing.assert_close(
        draws["learned"], draws["learned"].new_tensor([0.01, 0.04]), rtol=0.05, atol=0
    )
    torch.testing.assert_close(draws["identity"], draws["identity"].new_ones(2), rtol=0.05, atol=0)


@pytest.mark.parametrize("base_flow", [FLOW, CEF])
def test_manifold(base_flow):
    flow = model(3, 1, base_flow=base_flow)
    z = rows(30, 1)
    x = flow.place(z)
    torch.testing.assert_close(flow.embed(x, "pseudo-inverse"), z)
    torch.testing.assert_close(flow.reconstruct(x), x)
    assert float(flow.manifold_distance(x).detach().max()) < 1e-6
    away = rows(30)
    torch.testing.assert_close(
        flow.manifold_distance(away), (away - flow.reconstruct(away)).norm(dim=1)
    )
    assert bool((flow.manifold_distance(away) > 1e-3).all())
    shrunk = flow.embed(x)  # the posterior mean is nearer to zero, in the direction of z
    assert bool((shrunk.abs() < z.abs()).all()) and bool((shrunk * z > 0).all())


def test_pseudo_inverse_is_the_nearest_point_of_the_plane():
    flow = model(3, 1)
    code = flow._encode(rows(8))[0]
    best = flow.gaussian.embed(code, rule="pseudo-inverse").detach()
    weight = (-2.0 * flow.gaussian.log_std).exp()

    def distance(z):
        return ((code - flow.gaussian.place(z)).square() * weight).sum(dim=1)

    for step in (-1e-3, 1e-3):
        assert bool((distance(best + step) > distance(best)).all())


def test_white_start_is_the_gaussian_of_the_data_for_every_d():
    x = plane(features=4, noise=0.3)
    reference = MultivariateNormal(x.mean(dim=0), torch.cov(x.T, correction=0))
    for latent in (1, 3):
        flow = NoisyInjectiveFlow(
            4, latent_features=latent, frame="pca", base_flow=NICE, training={"steps": 1, "lr": 0.0}
        ).double()
        with torch.no_grad():  # couplings that do nothing
            for parameter in flow.base_flow.parameters():
                parameter.zero_()
        fit(flow, x, x)
        flow.eval()
        torch.testing.assert_close(
            flow.log_prob(x[:9]), reference.log_prob(x[:9]), atol=1e-6, rtol=0
        )


def test_random_start_is_the_papers():
    torch.manual_seed(0)
    flow = NoisyInjectiveFlow(
        200, latent_features=50, base_flow=NICE, start="random", noise_std=2.0
    )
    assert float(flow.gaussian.loading.matrix().detach().var()) == pytest.approx(
        2.0 / 250, rel=0.05
    )
    assert torch.allclose(flow.gaussian.log_std, torch.tensor(math.log(2.0)))
    before = flow.gaussian.loading.weight.clone()
    stage = next(stage for stage in flow.stages() if stage.name == "start")
    stage.prepare(rows(300, 200).float(), rows(5, 200).float(), generator())
    assert torch.equal(flow.gaussian.loading.weight, before)


def test_up_sampling_of_images():
    flow = NoisyInjectiveFlow(
        16, base_flow=NICE, loading={"name": "up-sampling", "shape": [1, 4, 4], "factor": 2}
    ).double()
    assert flow.latent_features == 4 and flow.start == "random"
    code = flow._encode(flow.sample(3, noise_scale=0.0, generator=generator()))[0].reshape(3, 4, 4)
    for block in (code[:, :2, :2], code[:, 2:, 2:]):
        torch.testing.assert_close(block, block[:, :1, :1].expand_as(block))
    with pytest.raises(ValueError, match="start"):
        NoisyInjectiveFlow(
            16, base_flow=NICE, start="principal",
            loading={"name": "up-sampling", "shape": [1, 4, 4]},
        )  # fmt: skip


@pytest.mark.parametrize("stds", [(2.0,), (2.0, 1.0), (2.0, 1.5, 1.0, 0.7)])
def test_automatic_dimension_of_a_plane(stds):
    x = plane(stds=stds).float()
    options = {"steps": 400, "lr": 1e-2, "schedule": "cosine", "batch_size": 500}
    torch.manual_seed(0)
    flow = NoisyInjectiveFlow(
        6, latent_features=5, base_flow=NICE, isotropic=True, ard=1.0, training=options
    )
    fit(flow, x, x[:200])
    assert int(flow.intrinsic_dimension()) == len(stds)
    # the manifold is that of the columns that are left: rows lie the noise away from it
    assert not flow.gaussian.loading.matrix()[:, len(stds) :].any()
    assert set(flow.evaluations) == {"exact"}
    distance = flow.manifold_distance(plane(stds=stds, seed=5).float()).square().mean().sqrt()
    assert float(distance.detach()) == pytest.approx(0.05 * (6 - len(stds)) ** 0.5, rel=0.1)
    assert bool(torch.isfinite(flow.embed(x, "pseudo-inverse")).all())


@pytest.mark.parametrize("name", ["nif", "deep-nif"])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_start_suits_flows_with_batch_norm_in_any_units(name, scale):
    x = (plane(1200, 6, noise=0.2) + 3.0).float() * scale
    flow = {"name": "realnvp", "layers": 2, "hidden": [16]}  # its default is batch-norm
    options = {"latent_features": 2, "base_flow": flow}
    options["training"] = {"steps": 1, "lr": 0.0, "batch_size": 300}
    if name == "deep-nif":
        options["latent_flow"] = "none"
    torch.manual_seed(0)
    model, gaussian = (
        build("mixture", kind, features=6, **given)
        for kind, given in ((name, options), ("gaussian", {}))
    )
    for one in (model, gaussian):
        fit(one, x[:900], x[900:])
    model.train()  # as the first step sees it: running statistics follow only with time
    behind = gaussian.log_prob(x[900:]).mean() - model.log_prob(x[900:]).mean()
    assert float(behind.detach()) < 0.3


def test_noise_around_an_injection_is_scaled():
    flow = model(3, 1, base_flow=CEF)
    drawn = [flow.sample(500, noise_scale=s, generator=generator()) for s in (0.0, 1e-3, 2e-3)]
    away = [flow._code(x)[1].std() for x in drawn]  # in the normal direction of the injection
    assert float(away[0]) < 1e-9
    torch.testing.assert_close(away[2] / away[1], away[1].new_tensor(2.0), rtol=1e-3, atol=0)


def test_penalty_is_shared_by_the_training_rows():
    flow = NoisyInjectiveFlow(3, latent_features=2, base_flow=NICE, ard=2.0).double()
    stages = {stage.name: stage for stage in flow.stages()}
    stages["start"].prepare(rows(400), rows(5), generator())
    a = flow.gaussian.loading.matrix()
    trace = (2.0 * flow.gaussian.log_std).exp().sum()
    expected = 2.0 / 400 * 1.5 * (a.square().sum(dim=0) + 1e-6 * trace).log().sum()
    torch.testing.assert_close(stages["maximum-likelihood"].penalty(), expected)
    assert all(stage.penalty is None for stage in model().stages())


def test_packed_training_equals_training_alone():
    options = {
        "base_flow": FLOW,
        "frame": "rotation",
        "ard": 1.0,
        "training": {"steps": 20, "lr": 1e-3},
    }
    data = [
        TrainingData(plane(300, 3, (1.0,), seed=seed), plane(50, 3, (1.0,), seed=9))
        for seed in range(2)
    ]
    packed = []
    for seed in range(2):
        torch.manual_seed(seed)
        packed.append(NoisyInjectiveFlow(3, latent_features=2, **options).double())
    alone = copy.deepcopy(packed)
    train_pack(packed, data, [1, 2], packed=True)
    for one, seed, own in zip(alone, (1, 2), data, strict=True):
        train_pack([one], [own], [seed])
    x = rows(20)
    for one, other in zip(packed, alone, strict=True):
        scores = [flow.eval().log_prob(x).detach() for flow in (one, other)]
        torch.testing.assert_close(*scores, atol=1e-8, rtol=0)
        assert float(one.num_train) == 300


def test_bad_options_are_refused():
    for options, name in (
        ({"latent_features": 4}, "latent_features"),
        ({"start": "pca"}, "start"),
        ({"ard": -1.0}, "ard"),
        ({"noise_std": 0.0}, "noise_std"),
        ({"sample_noise": "one"}, "sample_noise"),
        ({"frame": "whiten"}, "frame"),
        ({"frame": "pca", "base_flow": CEF}, "frame"),
        ({"loading": "sparse"}, "loading"),
        ({"loading": {"name": "up-sampling", "shape": [1, 4, 4]}}, "loading"),
        ({"ard": 1.0, "latent_features": 3}, "latent_features: expected below 3 with ard"),
        ({"ard": 1.0, "frame": "pca"}, "frame: expected 'none', 'rotation' or 'similarity' with"),
        ({"ard": 1.0, "start": "random"}, "start: expected 'principal' with ard"),
    ):
        with pytest.raises(ValueError, match=name):
            NoisyInjectiveFlow(3, **{"base_flow": NICE, **options})
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="noise_scale"):
            model().sample(2, noise_scale=wrong)
    NoisyInjectiveFlow(3, latent_features=3, base_flow=NICE, ard=1.0, learn_noise=False)
    for method in (model().embed, model().reconstruct, model().gap):
        with pytest.raises(ValueError, match="x"):
            method(torch.full((2, 3), torch.nan, dtype=torch.float64))
    with pytest.raises(ValueError, match="rule"):
        model().embed(rows(2), "mean")
