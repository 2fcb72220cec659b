"""Injections with noise: weights against dense Gaussians and quadrature, draws, embeddings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from flowzoo_plugins.noisy_injective.deep import build_injection
from flowzoo_plugins.noisy_injective.gaussian import GaussianInjection, Plane, UpSamplingInjection
from flowzoo_plugins.noisy_injective.injection import NoisyInjection
from flowzoo_plugins.noisy_injective.stochastic_coupling import StochasticCoupling

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def shaken(injection: NoisyInjection, size: float = 0.4) -> NoisyInjection:
    """Float64, with nothing at its starting value."""
    injection.double()
    with torch.no_grad():
        for parameter in injection.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return injection


def each() -> list[NoisyInjection]:
    return [
        shaken(GaussianInjection(5, 2)),
        shaken(GaussianInjection(3, 3, isotropic=True)),
        shaken(UpSamplingInjection(16, shape=(1, 4, 4))),
        shaken(StochasticCoupling(5, 3, hidden=(6,))),
        shaken(StochasticCoupling(2, 2, hidden=(6,), isotropic=True)),
    ]


def noise_of(plane: Plane, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """b and the standard deviations, for one row of context."""
    if plane.net is None or context is None:
        return plane.bias, plane.log_std.exp().expand(plane.features)
    out = plane.net(context[None])[0]
    change = 5.0 * torch.tanh(out[plane.features :] / 5.0)
    std = (plane.log_std + change).exp().expand(plane.features)
    return plane.bias + out[: plane.features], std


def dense(plane: Plane, y: Tensor, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """log p(y|z) and log q(z|y) of single rows, by matrices of full size."""
    bias, std = noise_of(plane, context)
    matrix = plane.loading.matrix()
    inverse = torch.diag(1.0 / std.square())
    precision = matrix.T @ inverse @ matrix
    mean = precision.inverse() @ matrix.T @ inverse @ (y - bias)
    likelihood = MultivariateNormal(matrix @ z + bias, torch.diag(std.square()))
    return (
        likelihood.log_prob(y),
        MultivariateNormal(mean, covariance_matrix=precision.inverse()).log_prob(z),
    )


def log_likelihood(injection: NoisyInjection, y: Tensor, z: Tensor) -> Tensor:
    """log p(y|z) of rows z (M, d) for one y, by independent normals."""
    if isinstance(injection, GaussianInjection):
        around = Normal(injection.plane.place(z), noise_of(injection.plane, None)[1])
        return around.log_prob(y).sum(dim=1)
    assert isinstance(injection, StochasticCoupling)
    y1, y2 = y[: injection.split], y[injection.split :]
    z1, z2 = z[:, : injection.latent_split], z[:, injection.latent_split :]
    total = z.new_zeros(len(z))
    for plane, rows, part, given in (
        (injection.second, z2, y2, z1),
        (injection.first, z1, y1, y2.expand(len(z), -1)),
    ):
        bias, log_std = plane._noise(given)
        around = Normal(plane.loading(rows) + bias, log_std.exp())
        total = total + around.log_prob(part).sum(dim=1)
    return total


# the weight ---------------------------------------------------------------------------------------


def test_weight_of_a_plane_is_that_of_dense_gaussians():
    for injection in each()[:3]:
        assert isinstance(injection, GaussianInjection)
        y = torch.randn(2, injection.features, dtype=F64)
        noise = torch.randn(2, 3, injection.latent_features, dtype=F64)
        z, weight = injection.invert(y, noise)
        for n in range(2):
            for k in range(3):
                p, q = dense(injection.plane, y[n], z[n, k], None)
                torch.testing.assert_close(weight[n, k], p - q)


def test_weight_of_a_coupling_is_that_of_dense_gaussians():
    for coupling in each()[3:]:
        assert isinstance(coupling, StochasticCoupling)
        y = torch.randn(2, coupling.features, dtype=F64)
        noise = torch.randn(2, 3, coupling.latent_features, dtype=F64)
        z, weight = coupling.invert(y, noise)
        for n in range(2):
            y1, y2 = y[n, : coupling.split], y[n, coupling.split :]
            for k in range(3):
                z1, z2 = z[n, k, : coupling.latent_split], z[n, k, coupling.latent_split :]
                first, second = (
                    dense(coupling.first, y1, z1, y2),
                    dense(coupling.second, y2, z2, z1),
                )
                expected = first[0] + second[0] - first[1] - second[1]
                torch.testing.assert_close(weight[n, k], expected)
                rows = log_likelihood(coupling, y[n], z[n, k][None])[0]
                torch.testing.assert_close(rows, first[0] + second[0])
        if coupling.features - coupling.split > 1:  # it depends on the draw, but for a square A_2
            assert weight.std(dim=1).min() > 1e-3


def prior_density(z: Tensor) -> Tensor:
    """log p_z: two bumps, nothing a closed form helps with."""
    bumps = [Normal(centre, 0.7).log_prob(z).sum(dim=-1) for centre in (-1.0, 1.2)]
    return torch.stack(bumps).logsumexp(dim=0) - math.log(2.0)


@pytest.mark.parametrize("kind", ["gaussian", "stochastic-coupling"])
def test_weighted_draws_converge_to_the_integral_over_z(kind):
    """Draws are of q: the mean of p_z(z) p(y|z) / q(z|y) is the integral, here on a grid of z."""
    if kind == "gaussian":
        injection = shaken(GaussianInjection(2, 1))
        line = torch.linspace(-12, 12, 4001, dtype=F64)
        grid, cell = line[:, None], (line[1] - line[0]).log()
    else:
        injection = shaken(StochasticCoupling(4, 2, hidden=(6,)))
        line = torch.linspace(-9, 9, 301, dtype=F64)
        grid, cell = torch.cartesian_prod(line, line), 2.0 * (line[1] - line[0]).log()
    y = torch.randn(3, injection.features, dtype=F64)
    noise = torch.randn(3, 20_000, injection.latent_features, dtype=F64)
    with torch.no_grad():
        z, weight = injection.invert(y, noise)
        terms = (prior_density(z) + weight).exp()
        for row, found in zip(y, terms, strict=True):
            exact = (prior_density(grid) + log_likelihood(injection, row, grid)).logsumexp(0) + cell
            error = found.std() / len(found) ** 0.5
            assert error < 0.03 * exact.exp()
            assert (found.mean() - exact.exp()).abs() < 4.0 * error


def test_gradients_of_the_inverse_with_fixed_noise():
    for injection in (
        shaken(GaussianInjection(4, 2)),
        shaken(StochasticCoupling(4, 2, hidden=(3,))),
    ):
        noise = torch.randn(2, 2, 2, dtype=F64)
        y = torch.randn(2, 4, dtype=F64, requires_grad=True)
        names = [name for name, _ in injection.named_parameters()]

        def outputs(y: Tensor, *values: Tensor, names=names, injection=injection, noise=noise):
            injection.forward = injection.invert  # type: ignore[method-assign]
            state = dict(zip(names, values, strict=True))
            return tuple(torch.func.functional_call(injection, state, (y, noise)))

        assert torch.autograd.gradcheck(outputs, (y, *injection.parameters()))


# draws and embeddings -----------------------------------------------------------------------------


def test_points_of_the_manifold_embed_where_they_are_from():
    for injection in each():
        z = torch.randn(6, injection.latent_features, dtype=F64)
        torch.testing.assert_close(injection.embed(injection.place(z)), z)


def test_embedding_of_a_plane_is_the_mode_of_the_likelihood():
    injection = shaken(GaussianInjection(5, 2))
    y = torch.randn(1, 5, dtype=F64)
    best = injection.embed(y).detach().requires_grad_()
    (slope,) = torch.autograd.grad(log_likelihood(injection, y[0], best).sum(), best)
    assert slope.abs().max() < 1e-9


@pytest.mark.parametrize("noise_scale", [0.0, 0.5, 1.0])
def test_noise_scale_multiplies_the_standard_deviation(noise_scale):
    injection = shaken(GaussianInjection(4, 2))
    z = torch.randn(1, 2, dtype=F64).expand(100_000, -1)
    with torch.no_grad():
        y = injection.draw(z, torch.randn(len(z), 4, dtype=F64), noise_scale=noise_scale)
        expected = noise_scale * injection.plane.log_std.exp()
        torch.testing.assert_close(y.std(dim=0), expected, rtol=0.02, atol=1e-12)
        torch.testing.assert_close(y.mean(dim=0), injection.place(z[:1])[0], rtol=0, atol=0.02)


def test_draws_of_a_coupling_have_the_density_of_its_two_lines():
    """Cell by cell: the first column is drawn given the second, the second given z_1."""
    coupling = shaken(StochasticCoupling(2, 2, hidden=(6,)))
    z = torch.randn(1, 2, dtype=F64)
    with torch.no_grad():
        y = coupling.draw(z.expand(200_000, -1), torch.randn(200_000, 2, dtype=F64))
        bias, std = noise_of(coupling.second, z[0, :1])
        mean = coupling.second.loading(z[:, 1:])[0] + bias
        assert ((y[:, 1].mean() - mean) / std).abs() < 0.02
        assert (y[:, 1].std() / std - 1.0).abs() < 0.02
        bias, log_std = coupling.first._noise(y[:, 1:])
        white = (y[:, :1] - coupling.first.loading(z[:, :1]) - bias) / log_std.exp()
        assert white.mean().abs() < 0.01
        assert (white.std() - 1.0).abs() < 0.01


def test_identity_noise_ignores_the_learned_one():
    injection = shaken(GaussianInjection(3, 1, sample_noise="identity"))
    noise = torch.randn(5, 3, dtype=F64)
    z = torch.randn(5, 1, dtype=F64)
    torch.testing.assert_close(injection.draw(z, noise), injection.place(z) + noise)


def test_a_far_context_leaves_the_noise_finite():
    coupling = shaken(StochasticCoupling(4, 2, hidden=(8,)), size=2.0)
    y = torch.full((1, 4), 1e6, dtype=F64)
    weight = coupling.invert(y, torch.randn(1, 3, 2, dtype=F64)).log_weight
    assert weight.isfinite().all()


# where a plane starts -----------------------------------------------------------------------------


def test_start_finds_a_plane_and_no_direction_below_the_noise():
    """Data of three directions: a plane of two finds the larger ones, one of five stays usable."""
    axes = torch.linalg.qr(torch.randn(6, 3, dtype=F64)).Q * torch.tensor([5.0, 3.0, 1.0])
    x = torch.randn(4000, 3, dtype=F64) @ axes.T + 0.3 * torch.randn(4000, 6, dtype=F64) + 2.0
    injection = GaussianInjection(6, 2).double()
    injection.start(x, x)
    matrix = injection.plane.loading.matrix().detach()
    largest = axes[:, :2] / axes[:, :2].norm(dim=0)
    inside = torch.linalg.qr(matrix).Q.T @ largest
    assert torch.linalg.svdvals(inside).min() > 0.99
    torch.testing.assert_close(injection.plane.bias.detach(), x.mean(0))
    for options in ({}, {"isotropic": True}, {"learn_noise": False, "noise_std": 0.5}):
        wide = GaussianInjection(6, 5, **options).double()
        wide.start(x, x)
        assert wide.plane.signal_to_noise().min() >= 1.0 - 1e-9
        assert wide.plane.log_prob(x).mean() > injection.plane.log_prob(x).mean() - 4.0
    kept = wide.plane.log_std.detach()
    torch.testing.assert_close(kept, torch.full_like(kept, math.log(0.5)))


def test_a_start_without_noise_in_the_data_leaves_some():
    z = torch.randn(200, 2, dtype=F64)
    y = z @ torch.randn(2, 5, dtype=F64)  # a plane, exactly
    injection = GaussianInjection(5, 2).double()
    injection.start(y, y)
    share = (2.0 * injection.plane.log_std).exp() / injection.plane.covariance().diagonal()
    assert float(share.detach().min()) > 0.04


def test_a_random_start_is_well_conditioned():
    for injection in (GaussianInjection(9, 9), UpSamplingInjection(16, shape=(1, 4, 4))):
        values = injection.plane.signal_to_noise().detach()
        assert values.min() > 0.99


# options ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("injection", "latent", "said"),
    [
        ("gausian", 2, r"injection: expected one of .*, got 'gausian'; did you mean 'gaussian'"),
        ({"name": "gaussian", "hidden": [3]}, 2, "unknown option 'hidden'"),
        ({"name": "gaussian", "features": 3}, 2, "features: set by the model to 4"),
        ("gaussian", 5, "latent_features: expected at most"),
        ("stochastic-coupling", 1, "latent_features: expected at least 2"),
        ({"name": "up-sampling", "shape": [1, 2, 4]}, None, "expected 4 features, got 8"),
        (GaussianInjection(3, 2), 2, "injection: expected features=4, got 3"),
        (GaussianInjection(4, 2), 3, "injection: expected latent_features=3, got 2"),
    ],
)
def test_bad_options(injection, latent, said):
    with pytest.raises(ValueError, match=said):
        build_injection(injection, 4, latent)


def test_bad_arguments():
    injection = GaussianInjection(4, 2)
    for call, said in (
        (lambda: injection.invert(torch.zeros(3, 4), torch.zeros(3, 2)), "noise: expected shape"),
        (lambda: injection.invert(torch.zeros(3, 2), torch.zeros(3, 1, 2)), "y: expected shape"),
        (lambda: injection.draw(torch.zeros(3, 4), torch.zeros(3, 4)), "z: expected shape"),
        (
            lambda: injection.draw(torch.zeros(3, 2), torch.zeros(3, 4), noise_scale=-1.0),
            "noise_scale: expected",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    with pytest.raises(ValueError, match="features: expected at least 2"):
        StochasticCoupling(1)
