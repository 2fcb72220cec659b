"""The priors: densities against scipy, sampling, and the map from normals to the ball."""

import math

import pytest
import scipy.stats
import torch
from torch.func import vmap

from flowzoo.layers import RadialSquash
from flowzoo.priors import (
    NoisyInjectiveGaussian,
    Product,
    StandardNormal,
    UniformBall,
    build_prior,
)

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("features", [1, 2, 5])
def test_standard_normal_matches_scipy(features):
    z = torch.randn(10, features, dtype=F64)
    expected = scipy.stats.multivariate_normal(cov=torch.eye(features).numpy()).logpdf(z.numpy())
    torch.testing.assert_close(
        StandardNormal(features).log_prob(z), torch.as_tensor(expected, dtype=F64).reshape(10)
    )


def test_ball_volumes():
    for features, volume in (
        (1, 2.0),
        (2, math.pi),
        (3, 4 * math.pi / 3),
        (5, 8 * math.pi**2 / 15),
    ):
        log_prob = UniformBall(features).log_prob(torch.zeros(1, features, dtype=F64))
        assert log_prob.item() == pytest.approx(-math.log(volume), abs=1e-12)


def test_ball_support():
    prior = UniformBall(2)
    z = torch.tensor([[0.6, 0.8], [0.7, 0.8], [math.inf, 0.0], [math.nan, 0.0]], dtype=F64)
    inside, outside, infinite, bad = prior.log_prob(z).tolist()
    assert inside == pytest.approx(-math.log(math.pi))
    assert outside == infinite == -math.inf
    assert math.isnan(bad)


@pytest.mark.parametrize("features", [1, 2, 3, 64])
def test_ball_from_normal_is_uniform(features):
    noise = torch.randn(4000, features, dtype=F64)
    z = UniformBall(features).from_normal(noise)
    radius = z.norm(dim=1)
    assert (radius < 1).all()
    torch.testing.assert_close(z / radius[:, None], noise / noise.norm(dim=1, keepdim=True))
    # the radius's d-th power and, for d = 2, the angle are uniform
    assert scipy.stats.kstest((radius**features).numpy(), "uniform").pvalue > 1e-3
    assert abs(z.mean(0)).max() < 5 / math.sqrt(4000 * (features + 2))


@pytest.mark.parametrize("features", [1, 2, 7, 64, 784])
def test_ball_radius_matches_scipy(features):
    """Both branches of the radius, against the chi distribution function."""
    radii = torch.linspace(0.05, 3.0, 60, dtype=F64) * math.sqrt(features)
    noise = torch.zeros(60, features, dtype=F64)
    noise[:, 0] = radii
    ours = UniformBall(features).from_normal(noise)[:, 0]
    log_cdf = scipy.stats.chi(features).logcdf(radii.numpy())
    expected = torch.as_tensor(log_cdf, dtype=F64)
    seen = expected > -600  # scipy underflows beyond
    assert seen.sum() > 25
    torch.testing.assert_close(
        ours[seen], (expected[seen] / features).exp(), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("features", [1, 2, 5, 64])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_ball_from_normal_is_smooth_at_zero_and_far_out(features, dtype):
    scales = torch.tensor([0.0, 1e-20, 1e-3, 0.3, 1.0, 5.0, 30.0], dtype=dtype)[:, None]
    noise = (scales * torch.ones(7, features, dtype=dtype)).requires_grad_()
    z = UniformBall(features).from_normal(noise)
    z.sum().backward()
    assert z.isfinite().all() and noise.grad.isfinite().all()
    assert (z[0] == 0).all() and (noise.grad[0] > 0).all()
    assert z.dtype == dtype


@pytest.mark.parametrize("features", [1, 2, 5])
def test_ball_from_normal_gradient(features):
    noise = (0.2 + torch.rand(6, features, dtype=F64) * 2).requires_grad_()
    prior = UniformBall(features)
    assert torch.autograd.gradcheck(prior.from_normal, (noise,))
    # the change of variables: log|det dz/dn| = log N(n) - log q(z)
    j = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda v: prior.from_normal(v[None])[0], row)
            for row in noise.detach()
        ]
    )
    expected = StandardNormal(features).log_prob(noise.detach()) + prior.log_volume
    torch.testing.assert_close(torch.linalg.slogdet(j)[1], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["standard-normal", "uniform-ball"])
class TestEveryPrior:
    @pytest.mark.filterwarnings("error")
    def test_vmap(self, name):
        prior = build_prior(name, 3)
        noise = torch.randn(4, 6, 3, dtype=F64)
        z = vmap(prior.from_normal)(noise)
        for i in range(4):
            torch.testing.assert_close(z[i], prior.from_normal(noise[i]))
        torch.testing.assert_close(vmap(prior.log_prob)(z)[2], prior.log_prob(z[2]))

    def test_sampling(self, name):
        prior = build_prior(name, 2).double()
        draws = [
            prior.sample(3000, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
        ]
        assert draws[0].shape == (3000, 2) and draws[0].dtype == F64
        assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
        std = 1.0 if name == "standard-normal" else 0.5  # ball: E[z_i^2] = 1 / (d + 2)
        assert draws[0].std().item() == pytest.approx(std, rel=0.05)
        cold = prior.sample(3000, temperature=0.1, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(cold, 0.1 * draws[0])
        assert prior.sample(0).shape == (0, 2)
        assert prior.log_prob(prior.sample(5)).isfinite().all()

    def test_leaves_the_global_generator_alone(self, name):
        before = torch.random.get_rng_state()
        build_prior(name, 2).sample(5, generator=torch.Generator().manual_seed(0))
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_meta_and_state(self, name):
        prior = build_prior(name, 2).to("meta")
        assert prior.sample(4).is_meta
        assert prior.log_prob(torch.zeros(4, 2, device="meta")).is_meta
        assert not prior.state_dict()

    def test_empty_and_bad_input(self, name):
        prior = build_prior(name, 2)
        assert prior.log_prob(torch.zeros(0, 2)).shape == (0,)
        with pytest.raises(ValueError, match=r"z: expected shape \(N, 2\), got \(3, 1\)"):
            prior.log_prob(torch.zeros(3, 1))
        with pytest.raises(ValueError, match="temperature: expected"):
            prior.sample(3, temperature=0.0)
        with pytest.raises(ValueError, match="context: expected None"):
            prior.log_prob(torch.zeros(3, 2), torch.zeros(3, 1))


def test_support_maps():
    assert StandardNormal(2).support_map() is None
    squash = UniformBall(2).support_map()
    assert isinstance(squash, RadialSquash)
    # the squashed ball is a density on R^2: mass by quadrature in polar coordinates
    r = torch.linspace(0, 2000, 2_000_001, dtype=F64)
    x = torch.stack([r, torch.zeros_like(r)], dim=1)
    step = squash.encode(x)
    density = (UniformBall(2).log_prob(step.value) + step.log_abs_det).exp()
    assert torch.trapezoid(density * 2 * math.pi * r, r).item() == pytest.approx(1, abs=1e-5)


def test_hot_ball_is_refused():
    with pytest.raises(ValueError, match=r"temperature: expected in \(0, 1\] for a uniform ball"):
        UniformBall(2).sample(1, temperature=1.5)


def test_unknown_prior():
    with pytest.raises(
        ValueError, match=r"expected one of .*'uniform-ball'.*did you mean 'uniform"
    ):
        build_prior("uniform-bal", 2)


# product ------------------------------------------------------------------------------------------


def test_a_product_is_its_parts_side_by_side():
    product = Product([UniformBall(2), StandardNormal(3)])
    z = 0.4 * torch.randn(20, 5, dtype=F64)
    expected = UniformBall(2).log_prob(z[:, :2]) + StandardNormal(3).log_prob(z[:, 2:])
    torch.testing.assert_close(product.log_prob(z), expected)
    draws = product.sample(5000, generator=torch.Generator().manual_seed(0))
    assert draws.shape == (5000, 5) and (draws[:, :2].norm(dim=1) <= 1).all()
    assert draws[:, 2:].std() == pytest.approx(1.0, abs=0.05)
    cold = product.sample(5000, temperature=0.5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cold, 0.5 * draws)
    noise = torch.randn(20, 5, dtype=F64)
    from_normal = product.from_normal(noise)
    torch.testing.assert_close(from_normal[:, :2], UniformBall(2).from_normal(noise[:, :2]))
    assert torch.equal(from_normal[:, 2:], noise[:, 2:])
    assert isinstance(product.part(0), UniformBall)


def test_a_product_deals_out_the_noise_its_parts_take():
    noisy = NoisyInjectiveGaussian(3, latent_features=2).double()
    product = Product([UniformBall(2), noisy, StandardNormal(1)])
    assert product.noise_features == 2 + 5 + 1
    noise = torch.randn(20, 8, dtype=F64)
    draws = product.from_normal(noise)
    assert torch.equal(draws[:, :2], UniformBall(2).from_normal(noise[:, :2]))
    assert torch.equal(draws[:, 2:5], noisy.from_normal(noise[:, 2:7]))
    assert torch.equal(draws[:, 5:], noise[:, 7:])
    with pytest.raises(ValueError, match=r"noise: expected shape \(N, 8\), got \(20, 6\)"):
        product.from_normal(noise[:, :6])


def test_a_products_support_map_maps_the_blocks_that_need_it():
    support = Product([UniformBall(2), StandardNormal(1)]).support_map()
    x = torch.randn(6, 3, dtype=F64)
    z, volume = support.encode(x)
    ball = RadialSquash(2).encode(x[:, :2])
    assert torch.equal(z, torch.cat([ball.value, x[:, 2:]], dim=1))
    torch.testing.assert_close(volume, ball.log_abs_det)
    back, volume_back = support.decode(z)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(volume_back, volume)
    assert Product([StandardNormal(2), StandardNormal(1)]).support_map() is None


def test_a_product_refuses_what_has_no_meaning():
    with pytest.raises(ValueError, match="parts: expected at least one"):
        Product([])
    with pytest.raises(ValueError, match=r"z: expected shape \(N, 3\)"):
        Product([UniformBall(2), StandardNormal(1)]).log_prob(torch.zeros(2, 2))


def test_priors_by_mapping():
    options = {"name": "noisy-injective-gaussian", "latent_features": 1}
    prior = build_prior(options, 3)
    assert prior.latent_features == 1 and options == {**options}
    assert build_prior(prior, 3) is prior
    for wrong, message in (
        ({**options, "context_features": 2}, "context_features: set by the flow"),
        ({**options, "features": 3}, "features: set by the flow"),
        ({**options, "latent": 1}, "latent"),
        ({"latent_features": 1}, "prior: expected one of"),
    ):
        with pytest.raises(ValueError, match=message):
            build_prior(wrong, 3)
    with pytest.raises(ValueError, match="expected features=4"):
        build_prior(prior, 4)
