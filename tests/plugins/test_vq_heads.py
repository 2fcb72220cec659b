"""VQ-Flows with a noisy injective head a chart: Gaussians around lines, known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

import flowzoo
from flowzoo.priors import NoisyInjectiveGaussian
from flowzoo_plugins.vq_flows import VQFlow, heads
from known_charts import Around, Centres, centres, gaussians, membership, points, stretched_grid

F64 = torch.float64
K, SCALE = 5, 0.7  # of the maps g_k(z) = SCALE z + centre_k
HEAD = {"name": "noisy-injective-gaussian", "latent_features": 1, "isotropic": True}
HEADS = {"prior": HEAD, "prior_per_chart": True}


def model_of(**options) -> VQFlow:
    """K heads with nothing alike."""
    model = gaussians(scale=SCALE, **HEADS, **options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for stack in model.flow.prior.parameters():
            stack.copy_(0.4 * torch.randn(stack.shape, generator=generator, dtype=F64))
        model.flow.prior.stacked.log_std.sub_(1.0)
    return model


def components(model: VQFlow, t: float = 1.0, s: float = 1.0) -> list[MultivariateNormal]:
    """p(x | k) at temperature t and noise scale s."""
    found = []
    for k, centre in enumerate(model.partitioner.codes):
        head = model.flow.prior.part(k)
        signal = head.loading.matrix() @ head.loading.matrix().T
        noise = torch.diag((2.0 * head.log_std).exp().expand(2))
        covariance = SCALE**2 * (t**2 * signal + s**2 * noise)
        found.append(MultivariateNormal(centre + SCALE * head.bias, covariance))
    return [MultivariateNormal(c.mean.detach(), c.covariance_matrix.detach()) for c in found]


def joint(model: VQFlow, x: torch.Tensor) -> torch.Tensor:
    """log p(x, k), (N, K)."""
    scores = [component.log_prob(x) for component in components(model)]
    return torch.stack(scores, dim=1) + model.weights.log_prob()


# -- density --------------------------------------------------------------------------------------


def test_evaluations_are_those_of_gaussians_around_lines():
    model, x = model_of(overlap=2), points(50)
    expected, inside = joint(model, x), membership(model, x)
    torch.testing.assert_close(model.log_prob(x), expected.logsumexp(dim=1))
    truncated = expected.masked_fill(~inside, -torch.inf)
    found = model.log_prob(x, evaluation="truncated")
    torch.testing.assert_close(found, truncated.logsumexp(dim=1))
    renormalised = (truncated - model.chart_leak().log()).logsumexp(dim=1)
    found = model.log_prob(x, evaluation="renormalised")
    torch.testing.assert_close(found, renormalised)
    torch.testing.assert_close(model.responsibilities(x), expected.softmax(dim=1))


def test_mass_and_leak_by_quadrature():
    model = model_of(leak_samples=20_000)
    x, area = stretched_grid(reach=3.5, steps=400)
    density = joint(model, x).exp() * area[:, None]
    torch.testing.assert_close(model.log_prob(x).exp() @ area, torch.ones((), dtype=F64))
    weights = model.weights.log_prob().exp()
    inside = (density * membership(model, x)).sum(dim=0) / weights
    assert (inside < 0.98).sum() >= 3  # charts leak, or the test shows nothing
    error = 5.0 * (inside * (1.0 - inside) / 20_000).sqrt() + 2e-3
    assert ((model.chart_leak() - inside).abs() < error).all()


@pytest.mark.parametrize("knobs", [{}, {"temperature": 0.5, "noise_scale": 2.0}])
def test_samples_have_the_mixtures_moments(knobs):
    model, num = model_of(), 40_000
    parts = components(model, knobs.get("temperature", 1.0), knobs.get("noise_scale", 1.0))
    weights = model.weights.log_prob().exp()
    x = model.sample(num, **knobs, generator=torch.Generator().manual_seed(0))
    means = torch.stack([part.mean for part in parts])
    mean = weights @ means
    second = torch.stack([part.covariance_matrix for part in parts])
    second = second + means[:, :, None] * means[:, None, :]
    covariance = torch.einsum("k,kij->ij", weights, second) - mean[:, None] * mean
    assert ((x.mean(dim=0) - mean).abs() < 5 * (covariance.diagonal() / num).sqrt()).all()
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    error = 5.0 * products.std(dim=0) / math.sqrt(num)
    assert ((products.mean(dim=0) - covariance).abs() < error).all()


def test_renormalised_draws_are_the_full_ones_that_stay_inside():
    model = model_of()
    x = model.sample(4000, evaluation="renormalised", generator=torch.Generator().manual_seed(0))
    share = torch.bincount(model.assign(x), minlength=K) / len(x)
    weights = model.weights.log_prob().exp()
    assert ((share - weights).abs() < 5.0 * (weights / len(x)).sqrt()).all()


# -- the manifold ---------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluation", [None, "renormalised"])
def test_without_noise_draws_lie_on_a_charts_line_and_reconstruct_as_themselves(evaluation):
    model = model_of()
    fixed = torch.Generator().manual_seed(0)
    x = model.sample(200, noise_scale=0.0, generator=fixed, evaluation=evaluation)
    distances = []
    for k, part in enumerate(components(model)):
        direction = model.flow.prior.part(k).loading.matrix().detach()[:, 0]
        offset = x - part.mean
        along = (offset @ direction / direction.square().sum())[:, None] * direction
        distances.append((offset - along).norm(dim=1))
    assert (torch.stack(distances).min(dim=0).values < 1e-7).all()
    torch.testing.assert_close(model.reconstruct(x), x)


def test_reconstruction_is_the_nearest_point_of_the_lines():
    model, x = model_of(), points(60)
    with torch.no_grad():
        candidates = []
        for k, part in enumerate(components(model)):
            direction = model.flow.prior.part(k).loading.matrix()[:, 0]
            step = (x - part.mean) @ direction / direction.square().sum()
            candidates.append(part.mean + step[:, None] * direction)
        every = torch.stack(candidates, dim=1)
        distance = (every - x[:, None]).norm(dim=2)
        nearest = distance.argmin(dim=1)
        torch.testing.assert_close(model.reconstruct(x), every[torch.arange(60), nearest])
        # a chart without weight has no manifold
        dead = int(nearest[0])
        model.weights.probabilities[dead] = 0.0
        distance[:, dead] = torch.inf
        expected = every[torch.arange(60), distance.argmin(dim=1)]
        torch.testing.assert_close(model.reconstruct(x), expected)


def test_embeddings_are_the_posterior_means_on_the_charts_lines():
    model, x = model_of(overlap=2), points(30)
    y = (x[:, None] - model.partitioner.codes) / SCALE
    with torch.no_grad():
        by_chart = torch.stack([model.flow.prior.part(k).embed(y[:, k]) for k in range(K)], dim=1)
        weights = model.responsibilities(x)
        found = model.embed(x)
        torch.testing.assert_close(found, by_chart[torch.arange(30), weights.argmax(dim=1)])
        expected = (weights[:, :, None] * by_chart).sum(dim=1)
        torch.testing.assert_close(model.embed(x, "mean"), expected)
    assert found.shape == (30, 1)


def test_a_shared_noisy_prior_has_a_manifold_too():
    model = gaussians(scale=SCALE, prior=HEAD)
    assert isinstance(model.flow.prior, NoisyInjectiveGaussian)
    assert heads.CAPABILITIES <= model.capabilities
    x = model.sample(50, noise_scale=0.0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.reconstruct(x), x)
    assert model.embed(x).shape == (50, 1)
    signal = model.flow.prior.signal_to_noise()
    assert torch.equal(model.intrinsic_dimension(), (signal > 1.0).sum().expand(K))


# -- training -------------------------------------------------------------------------------------


def test_heads_start_at_the_moments_of_their_charts():
    plane = {"name": "noisy-injective-gaussian", "latent_features": 1}
    codes, x = centres(), points(400)
    far = torch.full((1, 2), 50.0, dtype=F64)  # a chart without rows takes those of all
    partitioner = Centres(torch.cat([codes, far]))
    flow = Around(2, 2, SCALE)
    model = VQFlow(2, base_flow=flow, partitioner=partitioner, **{**HEADS, "prior": plane})
    model = model.double()
    (stage,) = [stage for stage in model.stages() if stage.name == "charts"]
    stage.prepare(x, x, torch.Generator())
    chart = model.assign(x)
    for k in range(K + 1):
        own = x if k == K else x[chart == k]
        y = (own - model.partitioner.codes[k]) / SCALE
        head = model.flow.prior.part(k)
        torch.testing.assert_close(head.bias.detach(), y.mean(dim=0))
        variances = head.covariance().detach().diagonal()
        torch.testing.assert_close(variances, y.var(dim=0, correction=0))
        # A leads where the rows spread most
        direction = head.loading.matrix().detach()[:, 0]
        axis = torch.linalg.eigh(y.T.cov()).eigenvectors[:, -1]
        assert abs(float(direction @ axis / direction.norm())) == pytest.approx(1.0, abs=1e-6)


def test_the_leak_penalty_draws_from_the_rows_own_head():
    plain, with_leak = model_of(), model_of(leak_penalty=2.0)
    x, stage = points(40), with_leak.stages()[-1]
    assert stage.noise_features == 1 + 2
    noise = 3.0 * torch.randn(40, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    penalty = stage.loss(x, noise, 0.0) - plain.stages()[-1].loss(x, noise, 0.0)
    with torch.no_grad():
        chart = plain.assign(x)
        drawn = [
            plain.flow.prior.part(int(k)).from_normal(noise[n : n + 1]) for n, k in enumerate(chart)
        ]
        away = plain.partitioner.distances(plain.chart_decode(torch.cat(drawn), chart).value)
    own = away.gather(1, chart[:, None]).squeeze(1)
    outside = (own - away.min(dim=1).values).clamp(min=0.0)
    assert (outside > 0).sum() > 3
    torch.testing.assert_close(penalty.detach(), 2.0 * outside)


def test_relevance_determination_is_shared_by_the_rows():
    model = model_of(ard=3.0)
    (stage,) = [stage for stage in model.stages() if stage.name == "maximum-likelihood"]
    each = torch.stack([model.flow.prior.part(k).ard_penalty() for k in range(K)])
    torch.testing.assert_close(stage.penalty(), 3.0 * each.sum() / 400)  # rows of ``gaussians``
    stage.penalty().backward()
    assert (model.flow.prior.stacked.loading.weight.grad != 0).all()
    assert model_of().stages()[-1].penalty is None


def curve_and_surface(num: int, seed: int) -> torch.Tensor:
    """Half the rows along a curve above, half on a saddle below, with noise of 0.05."""
    generator = torch.Generator().manual_seed(seed)
    t, a, b = 4.0 * torch.rand(3, num // 2, generator=generator) - 2.0
    curve = torch.stack([t, 0.5 * torch.sin(1.5 * t), 3.0 + 0.25 * t**2], dim=1)
    saddle = torch.stack([a, b, 0.1 * (a**2 - b**2) - 1.0], dim=1)
    x = torch.cat([curve, saddle])
    return x + 0.05 * torch.randn(x.shape, generator=generator)


def test_charts_find_the_dimensions_of_a_curve_and_of_a_surface():
    x_train, x_valid = curve_and_surface(1000, 1), curve_and_surface(300, 2)
    torch.manual_seed(0)
    model = VQFlow(
        3,
        base_flow={"name": "nice", "layers": 3, "hidden": [32, 32]},
        partitioner={"name": "kmeans", "num_charts": 6},
        prior={**HEAD, "latent_features": 2},
        prior_per_chart=True,
        ard=2.0,
        condition="one-hot",
        training={"epochs": 40, "lr": 5e-3, "batch_size": 100, "schedule": "cosine"},
    )
    flowzoo.fit(model, x_train, x_valid, seed=0)
    chart = model.assign(x_valid)
    on_curve = torch.arange(300) < 150
    charts_of_curve = sorted(set(chart[on_curve].tolist()))
    assert not set(charts_of_curve) & set(chart[~on_curve].tolist())
    expected = torch.full((6,), 2)
    expected[charts_of_curve] = 1
    assert torch.equal(model.intrinsic_dimension(), expected)
    with torch.no_grad():
        second = heads.signal_to_noise(model)[:, 1]
        noise = model.flow.prior.stacked.log_std.exp()
        away = (model.reconstruct(x_valid) - x_valid).norm(dim=1)
    assert (second[expected == 1] < 0.3).all() and (second[expected == 2] > 20.0).all()
    assert ((noise - 0.05).abs() < 0.02).all()
    assert away.mean() < 0.06  # the data's own distance is 0.05 E|n|, n of one or two dimensions


# -- refusals -------------------------------------------------------------------------------------


def test_refusals():
    for options, said in [
        ({"prior_per_chart": True}, "prior_per_chart: expected priors with parameters, got Stand"),
        ({"ard": 1.0}, "ard: expected 0 for a prior that is not noisy injective"),
        ({**HEADS, "ard": -1.0}, "ard: expected"),
        ({**HEADS, "ard": 1.0, "frames": "pca"}, "frames: expected 'none' with ard"),
        ({"prior": {**HEAD, "latent_features": 2}, "ard": 1.0}, "latent_features: expected below"),
        ({**HEADS, "base_flow": {"name": "cef"}}, "prior_per_chart: expected False for an inj"),
        ({"prior": {**HEAD, "latent_features": 3}}, "latent_features: expected at most"),
    ]:
        with pytest.raises(ValueError, match=said):
            VQFlow(2, **{"partitioner": Centres(centres()), **options})
    plain, model = gaussians(), model_of()
    for wrong in (-1.0, torch.inf):
        with pytest.raises(ValueError, match="noise_scale: expected"):
            model.sample(2, noise_scale=wrong)
    with pytest.raises(ValueError, match="noise_scale: expected 1 for this prior"):
        plain.sample(2, noise_scale=0.0)
    with pytest.raises(TypeError, match="prior: expected a noisy injective one"):
        plain.intrinsic_dimension()
    assert not heads.CAPABILITIES & plain.capabilities
