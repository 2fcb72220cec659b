"""LGF with finite indices: sums against plain loops, the relaxation against its limits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from flowzoo.testing.distribution import check_overlap
from flowzoo.testing.numerics import moons
from flowzoo_plugins.continuous_mixtures.categorical import Categorical, Concrete, chosen, gumbel
from flowzoo_plugins.continuous_mixtures.discrete import DiscreteLGF

F64 = torch.float64


def model_of(layers: int = 2, features: int = 2, **options) -> DiscreteLGF:
    torch.manual_seed(2)
    given = {
        "base_flow": {"name": "maf", "layers": layers, "hidden": [8]},
        "num_values": 3,
        "p_hidden": (8,),
        "q_hidden": (8,),
        **options,
    }
    model = DiscreteLGF(features, **given).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def by_loops(model: DiscreteLGF, x: Tensor) -> Tensor:
    """log of the sum over all index paths, one path after the other: the formula as printed."""
    values = model.joint.layers[0].prior.index_features
    terms = []
    for path in itertools.product(range(values), repeat=len(model.joint.layers)):
        z, log_p = x, torch.zeros(len(x), dtype=x.dtype)
        for layer, k in zip(model.joint.layers, path, strict=True):
            g, volume = layer.bijection.flow.encode(z)
            raw, t = layer.bijection.shift.rows[k].chunk(2)
            bound = layer.bijection.log_scale_bound
            s = bound * torch.tanh(raw / bound)
            z = torch.exp(s) * g + t
            log_share = torch.log_softmax(layer.prior.net(z), dim=1)[:, k]
            log_p = log_p + volume + s.sum() + log_share
        terms.append(log_p + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=1))
    return torch.stack(terms).logsumexp(dim=0)


@pytest.mark.parametrize("layers", [1, 2, 4])
@torch.no_grad()
def test_exact_is_the_sum_over_all_paths(layers):
    model = model_of(layers)
    x = moons(40, 2)
    torch.testing.assert_close(model.log_prob(x, evaluation="exact"), by_loops(model, x))


@torch.no_grad()
def test_exact_in_blocks_of_rows_is_the_same():
    model = model_of(3)
    x = moons(40, 2)
    whole = model.log_prob(x)
    model.rows_per_call = 7
    torch.testing.assert_close(model.log_prob(x), whole)
    torch.testing.assert_close(model.embed(x)[:3], model.embed(x[:3]))


@torch.no_grad()
def test_estimates_and_bounds_of_a_stack_are_those_of_the_sum():
    model = model_of(3, objective="importance")
    x = moons(200, 2)
    truth = model.log_prob(x, evaluation="exact")
    seed = torch.Generator().manual_seed(0)
    found = model.importance_estimate(x, num_samples=3000, generator=seed)
    torch.testing.assert_close(found.log_prob, truth, rtol=0, atol=0.15)
    assert abs((found.log_prob - truth).mean()) < 0.01
    elbo = model.log_prob(x, evaluation="elbo", num_samples=300, generator=seed)
    few = model.log_prob(x, evaluation="importance", num_samples=5, generator=seed)
    assert elbo.mean() < few.mean() < truth.mean()


@pytest.mark.parametrize("layers", [1, 3])
@torch.no_grad()
def test_draws_follow_the_density(layers):
    model = model_of(layers)
    draws = model.sample(4000, generator=torch.Generator().manual_seed(1))
    check_overlap(lambda x: model.log_prob(x), draws)


def test_which_objective_and_evaluations():
    one = model_of(1)
    assert list(one.evaluations) == ["exact"]
    assert [s.name for s in one.stages()] == ["start", "exact"]
    assert not [n for n, _ in one.named_parameters() if "posterior" in n]
    assert set(one.assign(moons(9, 2)).tolist()) <= {0, 1, 2}
    stack = model_of(2)
    assert list(stack.evaluations) == ["exact", "importance", "elbo"]
    assert [s.name for s in stack.stages()] == ["start", "importance"]
    with pytest.raises(TypeError, match="one layer"):
        stack.assign(moons(9, 2))
    many = model_of(3, max_paths=26)
    assert list(many.evaluations) == ["importance", "elbo"]
    with pytest.raises(ValueError, match="max_paths = 26"):
        model_of(3, max_paths=26, objective="exact")


@torch.no_grad()
def test_assign_is_the_most_probable_index():
    model = model_of(1)
    x = moons(50, 2)
    (layer,) = model.joint.layers
    scores = []
    for k in range(3):
        u = chosen(torch.full((50,), k), 3).double()
        scores.append(model.joint(x, u).log_p if layer.posterior else _joint(model, x, u))
    assert torch.equal(model.assign(x), torch.stack(scores).argmax(dim=0))


def _joint(model: DiscreteLGF, x: Tensor, u: Tensor) -> Tensor:
    (layer,) = model.joint.layers
    y, volume = layer.bijection.prepare(x, None)
    z, more = layer.bijection.encode(y, u, None)
    return volume + more + layer.prior(z).log_prob(u) + model.joint.prior.log_prob(z)


@pytest.mark.parametrize("objective", ["exact", "elbo", "stl", "importance", "dreg"])
def test_training_raises_the_density_of_the_discrete_model(objective):
    """Three clusters, three values."""
    import flowzoo

    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 5.0]])
    x = centres[torch.randint(3, (900,), generator=generator)]
    x = x + 0.3 * torch.randn(900, 2, generator=generator)
    torch.manual_seed(0)
    model = flowzoo.build(
        "mixture",
        "discrete-lgf",
        features=2,
        base_flow={"name": "maf", "layers": 1, "hidden": [8]},
        num_values=3,
        p_hidden=[16],
        q_hidden=[16],
        objective=objective,
        training_samples=4,
        training={"epochs": 60, "batch_size": 100, "lr": 1e-2},
    )
    flowzoo.fit(model, x[:600], x[600:], seed=1)
    entropy = math.log(3) + math.log(2 * math.pi * math.e * 0.09)
    gap = -entropy - model.log_prob(x[600:]).mean().item()
    assert gap < 0.8  # of one Gaussian about 2.5
    if objective == "exact":
        assert len(set(model.assign(x[600:]).tolist())) == 3


# the relaxation -------------------------------------------------------------------------------


def test_gumbel_numbers_have_their_distribution():
    draws = gumbel(torch.randn(200_000, dtype=F64, generator=torch.Generator().manual_seed(0)))
    for point in (-1.5, 0.0, 1.0, 4.0):
        share = (draws < point).double().mean().item()
        assert share == pytest.approx(math.exp(-math.exp(-point)), abs=0.005)
    far = gumbel(torch.tensor([-40.0, 40.0, 12.0]))
    assert far.isfinite().all()


def test_categorical_draws_have_their_shares():
    share = torch.tensor([[0.1, 0.6, 0.3]], dtype=F64).log().expand(50_000, 3)
    noise = torch.randn(50_000, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    found = Categorical(share).draw(noise).exp().mean(dim=0)
    torch.testing.assert_close(found, share[0].exp(), rtol=0, atol=0.01)
    cold = Categorical(share).draw(noise, temperature=0.5).exp().mean(dim=0)
    torch.testing.assert_close(cold, share[0].mul(2).softmax(0), rtol=0, atol=0.01)


@pytest.mark.parametrize("tau", [0.3, 0.7, 1.5])
def test_concrete_density_integrates_to_one(tau):
    """Over the differences to the third column, of which u is a function."""
    share = torch.tensor([[0.2, 0.5, 0.3]], dtype=F64).log()
    line = torch.linspace(-60, 60, 1201, dtype=F64)
    free = torch.cartesian_prod(line, line)
    u = torch.cat([free, torch.zeros(len(free), 1, dtype=F64)], dim=1).log_softmax(dim=1)
    log_prob = Concrete(share.expand(len(u), 3), tau).log_prob(u)
    mass = log_prob.exp().sum() * (line[1] - line[0]) ** 2
    assert mass.item() == pytest.approx(1.0, abs=1e-3)


def test_concrete_draws_are_the_categorical_ones_in_the_limit():
    share = torch.randn(500, 4, dtype=F64).log_softmax(dim=1)
    noise = torch.randn(500, 4, dtype=F64)
    hard = Categorical(share).draw(noise)
    soft = Concrete(share, 0.01).draw(noise)
    assert torch.equal(hard.argmax(dim=1), soft.argmax(dim=1))
    assert (soft.exp() - hard.exp()).abs().mean() < 0.01


def test_concrete_density_against_torch():
    """torch.distributions has the density of exp(u)."""
    share = torch.randn(6, 4, dtype=F64).log_softmax(dim=1)
    u = Concrete(share, 0.6).draw(torch.randn(6, 4, dtype=F64))
    other = torch.distributions.RelaxedOneHotCategorical(torch.tensor(0.6, dtype=F64), logits=share)
    expected = other.log_prob(u.exp()) + u.sum(dim=1)
    found = Concrete(share, 0.6).log_prob(u)
    torch.testing.assert_close(found - expected, torch.zeros(6, dtype=F64))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_values": 0}, "num_values"),
        ({"objective": "sum"}, "objective"),
        ({"tau": 0.0}, "tau"),
        ({"max_paths": 0}, "max_paths"),
        ({"infer_from": "z"}, "infer_from"),
    ],
)
def test_refuses_what_does_not_fit(options, match):
    with pytest.raises(ValueError, match=match):
        model_of(1, **options)
