"""A prior per chart: every row is its own chart's prior's, and nothing else's."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.func import functional_call, grad, vmap

from flowzoo.priors import (
    NoisyInjectiveGaussian,
    PerChart,
    Product,
    StandardNormal,
    UniformBall,
)

F64 = torch.float64
K = 3


def parts_of(features: int = 2, latent: int = 1, charts: int = K, **options):
    """K planes with nothing alike, float64."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(charts):
        part = NoisyInjectiveGaussian(features, latent_features=latent, **options).double()
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=F64))
        parts.append(part)
    return parts


def rows(num: int, columns: int, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(num, columns, generator=generator, dtype=F64)
    return z, torch.randint(K, (num,), generator=generator)


@pytest.mark.parametrize("isotropic", [True, False])
def test_every_row_is_its_own_priors(isotropic):
    parts = parts_of(3, 2, isotropic=isotropic)
    prior = PerChart(parts)
    z, chart = rows(20, 3)
    noise, _ = rows(20, prior.noise_features, 2)
    assert prior.noise_features == 5
    scored, drawn = prior.log_prob(z, chart), prior.from_normal(noise, chart)
    embedded = prior.by_row("embed", chart, z, rule="pseudo-inverse")
    for n, k in enumerate(chart.tolist()):
        one = slice(n, n + 1)
        torch.testing.assert_close(scored[one], parts[k].log_prob(z[one]))
        torch.testing.assert_close(drawn[one], parts[k].from_normal(noise[one]))
        expected = parts[k].embed(z[one], rule="pseudo-inverse")
        torch.testing.assert_close(embedded[one], expected)
    expected = torch.stack([part.signal_to_noise() for part in parts])
    torch.testing.assert_close(prior.by_chart("signal_to_noise"), expected)


def test_each_charts_density_has_mass_one():
    prior = PerChart(parts_of())
    line = torch.linspace(-12, 12, 301, dtype=F64)
    grid = torch.cartesian_prod(line, line)
    for k in range(K):
        chart = torch.full((len(grid),), k)
        mass = prior.log_prob(grid, chart).exp().sum() * (line[1] - line[0]) ** 2
        assert mass.item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("knobs", [{}, {"temperature": 0.5, "noise_scale": 2.0}])
def test_draws_have_their_charts_moments(knobs):
    parts = parts_of()
    prior, num = PerChart(parts), 30_000
    chart = torch.arange(num) % K
    t, s = knobs.get("temperature", 1.0), knobs.get("noise_scale", 1.0)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    draws, again, other = (prior.sample(chart, **knobs, generator=g) for g in generators)
    assert torch.equal(draws, again) and not torch.equal(draws, other)
    with torch.no_grad():
        for k, part in enumerate(parts):
            own, signal = draws[chart == k], part.loading.matrix() @ part.loading.matrix().T
            covariance = t**2 * signal + s**2 * torch.diag((2.0 * part.log_std).exp())
            error = 5.0 * (covariance.diagonal() / len(own)).sqrt()
            assert ((own.mean(dim=0) - part.bias).abs() < error).all()
            spread = covariance.diagonal()
            scale = (spread[:, None] * spread).sqrt()
            assert ((own.T.cov() - covariance).abs() < 5.0 * scale * math.sqrt(2 / len(own))).all()


def test_without_noise_draws_lie_on_their_charts_planes():
    parts = parts_of(3, 1)
    prior, chart = PerChart(parts), torch.arange(30) % K
    draws = prior.sample(chart, noise_scale=0.0)
    for k, part in enumerate(parts):
        own = draws[chart == k]
        points = part.place(part.embed(own, rule="pseudo-inverse"))
        torch.testing.assert_close(points, own)
        assert torch.linalg.matrix_rank(own - part.bias) == 1


def test_a_row_reaches_its_own_charts_gradient_only():
    parts = parts_of(3, 2)
    prior = PerChart(parts)
    with torch.no_grad():
        prior.stacked.bias[2] = torch.nan  # a chart gone wrong
    z, _ = rows(10, 3)
    chart = torch.arange(10) % 2
    prior.log_prob(z, chart).sum().backward()
    for k in (0, 1):
        parts[k].log_prob(z[chart == k]).sum().backward()
    for name, stack in prior.stacked.named_parameters():
        assert (stack.grad[2] == 0).all()
        for k in (0, 1):
            torch.testing.assert_close(stack.grad[k], parts[k].get_parameter(name).grad)


def test_gradients_are_those_of_finite_differences():
    prior = PerChart(parts_of())
    z, chart = rows(4, 2)
    names = [name for name, _ in prior.named_parameters()]
    values = [parameter.detach().requires_grad_() for parameter in prior.parameters()]

    class Scored(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.prior = prior

        def forward(self, z):
            return self.prior.log_prob(z, chart)

    def score(z, *values):
        state = {f"prior.{name}": value for name, value in zip(names, values, strict=True)}
        return functional_call(Scored(), state, (z,))

    assert torch.autograd.gradcheck(score, (z.requires_grad_(), *values))


def test_packed_equals_alone():
    members = [PerChart(parts_of()), PerChart(parts_of()[::-1])]
    stacks = {
        name: torch.stack([member.get_parameter(name).detach() for member in members])
        for name, _ in members[0].named_parameters()
    }
    template = copy.deepcopy(members[0]).to("meta")
    z, chart = rows(12, 2)

    class Mean(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.prior = template

        def forward(self, z, chart):
            return self.prior.log_prob(z, chart).mean()

    def loss(state, z, chart):
        own = {f"prior.{name}": value for name, value in state.items()}
        return functional_call(Mean(), own, (z, chart))

    twice, charts = torch.stack([z, 2 * z]), torch.stack([chart, chart.flip(0)])
    values = vmap(loss)(stacks, twice, charts)
    slopes = vmap(grad(loss))(stacks, twice, charts)
    for index, member in enumerate(members):
        alone = member.log_prob(twice[index], charts[index]).mean()
        torch.testing.assert_close(values[index], alone.detach())
        alone.backward()
        for name, slope in slopes.items():
            torch.testing.assert_close(slope[index], member.get_parameter(name).grad)


def test_a_part_is_a_prior_like_any_other_and_can_be_put_back():
    parts = parts_of()
    prior = PerChart(parts)
    z, _ = rows(5, 2)
    part = prior.part(1)
    torch.testing.assert_close(part.log_prob(z), parts[1].log_prob(z))
    with torch.no_grad():
        part.bias.add_(1.0)
    assert torch.equal(prior.stacked.bias[1], parts[1].bias)  # a copy
    prior.put(1, part)
    at = {k: prior.log_prob(z, torch.full((5,), k)) for k in range(K)}
    torch.testing.assert_close(at[1], part.log_prob(z))
    torch.testing.assert_close(at[0], parts[0].log_prob(z))
    torch.testing.assert_close(at[2], parts[2].log_prob(z))
    with pytest.raises(ValueError, match=r"index: expected 0\.\.2, got 3"):
        prior.part(3)


def test_state_dtype_device_and_no_rows():
    prior, other = PerChart(parts_of()), PerChart(parts_of()[::-1])
    z, chart = rows(5, 2)
    other.load_state_dict(prior.state_dict())
    assert torch.equal(other.log_prob(z, chart), prior.log_prob(z, chart))
    assert all(len(value) == K for value in prior.state_dict().values())
    assert copy.deepcopy(prior).float().log_prob(z.float(), chart).dtype == torch.float32
    assert prior.log_prob(z[:0], chart[:0]).shape == (0,)
    assert prior.from_normal(z.new_zeros(0, 3), chart[:0]).shape == (0, 2)
    assert prior.sample(chart[:0]).shape == (0, 2)
    meta = copy.deepcopy(prior).to("meta")
    assert meta.log_prob(z.to("meta"), chart.to("meta")).is_meta
    assert meta.sample(chart.to("meta")).shape == (5, 2)


def test_buffers_and_frozen_parameters_are_kept_apart():
    class Shifted(StandardNormal):
        def __init__(self, shift):
            super().__init__(2)
            self.register_buffer("shift", torch.tensor(shift, dtype=F64))
            self.scale = torch.nn.Parameter(torch.ones(2, dtype=F64), requires_grad=False)

        def log_prob(self, z, context=None):
            return super().log_prob(self.scale * (z - self.shift))

    prior = PerChart([Shifted(0.0), Shifted(3.0)])
    assert not prior.stacked.scale.requires_grad and not prior.part(0).scale.requires_grad
    scores = prior.log_prob(torch.zeros(2, 2, dtype=F64), torch.tensor([0, 1]))
    assert scores[0] - scores[1] == pytest.approx(9.0)


def test_refusals():
    prior = PerChart(parts_of())
    z, chart = rows(4, 2)
    for parts, said in [
        ([], "at least one prior, got none"),
        ([StandardNormal(2)] * 2, "priors with parameters, got StandardNormal"),
        ([Product([UniformBall(2), StandardNormal(1)])] * 2, "priors with parameters, got Product"),
        ([*parts_of(), *parts_of(3, 1)], "one architecture, part 3 differs"),
        ([*parts_of(), *parts_of(isotropic=True)], "one architecture, part 3 differs"),
        ([NoisyInjectiveGaussian(2, context_features=1)], "unconditional priors, got one of 1"),
    ]:
        with pytest.raises(ValueError, match=f"parts: expected {said}"):
            PerChart(parts)
    with pytest.raises(ValueError, match=r"z: expected shape \(N, 2\)"):
        prior.log_prob(z[:, :1], chart)
    with pytest.raises(ValueError, match=r"noise: expected shape \(N, 3\)"):
        prior.from_normal(z, chart)
    for wrong in (chart[:2], chart.float()):
        with pytest.raises(ValueError, match="chart: expected int64"):
            prior.log_prob(z, wrong)
    with pytest.raises(ValueError, match="chart: expected int64"):
        prior.sample(chart.float())
    with pytest.raises(ValueError, match="temperature: expected"):
        prior.sample(chart, temperature=0.0)
