"""The prior of noisy injective flows against dense Gaussians, quadrature and closed forms."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.func import functional_call, stack_module_state, vmap

from flowzoo.low_rank import DenseLoading, UpSampling
from flowzoo.priors.noisy_injective_gaussian import NoisyInjectiveGaussian

F64 = torch.float64
SIZES = [(1, 1), (2, 1), (3, 3), (5, 2), (64, 8)]


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def prior_of(features: int, latent: int, **options) -> NoisyInjectiveGaussian:
    """A prior with nothing at its starting value, float64."""
    prior = NoisyInjectiveGaussian(features, latent_features=latent, **options).double()
    return shaken(prior)


def shaken(prior: NoisyInjectiveGaussian) -> NoisyInjectiveGaussian:
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return prior


def up_sampled() -> NoisyInjectiveGaussian:
    return shaken(NoisyInjectiveGaussian(32, loading=UpSampling((2, 4, 4))).double())


def dense(prior: NoisyInjectiveGaussian) -> MultivariateNormal:
    """N(b, A A' + Sigma) as torch has it."""
    matrix, std = prior.loading.matrix(), prior.log_std.exp().expand(prior.features)
    return MultivariateNormal(prior.bias, matrix @ matrix.T + torch.diag(std.square()))


def all_priors() -> list[NoisyInjectiveGaussian]:
    return [
        *(prior_of(*size) for size in SIZES),
        prior_of(5, 2, isotropic=True),
        up_sampled(),
    ]


# the density --------------------------------------------------------------------------------------


def test_density_is_the_dense_gaussian():
    for prior in all_priors():
        y = 2.0 * torch.randn(9, prior.features, dtype=F64)
        torch.testing.assert_close(prior.log_prob(y), dense(prior).log_prob(y), rtol=0, atol=1e-8)
        torch.testing.assert_close(prior.covariance(), dense(prior).covariance_matrix)


def test_density_integrates_to_one():
    line = torch.linspace(-30, 30, 6001, dtype=F64)
    for latent in (1, 2):
        prior = prior_of(2, latent)
        short = line[::6]
        grid = torch.cartesian_prod(short, short)
        mass = prior.log_prob(grid).exp().sum() * (short[1] - short[0]) ** 2
        assert mass.item() == pytest.approx(1.0, abs=1e-6)
    mass = prior_of(1, 1).log_prob(line[:, None]).exp().sum() * (line[1] - line[0])
    assert mass.item() == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("latent", [1, 2, 3])
def test_the_printed_marginal_is_off_by_the_latent_constant(latent):
    """Cunningham et al. (2020), eq. 41, as printed: too large by (d/2) log 2 pi."""
    prior = prior_of(6, latent)
    y = torch.randn(4, 6, dtype=F64)
    matrix, variance = prior.loading.matrix(), (2 * prior.log_std).exp()
    mu = y - prior.bias
    gram = torch.eye(latent, dtype=F64) + matrix.T @ (matrix / variance[:, None])
    u = mu @ (matrix / variance[:, None])
    log_zz = 0.5 * (
        (u @ gram.inverse() * u).sum(1) - gram.logdet() + latent * math.log(2 * math.pi)
    )
    log_zx = 0.5 * (
        (mu.square() / variance).sum(1) + variance.log().sum() + 6 * math.log(2 * math.pi)
    )
    printed = log_zz - log_zx
    excess = torch.full((4,), 0.5 * latent * math.log(2 * math.pi), dtype=F64)
    torch.testing.assert_close(printed - prior.log_prob(y), excess)


@pytest.mark.parametrize("std", [1e-1, 1e-3])
def test_float32_keeps_its_digits_where_the_noise_is_small(std):
    prior = NoisyInjectiveGaussian(64, latent_features=8)
    with torch.no_grad():
        prior.log_std.fill_(math.log(std))
        prior.loading.weight[:, 7] = prior.loading.weight[:, 6]  # Lambda is singular
    y = prior.sample(50)
    exact = copy.deepcopy(prior).double().log_prob(y.double())
    assert (prior.log_prob(y).double() - exact).abs().max() < 64 * 2e-7 / std


def test_gradients():
    prior = prior_of(4, 2)
    y = torch.randn(3, 4, dtype=F64)
    state = dict(prior.named_parameters())

    def density(*values: Tensor) -> Tensor:
        return functional_call(prior, dict(zip(state, values, strict=True)), (y,))

    prior.forward = prior.log_prob  # type: ignore[method-assign]
    assert torch.autograd.gradcheck(density, tuple(state.values()))


def test_under_vmap():
    priors = [prior_of(6, 2) for _ in range(3)]
    for prior in priors:
        prior.forward = prior.log_prob  # type: ignore[method-assign]
    parameters, _ = stack_module_state(priors)
    y = torch.randn(3, 4, 6, dtype=F64)
    found = vmap(lambda state, rows: functional_call(priors[0], state, (rows,)))(parameters, y)
    expected = torch.stack([prior.log_prob(rows) for prior, rows in zip(priors, y, strict=True)])
    torch.testing.assert_close(found, expected)


def test_a_matrix_that_cannot_be_factored_is_nan():
    prior = prior_of(4, 2)
    with torch.no_grad():
        prior.loading.weight[:, 1] = 0.0
    y = torch.randn(3, 4, dtype=F64)
    assert prior.elbo(y).isnan().all()
    assert prior.log_prob(y).isfinite().all()
    with torch.no_grad():
        prior.loading.weight[0, 0] = math.nan
    assert prior.log_prob(y).isnan().all()


# the stochastic inverse ---------------------------------------------------------------------------


def test_manifold_term_is_the_integral_over_z():
    prior = prior_of(3, 1)
    y = torch.randn(4, 3, dtype=F64)
    line = torch.linspace(-60, 60, 40001, dtype=F64)
    around = Normal(prior.place(line[:, None]), prior.log_std.exp())
    for row, found in zip(y, prior.manifold_term(y), strict=True):
        likelihood = around.log_prob(row).sum(dim=1)
        integral = torch.logsumexp(likelihood, 0) + math.log(line[1] - line[0])
        assert found.item() == pytest.approx(integral.item(), abs=1e-10)


def test_isotropic_manifold_term_is_the_projection_form():
    """The form after their eq. 9 with its factor and its projection mended; s is a variance."""
    prior = prior_of(7, 3, isotropic=True)
    y = torch.randn(5, 7, dtype=F64)
    matrix, variance = prior.loading.matrix(), (2 * prior.log_std).exp()
    mu = y - prior.bias
    gram = matrix.T @ matrix
    projected = mu @ matrix @ gram.inverse() @ matrix.T
    expected = (
        -(mu * (mu - projected)).sum(1) / (2 * variance)
        - 0.5 * gram.logdet()
        - 0.5 * (7 - 3) * (2 * math.pi * variance).log()
    )
    torch.testing.assert_close(prior.manifold_term(y), expected)
    printed = expected + 0.5 * gram.logdet() - gram.logdet() / (2 * variance)
    assert not torch.allclose(prior.manifold_term(y), printed)


def test_stochastic_inverse_is_the_normalised_likelihood():
    for prior in all_priors():
        y = torch.randn(6, prior.features, dtype=F64)
        noise = torch.randn(6, prior.latent_features, dtype=F64)
        z, log_q = prior.stochastic_inverse(y, noise)
        likelihood = Normal(prior.place(z), prior.log_std.exp()).log_prob(y).sum(dim=1)
        torch.testing.assert_close(likelihood - log_q, prior.manifold_term(y))


def test_draws_of_the_stochastic_inverse_have_its_moments():
    prior = prior_of(5, 2)
    y = torch.randn(1, 5, dtype=F64)
    noise = torch.randn(200_000, 2, dtype=F64)
    z, _ = prior.stochastic_inverse(y.expand(len(noise), -1), noise)
    matrix = prior.loading.matrix() * (-prior.log_std).exp()[:, None]
    cov = (matrix.T @ matrix).inverse()
    scale = cov.diagonal().sqrt()
    mean = prior.embed(y, rule="pseudo-inverse")
    assert ((z.mean(0) - mean[0]).abs() / scale).max() < 0.02
    assert ((z.T.cov() - cov).abs() / torch.outer(scale, scale)).max() < 0.02


def test_bound_and_gap_add_up():
    for prior in all_priors():
        y = torch.randn(6, prior.features, dtype=F64)
        gap = prior.gap(y)
        assert (gap > 0).all()
        torch.testing.assert_close(prior.elbo(y) + gap, prior.log_prob(y))


def test_gap_is_the_divergence_of_two_gaussians():
    prior = prior_of(6, 3)
    y = torch.randn(4, 6, dtype=F64)
    matrix = prior.loading.matrix() * (-prior.log_std).exp()[:, None]
    gram = matrix.T @ matrix
    eye = torch.eye(3, dtype=F64)
    inverse = MultivariateNormal(prior.embed(y, rule="pseudo-inverse"), precision_matrix=gram)
    posterior = MultivariateNormal(prior.embed(y), precision_matrix=gram + eye)
    torch.testing.assert_close(prior.gap(y), kl_divergence(inverse, posterior))


def test_embeddings():
    prior = prior_of(5, 2)
    z = torch.randn(4, 2, dtype=F64)
    on_plane = prior.place(z)
    torch.testing.assert_close(prior.embed(on_plane, rule="pseudo-inverse"), z)
    y = torch.randn(4, 5, dtype=F64)
    best = prior.embed(y, rule="pseudo-inverse").detach().requires_grad_()
    likelihood = Normal(prior.place(best), prior.log_std.exp()).log_prob(y).sum()
    (slope,) = torch.autograd.grad(likelihood, best)
    assert slope.abs().max() < 1e-9  # the mode of p(y|z)
    mean = prior.embed(y).detach().requires_grad_()
    joint = Normal(prior.place(mean), prior.log_std.exp()).log_prob(y).sum()
    joint = joint + Normal(0.0, 1.0).log_prob(mean).sum()
    (slope,) = torch.autograd.grad(joint, mean)
    assert slope.abs().max() < 1e-9  # the mode, and mean, of p(z|y)
    with pytest.raises(ValueError, match=r"rule: expected one of .*, got 'mean'"):
        prior.embed(y, rule="mean")


# context, loadings --------------------------------------------------------------------------------


def test_context_moves_the_noise_row_by_row():
    prior = prior_of(4, 2, context_features=3)
    y, context = torch.randn(5, 4, dtype=F64), torch.randn(5, 3, dtype=F64)
    assert prior.net is not None
    matrix = prior.loading.matrix()
    for row, given, found in zip(y, context, prior.log_prob(y, context), strict=True):
        shift, change = prior.net(given[None])[0].split([4, 4])
        variance = (2 * (prior.log_std + 5.0 * (change / 5.0).tanh())).exp()
        one = MultivariateNormal(prior.bias + shift, matrix @ matrix.T + torch.diag(variance))
        torch.testing.assert_close(found, one.log_prob(row))
    torch.testing.assert_close(
        prior.elbo(y, context) + prior.gap(y, context), prior.log_prob(y, context)
    )
    with pytest.raises(ValueError, match="context: expected shape"):
        prior.log_prob(y)
    far = prior.log_prob(y, 1e6 * context)  # the noise cannot vanish: finite
    assert bool(torch.isfinite(far).all())


def test_up_sampling_copies_pixels():
    loading = UpSampling((1, 4, 6), factor=2)
    picture = torch.arange(6.0).reshape(1, 2, 3)
    expected = picture.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    torch.testing.assert_close(loading(picture.reshape(1, 6)), expected.reshape(1, 24))


def test_loadings_are_their_matrices():
    for loading in (DenseLoading(8, 3).double(), UpSampling((2, 2, 4)).double()):
        with torch.no_grad():
            for parameter in loading.parameters():
                parameter.normal_()
        matrix = loading.matrix()
        features, latent = matrix.shape
        z, y = torch.randn(5, latent, dtype=F64), torch.randn(5, features, dtype=F64)
        torch.testing.assert_close(loading(z), z @ matrix.T)
        torch.testing.assert_close(loading.transposed(y), y @ matrix)
        for precision in (torch.rand(features, dtype=F64), torch.rand(5, features, dtype=F64)):
            whole = matrix.T @ (precision[..., None] * matrix) + 0.3 * torch.eye(latent, dtype=F64)
            factor = loading.factor(precision, 0.3)
            torch.testing.assert_close(factor.log_det(), whole.logdet())
            torch.testing.assert_close(
                factor.trace_of_inverse(), whole.inverse().diagonal(dim1=-2, dim2=-1).sum(-1)
            )
            solved = (whole.inverse() @ z[..., None])[..., 0]
            torch.testing.assert_close(factor.solve(z), solved)
            squares = (z * (whole @ z[..., None])[..., 0]).sum(1)
            torch.testing.assert_close(factor.quadratic(z), squares)
            # colour maps N(0, I) to N(0, M^-1): its matrix times its transpose is M^-1
            eye = torch.eye(latent, dtype=F64)
            if precision.ndim == 1:
                mapped = factor.colour(eye).T
                torch.testing.assert_close(mapped @ mapped.T, whole.inverse())


# sampling -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "noise_scale", "noise"),
    [(1.0, 1.0, "learned"), (2.0, 0.5, "learned"), (0.7, 0.0, "learned"), (1.0, 0.5, "identity")],
)
def test_moments_of_samples(temperature, noise_scale, noise):
    """The noise scale multiplies the standard deviation, the variance by its square."""
    prior = prior_of(4, 2, sample_noise=noise)
    generator = torch.Generator().manual_seed(1)
    y = prior.sample(400_000, temperature=temperature, noise_scale=noise_scale, generator=generator)
    matrix = prior.loading.matrix()
    around = (2 * prior.log_std).exp() if noise == "learned" else torch.ones(4, dtype=F64)
    expected = temperature**2 * matrix @ matrix.T + noise_scale**2 * torch.diag(around)
    scale = expected.diagonal().sqrt()
    assert ((y.T.cov() - expected).abs() / torch.outer(scale, scale)).max() < 0.02
    assert ((y.mean(0) - prior.bias).abs() / scale).max() < 0.01
    if noise_scale == 0.0:  # on the plane
        torch.testing.assert_close(prior.place(prior.embed(y, rule="pseudo-inverse")), y)


def test_normals_become_draws():
    prior = prior_of(3, 2)
    assert prior.noise_features == 5
    y = prior.from_normal(torch.randn(400_000, 5, dtype=F64))
    expected = prior.covariance()
    scale = expected.diagonal().sqrt()
    assert ((y.T.cov() - expected).abs() / torch.outer(scale, scale)).max() < 0.02


def test_signal_to_noise():
    prior = prior_of(6, 3)
    matrix, variance = prior.loading.matrix(), (2 * prior.log_std).exp()
    expected = torch.linalg.eigvalsh(matrix.T @ (matrix / variance[:, None])).flip(0)
    torch.testing.assert_close(prior.signal_to_noise(), expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"latent_features": 4}, "latent_features: expected at most features=3, got 4"),
        ({"latent_features": 0}, "latent_features: expected"),
        ({"sample_noise": "none"}, "sample_noise: expected one of"),
        ({"loading": DenseLoading(4, 2)}, "loading: expected 3 features, got 4"),
        (
            {"loading": DenseLoading(3, 2), "latent_features": 1},
            "latent_features: expected 2, as the loading has, got 1",
        ),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(ValueError, match=said):
        NoisyInjectiveGaussian(3, **options)


def test_bad_arguments():
    prior = NoisyInjectiveGaussian(3, latent_features=2)
    for options, said in (
        ({"temperature": 0.0}, "temperature: expected > 0 and finite, got 0.0"),
        ({"noise_scale": -1.0}, "noise_scale: expected a finite number >= 0, got -1.0"),
    ):
        with pytest.raises(ValueError, match=said):
            prior.sample(2, **options)
    with pytest.raises(ValueError, match=r"shape: expected \(C, H, W\)"):
        UpSampling((4, 4))
    with pytest.raises(ValueError, match="factor: expected to divide 4 and 5, got 2"):
        UpSampling((1, 4, 5))


def test_columns_of_nothing_leave_the_nearest_point():
    full = prior_of(5, 2)
    wide = prior_of(5, 4)
    y = torch.randn(7, 5, dtype=F64)
    with torch.no_grad():
        wide.bias.copy_(full.bias)
        wide.log_std.copy_(full.log_std)
        wide.loading.weight[:, :2] = full.loading.weight
        wide.loading.weight[:, 2] = 0.0
        wide.loading.weight[:, 3] = 1e-42  # as automatic relevance determination leaves it
    z = wide.embed(y, rule="pseudo-inverse")
    torch.testing.assert_close(z[:, :2], full.embed(y, rule="pseudo-inverse"))
    assert float(z.detach()[:, 2:].abs().max()) < 1e-30
    torch.testing.assert_close(wide.log_prob(y), full.log_prob(y))
    wide.loading.weight.data[:, 3] = wide.loading.weight[:, 0]  # the same column twice
    point = wide.place(wide.embed(y, rule="pseudo-inverse"))
    torch.testing.assert_close(point, full.place(full.embed(y, rule="pseudo-inverse")))
    picture = up_sampled()
    rows = torch.randn(3, picture.features, dtype=F64)
    with torch.no_grad():
        picture.loading.gain[0] = 0.0
    z = picture.embed(rows, rule="pseudo-inverse")
    assert bool(torch.isfinite(z).all()) and not z[:, 0].any()


def test_pruning_keeps_what_rises_above_the_noise():
    prior = prior_of(6, 4, isotropic=True, noise_std=0.5)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=F64))[0]
    axes = torch.linalg.qr(torch.randn(6, 4, dtype=F64))[0]
    sizes = torch.tensor([3.0, 1.0, 0.3, 1e-3], dtype=F64)  # two above the noise
    with torch.no_grad():
        prior.loading.weight.copy_(axes * sizes @ turn)
        prior.log_std.fill_(math.log(0.5))
    assert int(prior.intrinsic_dimension()) == 2
    prior.prune()
    torch.testing.assert_close(
        prior.loading.matrix().norm(dim=0), torch.tensor([3.0, 1.0, 0.0, 0.0], dtype=F64)
    )
    kept = axes[:, :2] * sizes[:2].square() @ axes[:, :2].T
    torch.testing.assert_close(prior.covariance(), kept + 0.25 * torch.eye(6, dtype=F64))
    whole = prior_of(5, 3)
    before = whole.covariance()
    whole.prune(threshold=0.0)  # a turn of z
    torch.testing.assert_close(whole.covariance(), before)
    with pytest.raises(ValueError, match="loading: expected a dense one"):
        up_sampled().prune()


def test_a_conditional_prior_wants_its_context():
    prior = prior_of(4, 2, context_features=3)
    for method in (prior.covariance, prior.signal_to_noise, prior.intrinsic_dimension):
        with pytest.raises(ValueError, match="context: expected 3 columns"):
            method()
    with pytest.raises(ValueError, match="context"):
        prior.from_normal(torch.randn(2, 6, dtype=F64))
    with pytest.raises(ValueError, match="num"):
        prior_of(3, 1).sample(-1)
