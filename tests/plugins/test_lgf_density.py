"""LGF's densities: closed forms of linear-Gaussian models, quadrature, draws, bounds in order."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from flowzoo.layers import InvertibleBatchNorm, Permutation
from flowzoo.registry import build, register
from flowzoo.testing.distribution import check_overlap
from flowzoo_plugins.continuous_mixtures.lgf import LGF
from lgf_models import linear_gaussian, marginal, scalar_model

F64 = torch.float64


# closed forms ---------------------------------------------------------------------------------


def test_one_linear_layer_has_the_closed_form_of_the_reference():
    """x ~ N(0, e^{-2s} ((1 - t a)^2 + t^2 b^2)); the exact posterior gives it in every draw."""
    s, t, a, b = 0.3, 0.8, 0.5, 0.7
    model = scalar_model(s, t, a, b)
    std = math.exp(-s) * math.sqrt((1 - t * a) ** 2 + t**2 * b**2)
    x = torch.linspace(-3, 3, 7, dtype=F64)[:, None]
    truth = torch.distributions.Normal(*torch.tensor([0.0, std], dtype=F64)).log_prob(x[:, 0])
    torch.testing.assert_close(marginal(model).log_prob(x), truth)
    with torch.no_grad():
        for evaluation in ("elbo", "importance"):
            found = model.log_prob(x, evaluation=evaluation, num_samples=3)
            torch.testing.assert_close(found, truth, rtol=0, atol=1e-9)
        estimate = model.importance_estimate(x, num_samples=50)
    torch.testing.assert_close(estimate.effective_sample_size, torch.full((7,), 50.0, dtype=F64))
    assert estimate.bias.abs().max() < 1e-9


@pytest.mark.parametrize(("layers", "features", "index"), [(1, 1, 1), (1, 2, 1), (3, 2, 2)])
@torch.no_grad()
def test_bounds_rise_to_the_density(layers, features, index):
    """ELBO <= IWAE-10 <= IWAE-1000 <= log p, each within three standard errors."""
    model = linear_gaussian(layers, features, index, seed=3)
    truth_of = marginal(model)
    x = truth_of.sample((8,))
    truth = truth_of.log_prob(x)

    def repeated(evaluation: str, num_samples: int, times: int) -> tuple[Tensor, Tensor]:
        rows = x.repeat(times, 1)
        seed = torch.Generator().manual_seed(num_samples)
        values = model.log_prob(
            rows, evaluation=evaluation, num_samples=num_samples, generator=seed
        ).reshape(times, len(x))
        return values.mean(0), values.std(0) / times**0.5

    chain = [
        repeated("elbo", 10, 300),
        repeated("importance", 10, 300),
        repeated("importance", 1000, 60),
        (truth, torch.zeros_like(truth)),
    ]
    for (low, low_error), (high, high_error) in pairwise(chain):
        error = (low_error**2 + high_error**2).sqrt()
        assert (low - high <= 3 * error).all()
        mean_error = (error.square().sum().sqrt() / len(x)).item()
        assert (low - high).mean() <= 3 * mean_error
    assert chain[0][0].mean() < truth.mean() - 0.05  # q is not the posterior: the gap is real
    gaps = [(truth - values).mean() for values, _ in chain]
    assert gaps[2] < 0.5 * gaps[1] < 0.5 * gaps[0]


@torch.no_grad()
def test_bias_estimate_brings_the_estimate_nearer_to_the_density():
    model = linear_gaussian(2, 2, 1, seed=5)
    x = marginal(model).sample((2000,))
    truth = marginal(model).log_prob(x)
    found = model.importance_estimate(x, num_samples=20, generator=torch.Generator().manual_seed(0))
    before = (found.log_prob - truth).mean()
    after = (found.log_prob - found.bias - truth).mean()
    assert before < 0
    assert abs(after) < 0.5 * abs(before)


# by quadrature --------------------------------------------------------------------------------


def nonlinear(features: int, **options) -> LGF:
    torch.manual_seed(4)
    given = {
        "base_flow": {"name": "maf", "layers": 2, "hidden": [8]},
        "p_hidden": (8,),
        "q_hidden": (8,),
        **options,
    }
    model = LGF(features, **given).double()
    with torch.no_grad():
        for parameter in model.joint.parameters():
            parameter.add_(0.25 * torch.randn_like(parameter))
        for layer in model.joint.layers:  # q wide: the weights are bounded
            last = layer.posterior.net.linears[-1]
            last.weight.mul_(0.2)
            last.bias[index_features_of(layer) :] = 0.7
    return model.eval()


def index_features_of(layer) -> int:
    return layer.posterior.index_features


@pytest.mark.parametrize("family", ["affine", "conditioned"])
@torch.no_grad()
def test_importance_sampling_is_the_integral_over_the_index(family):
    """One layer, one u: p(x) = int p(x, u) du on a grid."""
    model = nonlinear(2, base_flow={"name": "maf", "layers": 1, "hidden": [8]}, family=family)
    x = torch.randn(5, 2, dtype=F64)
    grid = torch.linspace(-12, 12, 4001, dtype=F64)
    rows = x.repeat_interleave(len(grid), dim=0)
    log_p = model.joint(rows, grid.repeat(len(x))[:, None]).log_p.reshape(len(x), -1)
    truth = log_p.logsumexp(dim=1) + math.log(float(grid[1] - grid[0]))
    found = model.log_prob(x, num_samples=10_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, truth, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"family": "conditioned"},
        {"base_flow": {"name": "none", "layers": 2}},
        {"base_flow": {"name": "realnvp", "layers": 2, "hidden": [8]}, "infer_from": "data"},
        {"prior": "uniform-ball"},
        {"prior": {"name": "generalised-gaussian", "noise_std": 0.3}},
        {"partitioner": {"name": "kmeans", "num_charts": 3}, "condition": "one-hot"},
    ],
)
@torch.no_grad()
def test_density_integrates_to_what_is_drawn(options):
    model = nonlinear(2, **options)
    half = 14.0
    line = torch.linspace(-half, half, 71, dtype=F64)
    grid = torch.cartesian_prod(line, line)
    area = (line[1] - line[0]) ** 2

    def mass(seed: int) -> Tensor:
        own = torch.Generator().manual_seed(seed)
        return model.log_prob(grid, num_samples=20, generator=own).exp().sum() * area

    masses = torch.stack([mass(seed) for seed in range(8)])
    error = masses.std().item() / len(masses) ** 0.5
    draws = model.sample(20_000, generator=torch.Generator().manual_seed(0))
    inside = (draws.abs() < half).all(dim=1).double().mean().item()  # some tails are heavy
    assert inside > 0.9
    assert error < 0.05
    assert abs(masses.mean().item() - inside) < 4 * error + 0.01


@pytest.mark.parametrize("options", [{}, {"partitioner": {"name": "kmeans", "num_charts": 2}}])
@torch.no_grad()
def test_draws_follow_the_density(options):
    model = nonlinear(2, **options)
    if options:
        model.charts.partitioner.codes.copy_(torch.tensor([[-1.0, 0.5], [1.0, 1.0]]))
        model.charts.logits.copy_(torch.tensor([0.3, -0.8]))
    draws = model.sample(2000, generator=torch.Generator().manual_seed(1))

    def density(x: Tensor) -> Tensor:
        return model.log_prob(x, num_samples=50, generator=torch.Generator().manual_seed(2))

    check_overlap(density, draws)


# structure ------------------------------------------------------------------------------------


@torch.no_grad()
def test_given_its_own_indices_the_joint_repeats_itself():
    model = nonlinear(3, index_features=2)
    x = torch.randn(6, 3, dtype=F64)
    noise = torch.randn(6, model.joint.noise_features, dtype=F64)
    drawn = model.joint.infer(x, noise)
    for found, expected in zip(model.joint(x, drawn.indices), drawn, strict=True):
        torch.testing.assert_close(found, expected)


def test_volume_terms_are_those_of_the_jacobian():
    model = nonlinear(3)
    x = torch.randn(3, dtype=F64)
    indices = torch.randn(1, model.joint.index_features, dtype=F64)

    def latent(row: Tensor) -> Tensor:
        return model.joint(row[None], indices).latent[0]

    found = model.joint(x[None], indices)
    z = x[None]
    log_index = torch.zeros(1, dtype=F64)
    for layer, u in zip(model.joint.layers, indices.split(1, dim=1), strict=True):
        z = layer.bijection.encode(layer.bijection.prepare(z, None).value, u, None).value
        log_index = log_index + layer.prior(z).log_prob(u)
    jacobian = torch.autograd.functional.jacobian(latent, x)
    expected = model.joint.prior.log_prob(found.latent) + log_index + torch.slogdet(jacobian)[1]
    torch.testing.assert_close(found.log_p, expected)


@torch.no_grad()
def test_a_model_that_draws_inverts_the_model_that_infers():
    """Layer by layer: decode under the u that was drawn gives back the data side."""
    for family in ("affine", "conditioned"):
        model = nonlinear(3, family=family)
        for layer in model.joint.layers:
            x, u = torch.randn(6, 3, dtype=F64), torch.randn(6, 1, dtype=F64)
            z = layer.bijection.encode(layer.bijection.prepare(x, None).value, u, None).value
            torch.testing.assert_close(layer.bijection.decode(z, u, None), x)


def test_a_dirac_index_is_the_base_flow():
    """Constant s and t: what is left is the base flow, exactly (Cornish et al., section 3.1)."""
    model = nonlinear(3)
    with torch.no_grad():
        for layer in model.joint.layers:
            for parameter in layer.bijection.shift.parameters():
                parameter.zero_()
            for net in (layer.prior.net, layer.posterior.net):
                for parameter in net.parameters():
                    parameter.zero_()
        x = torch.randn(6, 3, dtype=F64)
        flows = [layer.bijection.flow for layer in model.joint.layers]
        z, volume = x, torch.zeros(6, dtype=F64)
        for flow in flows:
            z, change = flow.encode(z)
            volume = volume + change
        truth = model.joint.prior.log_prob(z) + volume
        torch.testing.assert_close(model.log_prob(x, num_samples=2), truth)


def test_no_batch_norm_inside():
    for name in ("maf", "realnvp", "nsf-coupling"):
        model = LGF(2, base_flow=name)
        assert not [m for m in model.modules() if isinstance(m, InvertibleBatchNorm)]
    asked = LGF(2, base_flow={"name": "maf", "layers": 2, "normalization": "batch"})
    assert len([m for m in asked.modules() if isinstance(m, InvertibleBatchNorm)]) == 2


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"base_flow": "none"}, "number of layers"),
        ({"base_flow": {"name": "none"}}, "layers"),
        ({"base_flow": {"name": "none", "layers": 0}}, "positive"),
        ({"base_flow": {"name": "none", "layers": 2}, "family": "conditioned"}, "family"),
        ({"base_flow": {"name": "cef"}}, "base_flow"),
        ({"family": "other"}, "family"),
        ({"infer_from": "z"}, "infer_from"),
        ({"objective": "map"}, "objective"),
        ({"index_features": 0}, "index_features"),
        ({"training_samples": 0}, "training_samples"),
        ({"log_scale_bound": -1.0}, "log_scale_bound"),
        ({"partitioner": "kmeans", "overlap": 1000}, "overlap"),
        ({"overlap": 2}, "overlap: expected 1 without a partitioner"),
        ({"overlap": 0}, "overlap"),
        ({"prior": "no-such"}, "prior"),
    ],
)
def test_refuses_what_does_not_fit(options, match):
    with pytest.raises(ValueError, match=match):
        build("mixture", "lgf", features=3, **options)


def test_a_flow_that_cannot_be_taken_apart_says_so():
    class Whole(Permutation):
        def layers(self):
            raise TypeError("Whole cannot be taken apart")

    with pytest.raises(TypeError, match="apart"):
        build("mixture", "lgf", features=3, base_flow=Whole(3, order="reverse"))


def test_an_option_of_another_meaning_is_left_alone():
    """Somebody's flow may have a ``normalization`` that knows no "none"."""

    class Scaled(Permutation):
        """A permutation with an option of that name."""

        def __init__(self, features: int, *, context_features: int = 0, normalization: int = 3):
            super().__init__(features, order="reverse")
            self.given = normalization

    with register(Scaled, name="scaled-for-test"):
        model = LGF(2, base_flow="scaled-for-test")
    assert model.joint.layers[0].bijection.flow.given == 3
