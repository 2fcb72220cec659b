"""The prior of spread flows, and several of them, against dense Gaussians and quadrature."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch.func import functional_call, stack_module_state, vmap

from flowzoo.priors import GeneralisedGaussian, GeneralisedGaussianMixture

F64 = torch.float64
SIZES = [(1, 1), (2, 1), (2, 2), (5, 2), (5, 5), (64, 8), (64, 64)]


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def shaken(prior):
    """Nothing is at its starting value, float64."""
    prior = prior.double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return prior


def prior_of(features: int, rank: int | None = None, **options) -> GeneralisedGaussian:
    given = {"noise_std": 0.3, "learn_mean": True, **options}
    return shaken(GeneralisedGaussian(features, rank=rank, **given))


def mixture_of(features: int = 3, **options) -> GeneralisedGaussianMixture:
    given = {"components": 3, "rank": 2, "noise_std": 0.3, **options}
    return shaken(GeneralisedGaussianMixture(features, **given))


def dense(prior: GeneralisedGaussian) -> MultivariateNormal:
    """N(mu, A A' + sigma^2 I) as torch has it, of the lower triangle of the weight."""
    loading = torch.tril(prior.weight.detach())
    identity = torch.eye(prior.features, dtype=loading.dtype)
    return MultivariateNormal(
        prior.mean.detach(), loading @ loading.T + prior.noise_std.square() * identity
    )


def along_axes(prior: GeneralisedGaussian, z: Tensor) -> Tensor:
    """The same density as a product over the singular vectors of A, which keeps digits."""
    vectors, lengths, _ = torch.linalg.svd(torch.tril(prior.weight.detach()))
    variances = torch.zeros(prior.features, dtype=F64)
    variances[: len(lengths)] = lengths.square()
    variances = variances + prior.noise_std.square()
    squares = ((z - prior.mean.detach()) @ vectors).square() / variances
    return -0.5 * (squares + (2.0 * math.pi * variances).log()).sum(dim=1)


def dense_mixture(prior: GeneralisedGaussianMixture) -> MixtureSameFamily:
    parts = [dense(prior.part(index)) for index in range(prior.components)]
    around = MultivariateNormal(
        torch.stack([part.mean for part in parts]),
        torch.stack([part.covariance_matrix for part in parts]),
    )
    return MixtureSameFamily(Categorical(logits=prior.logits.detach()), around)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mass(prior, reach: float = 25.0, count: int = 900) -> float:
    line = torch.linspace(-reach, reach, count, dtype=F64)
    grid = torch.cartesian_prod(line, line) if prior.features == 2 else line[:, None]
    with torch.no_grad():
        return float(prior.log_prob(grid).exp().sum() * (line[1] - line[0]) ** prior.features)


# the density --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("features", "rank"), SIZES)
@pytest.mark.parametrize("noise", [1.0, 1e-4])
def test_density_is_the_dense_gaussian(features, rank, noise):
    prior = prior_of(features, rank, noise_std=noise)
    reference = dense(prior)
    z = torch.cat([prior.sample(5), 2.0 * torch.randn(5, features, dtype=F64)]).detach()
    found, expected = prior.log_prob(z).detach(), reference.log_prob(z)
    # torch's squares lose digits with the condition number, 1e8 or so at the least noise
    torch.testing.assert_close(found, expected, rtol=1e-12 / noise**2 + 1e-11, atol=1e-9)
    torch.testing.assert_close(
        found, along_axes(prior, z), rtol=1e-14 / noise**2 + 1e-11, atol=1e-9
    )
    torch.testing.assert_close(prior.covariance().detach(), reference.covariance_matrix)
    other = torch.tensor(0.7, dtype=F64)
    wider = copy.deepcopy(prior)
    wider.noise_std.copy_(other)
    torch.testing.assert_close(prior.log_prob(z, noise_std=other), wider.log_prob(z))


def test_both_forms_agree_where_the_rank_is_full_but_one_column():
    full, low = prior_of(6, noise_std=1e-3), prior_of(6, 5, noise_std=1e-3)
    with torch.no_grad():
        full.weight[:, 5] = 0.0
        low.weight.copy_(full.weight[:, :5])
        low.mean.copy_(full.mean)
    z = torch.cat([full.sample(7), torch.randn(7, 6, dtype=F64)])
    torch.testing.assert_close(low.log_prob(z), full.log_prob(z), rtol=1e-8, atol=1e-8)


def test_density_integrates_to_one():
    for features, rank in ((1, 1), (2, 1), (2, 2)):
        assert mass(prior_of(features, rank)) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("rank", [8, 64])
def test_float32_keeps_its_digits(rank):
    prior = GeneralisedGaussian(64, rank=rank)  # sigma 0.01
    with torch.no_grad():
        prior.weight.add_(0.3 * torch.randn_like(prior.weight))
        prior.weight[:, rank // 2 :] *= 1e-3
    z = prior.sample(200)
    exact = copy.deepcopy(prior).double().log_prob(z.double())
    error = (prior.log_prob(z).double() - exact).abs().max()
    assert prior.log_prob(z).dtype == torch.float32 and float(error.detach()) < 2e-3


def test_gradients():
    for prior in (prior_of(4, 2), prior_of(3), mixture_of(3, components=2)):
        z = torch.randn(3, prior.features, dtype=F64)
        state = dict(prior.named_parameters())
        prior.forward = prior.log_prob  # type: ignore[method-assign]

        def density(*values: Tensor, prior=prior, state=state, z=z) -> Tensor:
            return functional_call(prior, dict(zip(state, values, strict=True)), (z,))

        assert torch.autograd.gradcheck(density, tuple(state.values()))


def test_only_the_lower_triangle_takes_part():
    for rank in (2, 4):
        prior = prior_of(4, rank)
        z = torch.randn(3, 4, dtype=F64)
        before = prior.log_prob(z)
        assert prior.weight.shape == (4, rank)
        with torch.no_grad():
            prior.weight.add_(torch.ones_like(prior.weight).triu(1))
        torch.testing.assert_close(prior.log_prob(z), before, rtol=0, atol=0)
        prior.log_prob(z).sum().backward()
        assert torch.equal(prior.weight.grad != 0, torch.ones_like(prior.weight).tril() != 0)


def test_a_covariance_without_a_factor_is_nan():
    z = torch.randn(3, 4, dtype=F64)
    for rank in (2, 4):
        prior = prior_of(4, rank)
        with torch.no_grad():
            prior.weight[0, 0] = math.nan
        assert prior.log_prob(z).isnan().all()
    prior = prior_of(4, noise_std=1e-12)
    with torch.no_grad():
        prior.weight[:, 3] = 0.0  # of rank 3, and the noise is below the digits
        prior.weight[3] = prior.weight[2]
        prior.weight.mul_(1e3)
    assert prior.log_prob(z).isnan().all()


@pytest.mark.parametrize("make", [lambda: prior_of(4), lambda: prior_of(4, 2), mixture_of])
def test_under_vmap(make):
    priors = [make() for _ in range(3)]
    for prior in priors:
        prior.forward = prior.log_prob  # type: ignore[method-assign]
    parameters, buffers = stack_module_state(priors)
    z = torch.randn(3, 5, priors[0].features, dtype=F64)
    state = {**parameters, **buffers}
    found = vmap(lambda own, rows: functional_call(priors[0], own, (rows,)))(state, z)
    expected = torch.stack([prior.log_prob(rows) for prior, rows in zip(priors, z, strict=True)])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("make", [lambda: prior_of(4), lambda: prior_of(4, 2), mixture_of])
def test_meta(make):
    prior = make().to("meta")
    z = torch.zeros(5, prior.features, dtype=F64, device="meta")
    noise = torch.zeros(5, prior.noise_features, dtype=F64, device="meta")
    assert prior.log_prob(z).is_meta and prior.log_prob(z).shape == (5,)
    assert prior.sample(5).is_meta and prior.from_normal(noise).shape == z.shape
    assert prior.eigenvalues().is_meta


# the plane ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("features", "rank"), [(1, 1), (5, 2), (6, 6)])
def test_axes_are_the_eigenvectors_of_the_noiseless_covariance(features, rank):
    prior = prior_of(features, rank)
    variance = prior.noise_std.square()
    noiseless = dense(prior).covariance_matrix - variance * torch.eye(features, dtype=F64)
    values, vectors = prior.axes()
    expected = torch.linalg.eigvalsh(noiseless).flip(0)
    torch.testing.assert_close(prior.eigenvalues(), expected, rtol=1e-9, atol=1e-9)
    assert prior.eigenvalues().shape == (features,) and not prior.eigenvalues()[rank:].any()
    torch.testing.assert_close(values, expected[:rank])
    assert vectors.shape == (features, rank)
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(rank, dtype=F64))
    torch.testing.assert_close(vectors * values @ vectors.mT, noiseless)


def test_root_squared_is_the_covariance():
    for rank in (2, 5):
        prior = prior_of(5, rank)
        root = prior.root()
        torch.testing.assert_close(root @ root, dense(prior).covariance_matrix)
        torch.testing.assert_close(root, root.mT)


def test_projection_finds_the_nearest_point_of_the_plane():
    prior, z = prior_of(5, 4), torch.randn(7, 5, dtype=F64)
    for dimension in (0, 2, 4):
        c = prior.project(z, dimension)
        near = prior.place(c)
        torch.testing.assert_close(prior.project(near, dimension), c)
        basis = prior.axes().vectors[:, :dimension]
        torch.testing.assert_close((z - near) @ basis, torch.zeros_like(c), rtol=0, atol=1e-12)
    # the axes are ordered: those of K are the first of those of K + 1
    torch.testing.assert_close(prior.project(z, 4)[:, :2], prior.project(z, 2))


def test_projected_density_is_the_marginal_of_the_noiseless_prior_on_its_plane():
    """By quadrature over what is orthogonal to the K leading axes, with almost no noise."""
    prior = prior_of(2, noise_std=1e-6)
    c = torch.linspace(-2.0, 2.0, 5, dtype=F64)[:, None]
    line = torch.linspace(-30.0, 30.0, 20_001, dtype=F64)
    across = prior.axes().vectors[:, 1]
    for row, found in zip(c, prior.projected_log_prob(c), strict=True):
        points = prior.place(row[None]) + line[:, None] * across
        marginal = torch.logsumexp(prior.log_prob(points), 0) + math.log(line[1] - line[0])
        assert found.item() == pytest.approx(marginal.item(), abs=1e-6)
    axis = torch.linspace(-12.0, 12.0, 400, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    total = prior_of(5, 2).projected_log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1.0, abs=1e-6)


# draws --------------------------------------------------------------------------------------------


def close_moments(draws: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Within five standard errors."""
    scale = covariance.diagonal().clamp(min=1e-12).sqrt()
    count = math.sqrt(len(draws))
    assert ((draws.mean(dim=0) - mean).abs() / scale).max() < 5.0 / count
    found = torch.atleast_2d(torch.cov(draws.mT))
    assert ((found - covariance).abs() / torch.outer(scale, scale)).max() < 5.0 * 1.5 / count


def test_draws_on_the_leading_axes_have_their_covariance():
    """z' = E_K Lambda_K^(1/2) epsilon: the paper's section 3 prints it without the epsilon."""
    prior = prior_of(5, 4)
    values, vectors = torch.linalg.eigh(prior.loading() @ prior.loading().mT)
    for kept in (0, 2, 4):
        draws = prior.sample(40_000, noise_scale=0.0, dimension=kept, generator=generator())
        leading = vectors.flip(1)[:, :kept] * values.flip(0)[:kept] @ vectors.flip(1)[:, :kept].mT
        assert int(torch.linalg.matrix_rank(draws[:100] - prior.mean, atol=1e-9)) == kept
        if kept:
            close_moments(draws, prior.mean, leading)
    # with all of them: A epsilon in law, and in law only
    noise = torch.randn(40_000, 9, generator=generator(), dtype=F64)
    cholesky = noise[:, :4] @ prior.loading().mT + prior.mean
    close_moments(cholesky, prior.mean, leading)
    assert not torch.allclose(draws[:10], cholesky[:10])


@pytest.mark.parametrize(("t", "s"), [(1.0, 1.0), (2.0, 0.5), (0.5, 3.0)])
def test_knobs_scale_standard_deviations_along_and_around(t, s):
    prior = prior_of(4, 3)
    values, vectors = prior.axes()
    for kept in (None, 1):
        knob = torch.full((3,), t, dtype=F64)
        knob[3 if kept is None else kept :] = s
        expected = vectors * (knob.square() * values) @ vectors.mT
        expected = expected + s**2 * 0.09 * torch.eye(4, dtype=F64)
        draws = prior.sample(
            40_000, temperature=t, noise_scale=s, dimension=kept, generator=generator()
        )
        close_moments(draws, prior.mean, expected)


def test_from_normal_has_the_law_of_the_density():
    prior = prior_of(4, 2)
    assert prior.noise_features == 2 + 4
    noise = torch.randn(40_000, 6, generator=generator(), dtype=F64)
    draws = prior.from_normal(noise)
    close_moments(draws, prior.mean, dense(prior).covariance_matrix)
    around = draws - prior.mean - noise[:, :2] @ prior.loading().mT
    torch.testing.assert_close(around, 0.3 * noise[:, 2:])


# start --------------------------------------------------------------------------------------------


def test_start_takes_moments_above_the_noise():
    mean, spread = torch.randn(5, dtype=F64), torch.randn(5, 5, dtype=F64)
    covariance = spread @ spread.mT + 0.1 * torch.eye(5, dtype=F64)
    prior = GeneralisedGaussian(5, noise_std=0.3, learn_mean=True).double()
    prior.start(mean, covariance)
    torch.testing.assert_close(prior.covariance(), covariance)
    torch.testing.assert_close(prior.mean.detach(), mean)
    torch.testing.assert_close(prior.weight.tril(), prior.weight)
    centred = GeneralisedGaussian(5, noise_std=0.3).double()
    centred.start(mean, covariance)
    assert not centred.mean.any()


def test_start_of_low_rank_is_the_nearest():
    """Eckart and Young: the leading eigenvectors; below the noise as good as nothing."""
    axes = torch.linalg.qr(torch.randn(5, 5, dtype=F64))[0]
    values = torch.tensor([9.0, 4.0, 1.0, 0.05, 0.0], dtype=F64)
    covariance = axes * values @ axes.mT
    for rank, kept in ((2, [9.0, 4.0]), (4, [9.0, 4.0, 1.0]), (5, [9.0, 4.0, 1.0])):
        prior = GeneralisedGaussian(5, rank=rank, noise_std=0.3).double()
        prior.start(torch.zeros(5, dtype=F64), covariance)
        above = torch.full((rank,), 9e-4, dtype=F64)
        above[: len(kept)] = torch.tensor(kept, dtype=F64) - 0.09
        expected = axes[:, :rank] * above @ axes[:, :rank].mT
        torch.testing.assert_close(prior.loading() @ prior.loading().mT, expected)
        best = prior.log_prob(math.sqrt(5) * covariance_rows(covariance)).mean()
        for _ in range(5):  # no A near it fits these moments better
            moved = copy.deepcopy(prior)
            with torch.no_grad():
                moved.weight.add_(0.03 * torch.randn_like(moved.weight))
            assert moved.log_prob(math.sqrt(5) * covariance_rows(covariance)).mean() < best


def covariance_rows(covariance: Tensor) -> Tensor:
    """2 D rows about 0 whose mean outer product is covariance / D."""
    values, vectors = torch.linalg.eigh(covariance)
    rows = (vectors * values.clamp(min=0.0).sqrt()).mT
    return torch.cat([rows, -rows])


def test_a_prior_starts_as_the_standard_normal_with_noise():
    prior = GeneralisedGaussian(3, noise_std=0.5)
    torch.testing.assert_close(prior.covariance(), 1.25 * torch.eye(3))
    assert [name for name, p in prior.named_parameters() if p.requires_grad] == ["weight"]


# several parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"components": 1}, {"rank": None, "features": 5}])
def test_mixture_is_the_logsumexp_of_dense_gaussians(options):
    prior = mixture_of(**options)
    z = 2.0 * torch.randn(20, prior.features, dtype=F64)
    torch.testing.assert_close(prior.log_prob(z), dense_mixture(prior).log_prob(z))
    far = 1e3 * z  # where every part underflows
    torch.testing.assert_close(prior.log_prob(far), dense_mixture(prior).log_prob(far))
    assert bool(prior.log_prob(far).isfinite().all())
    other = torch.tensor(0.7, dtype=F64)
    wider = copy.deepcopy(prior)
    for part in wider.parts:
        part.noise_std.copy_(other)
    torch.testing.assert_close(prior.log_prob(z, noise_std=other), wider.log_prob(z))


def test_mixture_integrates_to_one():
    assert mass(mixture_of(2, rank=1)) == pytest.approx(1.0, abs=1e-6)
    assert mass(mixture_of(1, rank=1)) == pytest.approx(1.0, abs=1e-6)


def test_assign_is_the_part_of_highest_posterior():
    prior, z = mixture_of(), 2.0 * torch.randn(200, 3, dtype=F64)
    reference = dense_mixture(prior)
    weights = reference.mixture_distribution.probs.log()
    joint = reference.component_distribution.log_prob(z[:, None]) + weights
    assert torch.equal(prior.assign(z), joint.argmax(dim=1))
    assert len(prior.assign(z).unique()) == 3


@pytest.mark.parametrize("draw", ["sample", "from_normal"])
def test_mixture_draws_have_its_weights_and_its_parts(draw):
    prior = mixture_of(2, rank=1)
    with torch.no_grad():
        for index, part in enumerate(prior.parts):
            part.mean.copy_(torch.tensor([60.0 * index, 0.0]))
    if draw == "sample":
        draws = prior.sample(60_000, generator=generator())
    else:
        noise = torch.randn(60_000, prior.noise_features, generator=generator(), dtype=F64)
        draws = prior.from_normal(noise)
    part = (draws[:, 0] / 60.0).round().long()
    weights = prior.logits.softmax(dim=0).detach()
    shares = torch.bincount(part, minlength=3) / len(draws)
    assert bool(((shares - weights).abs() < 5.0 * (weights / len(draws)).sqrt()).all())
    for index in range(3):
        reference = dense(prior.part(index))
        close_moments(draws[part == index], reference.mean, reference.covariance_matrix)


def test_each_part_keeps_its_own_dimension():
    prior = mixture_of(3, components=2)
    with torch.no_grad():
        prior.part(0).mean.fill_(50.0)
        prior.part(1).mean.fill_(-50.0)
    draws = prior.sample(200, noise_scale=0.0, dimensions=[1, 2], generator=generator())
    for index, kept in ((0, 1), (1, 2)):
        own = draws[prior.assign(draws) == index]
        assert int(torch.linalg.matrix_rank(own - prior.part(index).mean, atol=1e-9)) == kept
    with pytest.raises(ValueError, match="dimensions: expected 2, got 1"):
        prior.sample(3, dimensions=[1])


def test_em_start_finds_a_line_and_a_plane():
    line = torch.randn(600, 1, dtype=F64) @ torch.tensor([[0.0, 0.0, 2.0]], dtype=F64)
    plane = torch.randn(1400, 2, dtype=F64) @ torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=F64)
    z = torch.cat([line + torch.tensor([6.0, 0.0, 0.0]), plane])
    prior = GeneralisedGaussianMixture(3, components=2, noise_std=0.01).double()
    prior.start(z, generator())
    values = prior.eigenvalues()
    order = (values > 0.01).sum(dim=1).argsort()
    assert (values > 1e-3).sum(dim=1)[order].tolist() == [1, 2]
    shares = prior.logits.softmax(dim=0).detach()[order]
    torch.testing.assert_close(shares, torch.tensor([0.3, 0.7], dtype=F64), atol=0.01, rtol=0)
    means = torch.stack([prior.part(int(index)).mean.detach() for index in order])
    expected = torch.tensor([[6.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=F64)
    torch.testing.assert_close(means, expected, atol=0.3, rtol=0)
    assert (prior.assign(z) == order[0]).sum() == pytest.approx(600, abs=20)
    again = GeneralisedGaussianMixture(3, components=2, noise_std=0.01).double()
    again.start(z, generator())
    torch.testing.assert_close(again.state_dict(), prior.state_dict(), rtol=0, atol=0)


def test_em_start_of_one_part_is_its_covariance():
    """Rows without noise: EM's least variance is the noise that A does not hold."""
    z = torch.randn(300, 3, dtype=F64) * torch.tensor([2.0, 1.0, 0.5])
    prior = GeneralisedGaussianMixture(3, components=1, noise_std=0.4).double()
    prior.start(z, generator())
    loading = prior.part(0).loading().detach()
    expected = z.mT.cov(correction=0)
    torch.testing.assert_close(loading @ loading.mT, expected, rtol=0, atol=1e-8)
    with torch.no_grad():  # and where rows have no width at all, a hundredth of it
        prior.start(torch.zeros(9, 3, dtype=F64), generator())
    values = prior.eigenvalues()[0].detach()
    torch.testing.assert_close(values, torch.full_like(values, 0.01 * 0.16), rtol=1e-6, atol=0)


# bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 4}, "rank: expected at most features=3, got 4"),
        ({"rank": 0}, "rank: expected"),
        ({"noise_std": 0.0}, "noise_std: expected"),
        ({"noise_std": math.nan}, "noise_std: expected"),
    ],
)
def test_bad_options(options, said):
    for kind in (GeneralisedGaussian, GeneralisedGaussianMixture):
        with pytest.raises(ValueError, match=said):
            kind(3, **options)
    with pytest.raises(ValueError, match="components: expected"):
        GeneralisedGaussianMixture(3, components=0)


def test_bad_arguments():
    prior = GeneralisedGaussian(3, rank=2)
    for kept in (-1, 3, True):
        with pytest.raises(ValueError, match="dimension: expected 0 to 2"):
            prior.sample(2, dimension=kept)
        with pytest.raises(ValueError, match="dimension: expected 0 to 2"):
            prior.project(torch.zeros(1, 3), kept)
    with pytest.raises(ValueError, match=r"mean, covariance: expected .* got \(\(2,\), \(3, 3\)\)"):
        prior.start(torch.zeros(2), torch.eye(3))
    with pytest.raises(ValueError, match="z: expected at least 2 rows, got 1"):
        GeneralisedGaussianMixture(3).start(torch.zeros(1, 3), generator())


def test_low_rank_keeps_digits_in_single_precision():
    """Signal of 1e8 sigma^2, against the same numbers in double precision."""
    torch.manual_seed(0)
    prior = GeneralisedGaussian(256, rank=16, noise_std=1e-4)
    with torch.no_grad():
        prior.weight.normal_()
    z = prior.sample(50, generator=torch.Generator().manual_seed(0))
    expected = copy.deepcopy(prior).double().log_prob(z.double())
    found = prior.log_prob(z)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-3)
