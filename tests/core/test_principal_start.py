"""Where low-rank Gaussians start, and the whitening before them."""

import pytest
import torch

from flowzoo.layers import Whitening
from flowzoo.low_rank import principal_start
from flowzoo.priors import NoisyInjectiveGaussian

STDS = torch.tensor([3.0, 2.0, 0.5, 0.4, 0.3], dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(count=4000, seed=0):
    """Five columns with the standard deviations ``STDS`` along rotated axes, far from zero."""
    axes = torch.linalg.qr(torch.randn(5, 5, generator=generator(7), dtype=torch.float64))[0]
    z = torch.randn(count, 5, generator=generator(seed), dtype=torch.float64) * STDS
    return z @ axes.T + 4.0


def test_start_of_the_data_itself_is_principal_component_analysis():
    x = rows()
    start = principal_start(x, x, 2)
    values, axes = torch.linalg.eigh(torch.cov(x.T, correction=0))
    noise = values[:3].mean()  # Tipping and Bishop (1999), eq. 7 and 8
    expected = axes[:, -2:] @ torch.diag(values[-2:] - noise) @ axes[:, -2:].T
    torch.testing.assert_close(start.loading @ start.loading.T, expected)
    torch.testing.assert_close(start.bias, x.mean(dim=0))
    total = start.loading @ start.loading.T + torch.diag(start.variance)
    torch.testing.assert_close(total.diagonal(), torch.cov(x.T, correction=0).diagonal())


@pytest.mark.parametrize("latent", [1, 3, 5])
def test_white_codes_keep_all_of_their_moments(latent):
    x = rows()
    flow = Whitening(5).double()
    flow.fit(x)
    z = flow.encode(x).value
    start = principal_start(z, x, latent)
    total = start.loading @ start.loading.T + torch.diag(start.variance)
    # where no direction is left for the noise it keeps its floor, 1e-6
    torch.testing.assert_close(total, torch.eye(5, dtype=torch.float64), atol=2e-6, rtol=0)
    # the columns of A are the leading axes, which whitening puts last
    used = start.loading.square().sum(dim=1).flip(0) > 1e-8
    assert used.tolist() == [True] * latent + [False] * (5 - latent)


def test_start_does_not_depend_on_how_codes_are_scaled():
    x = rows()
    mix = torch.randn(5, 5, generator=generator(3), dtype=torch.float64)
    plain, mixed = principal_start(x, x, 2), principal_start(x @ mix.T, x, 2)
    signal = mix @ plain.loading @ plain.loading.T @ mix.T
    torch.testing.assert_close(mixed.loading @ mixed.loading.T, signal)


def test_start_of_rows_that_do_not_fill_their_space_is_finite():
    flat = rows()[:, :1] * torch.ones(1, 4, dtype=torch.float64)
    for x in (flat, torch.ones(10, 3, dtype=torch.float64)):
        start = principal_start(x, x, 2)
        assert all(bool(torch.isfinite(part).all()) for part in start)
        assert bool((start.variance > 0).all())


def test_start_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="latent_features: expected at most 5"):
        principal_start(rows(9), rows(9), 6)
    with pytest.raises(ValueError, match="z: expected at least two rows"):
        principal_start(rows(1), rows(1), 2)
    with pytest.raises(ValueError, match="loading: expected"):
        up = {"name": "up-sampling", "shape": [1, 2, 2]}
        prior = NoisyInjectiveGaussian(4, loading=up)
        prior.start(torch.zeros(4), torch.zeros(4, 1), torch.ones(4))
    with pytest.raises(ValueError, match="bias, loading, variance"):
        NoisyInjectiveGaussian(4).start(torch.zeros(4), torch.zeros(4, 1), torch.ones(4))


def test_prior_takes_the_start():
    x = rows()
    start = principal_start(x, x, 2)
    free = NoisyInjectiveGaussian(5, latent_features=2).double()
    free.start(*start)
    torch.testing.assert_close(
        free.covariance(), start.loading @ start.loading.T + torch.diag(start.variance)
    )
    isotropic = NoisyInjectiveGaussian(5, latent_features=2, isotropic=True).double()
    isotropic.start(*start)
    assert float(isotropic.log_std.detach().exp()) ** 2 == pytest.approx(
        float(start.variance.mean())
    )
    fixed = NoisyInjectiveGaussian(
        5, latent_features=2, isotropic=True, noise_std=0.1, learn_noise=False
    ).double()
    fixed.start(*start)
    assert float(fixed.log_std.detach().exp()) == pytest.approx(0.1)
    assert not fixed.log_std.requires_grad


def test_whitening_is_a_gaussian_with_the_datas_moments():
    x = rows()
    flow = Whitening(5).double()
    assert torch.equal(flow.encode(x).value, x)  # the identity until it is fitted
    flow.fit(x)
    z, volume = flow.encode(x)
    torch.testing.assert_close(torch.cov(z.T, correction=0), torch.eye(5, dtype=torch.float64))
    back, again = flow.decode(z)
    torch.testing.assert_close(back, x)
    assert torch.equal(volume, again)
    jacobian = torch.func.jacrev(lambda row: flow.encode(row[None]).value[0])(x[0])
    assert float(volume[0]) == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet))


def test_rotation_keeps_distances_and_shares_the_axes_between_halves():
    x = rows()
    flow = Whitening(5, scaling="none").double()
    flow.fit(x)
    z, volume = flow.encode(x)
    assert not volume.any()
    torch.testing.assert_close(torch.cdist(z[:20], z[:20]), torch.cdist(x[:20], x[:20]))
    torch.testing.assert_close(flow.decode(z).value, x)
    std = z.std(dim=0, correction=0)
    torch.testing.assert_close(torch.cov(z.T, correction=0), torch.diag(std**2))
    expected = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0).sqrt()
    torch.testing.assert_close(std, expected[[0, 2, 4, 1, 3]])


def test_similarity_keeps_angles_and_gives_the_longest_axis_unit_variance():
    x = rows()
    flow = Whitening(5, scaling="longest").double()
    flow.fit(x)
    z, volume = flow.encode(x)
    longest = torch.linalg.eigvalsh(torch.cov(x.T, correction=0))[-1].sqrt()
    torch.testing.assert_close(torch.cdist(z[:20], z[:20]), torch.cdist(x[:20], x[:20]) / longest)
    torch.testing.assert_close(volume, -5.0 * longest.log().expand(len(x)))
    back, again = flow.decode(z)
    torch.testing.assert_close(back, x)
    assert torch.equal(volume, again)
    assert z.std(dim=0, correction=0).max().item() == pytest.approx(1.0)
    for value in (7.0, 1e6 / 7):  # rows that do not vary but by rounding stay as they are
        flow.fit(torch.full((300, 5), value, dtype=torch.float64))
        assert not flow.log_abs_det
    with pytest.raises(ValueError, match="scaling: expected one of"):
        Whitening(5, scaling="all")


def test_whitening_of_constant_columns_is_finite_and_of_no_rows_refused():
    x = torch.cat([rows(50), torch.ones(50, 1, dtype=torch.float64)], dim=1)
    flow = Whitening(6).double()
    flow.fit(x)
    assert bool(torch.isfinite(flow.encode(x).value).all())
    torch.testing.assert_close(flow.decode(flow.encode(x).value).value, x)
    with pytest.raises(ValueError, match="x: expected at least one row"):
        flow.fit(x[:0])
    with pytest.raises(ValueError, match="shrinkage"):
        Whitening(3, shrinkage=1.5)
