"""GlobalFlow: change of variables, priors, training, packing."""

import copy

import pytest
import torch
from torch import nn

from flowzoo.interfaces import BaseFlow, Step
from flowzoo.priors import build_prior
from flowzoo.registry import build, build_part
from flowzoo.training import TrainingData, fit, is_packable, train_pack
from flowzoo_plugins.baselines import Gaussian, GlobalFlow

FLOW = {"name": "realnvp", "layers": 3, "hidden": [12], "normalization": "none"}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def model(features=2, seed=0, **options):
    """A flow with random weights, far from the identity, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = GlobalFlow(features, **{"base_flow": FLOW, **options}).double().eval()
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return built


def rows(count, features=2, seed=0):
    return torch.randn(count, features, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("prior", ["standard-normal", "uniform-ball"])
def test_integrates_to_one(prior):
    # midpoints of a grid stretched as sinh: fine in the middle, far in the tails of the ball
    edge, count = (4.0, 400) if prior == "standard-normal" else (9.0, 900)
    step = 2 * edge / count
    t = -edge + step * (torch.arange(count, dtype=torch.float64) + 0.5)
    axis, weight = t.sinh(), t.cosh() * step
    grid, area = torch.cartesian_prod(axis, axis), torch.outer(weight, weight).flatten()
    with torch.no_grad():
        mass = float((model(prior=prior).log_prob(grid).exp() * area).sum())
    assert mass == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("prior", ["standard-normal", "uniform-ball"])
def test_log_prob_is_the_change_of_variables(prior):
    flow = model(3, prior=prior)
    x = rows(5, 3)
    z = flow.embed(x)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda r: flow.embed(r[None])[0]))(x)
    expected = flow.prior.log_prob(z) + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(flow.log_prob(x), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("prior", ["standard-normal", "uniform-ball"])
def test_samples_are_scored_as_log_prob_scores_them(prior):
    flow = model(prior=prior)
    x, log_prob = flow.sample_and_log_prob(50, generator=generator(1))
    torch.testing.assert_close(flow.log_prob(x), log_prob, rtol=1e-7, atol=1e-7)
    assert torch.equal(flow.sample(50, generator=generator(1)), x)
    assert flow.sample(0).shape == (0, 2)
    with pytest.raises(ValueError, match="num"):
        flow.sample_and_log_prob(-1)


def test_temperature_scales_the_latent():
    flow = model()
    cold = flow.embed(flow.sample(200, temperature=0.5, generator=generator(1)))
    warm = flow.embed(flow.sample(200, generator=generator(1)))
    torch.testing.assert_close(cold, 0.5 * warm, rtol=1e-6, atol=1e-6)


def test_layers_lead_from_data_to_latent():
    flow = model()
    x = rows(7)
    after = flow.transform_layers(x)
    assert len(after) == len(flow.base_flow.layers()) >= 3
    torch.testing.assert_close(after[-1], flow.embed(x))
    torch.testing.assert_close(after[0], flow.base_flow.layers()[0].encode(x).value)
    assert not torch.allclose(after[0], after[-1])


def test_the_default_training_is_the_papers():
    (stage,) = GlobalFlow(2).stages()
    settings = (stage.epochs, stage.batch_size, stage.patience, stage.groups[0].lr)
    assert settings == (100, 128, 10, 1e-4)
    (stage,) = GlobalFlow(2, training={"steps": 5, "lr": 1e-3}).stages()
    assert (stage.epochs, stage.steps, stage.patience) == (None, 5, 10)


def test_training_beats_one_gaussian():
    x = rows(1500)
    x = torch.cat([x[:, :1], x[:, :1] ** 2 + 0.3 * x[:, 1:]], dim=1)
    train, valid, test = x[:1000], x[1000:1200], x[1200:]
    flow = model(training={"epochs": 25, "lr": 1e-2, "patience": None})
    gaussian = Gaussian(2).double()
    assert fit(flow, train, valid, seed=0).status == "ok"
    fit(gaussian, train, valid)
    assert flow.log_prob(test).mean() > gaussian.log_prob(test).mean() + 0.4


def test_packed_training_equals_training_alone():
    data = [TrainingData(rows(100, seed=s), rows(50, seed=9 + s)) for s in range(3)]
    options = {
        "base_flow": {**FLOW, "normalization": "batch"},
        "training": {"epochs": 2, "lr": 1e-3, "batch_size": 32},
    }
    packed = [model(seed=s, **options) for s in range(3)]
    alone = [copy.deepcopy(m) for m in packed]
    train_pack(packed, data, [1, 2, 3], packed=True)
    x = rows(20, seed=40)
    for a, b, pair, seed in zip(packed, alone, data, [1, 2, 3], strict=True):
        fit(b, *pair, seed=seed)
        torch.testing.assert_close(a.log_prob(x), b.log_prob(x), rtol=0, atol=1e-9)


class Shift(BaseFlow):
    """x + b, in any number of columns, conditional or not."""

    def __init__(self, features, **options):
        super().__init__(features, **options)
        self.offset = nn.Parameter(torch.zeros(features))

    def _encode(self, x, context, chart):
        return Step(x + self.offset, x.new_zeros(len(x)))

    def _decode(self, z, context, chart):
        return Step(z - self.offset, z.new_zeros(len(z)))


class Unpackable(Shift):
    packable = False


def test_takes_built_parts_and_is_packable_where_they_are():
    built = GlobalFlow(2, base_flow=Shift(2), prior=build_prior("standard-normal", 2))
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(torch.ones(3, 2)).sum(dim=1)
    torch.testing.assert_close(built.log_prob(torch.ones(3, 2)), expected)
    assert is_packable(built)
    assert not is_packable(GlobalFlow(2, base_flow=Unpackable(2)))


@pytest.mark.parametrize(
    "flow",
    [
        Shift(2, context_features=1),
        Shift(2, num_charts=4),
        Shift(2, latent_features=1),
    ],
    ids=["conditional", "charts", "injective"],
)
def test_flows_that_do_not_fit_are_refused(flow):
    with pytest.raises(ValueError, match="base_flow"):
        GlobalFlow(2, base_flow=flow)


def test_bad_input_is_refused():
    flow = model()
    with pytest.raises(ValueError, match="features"):
        GlobalFlow(3, base_flow=Shift(2))
    with pytest.raises(ValueError, match="prior: expected features=2"):
        GlobalFlow(2, base_flow=Shift(2), prior=build_prior("standard-normal", 3))
    with pytest.raises(ValueError, match="did you mean 'standard-normal'"):
        GlobalFlow(2, base_flow=Shift(2), prior="standard-norml")
    for call in (flow.embed, flow.transform_layers, flow.log_prob):
        with pytest.raises(ValueError, match=r"x: expected shape \(N, 2\)"):
            call(rows(4, 3))
    with pytest.raises(ValueError, match="x: expected finite"):
        flow.log_prob(rows(3) / 0)


def test_is_built_by_name_and_moves_with_its_state():
    made = build("mixture", "global", features=2, base_flow=FLOW, training={"epochs": 3})
    assert isinstance(made, GlobalFlow)
    flow, x = model(), rows(6)
    fresh = made.double().eval()
    fresh.load_state_dict(flow.state_dict())
    for other in (fresh, copy.deepcopy(flow)):
        assert torch.equal(other.log_prob(x), flow.log_prob(x))
    assert flow.log_prob(x[:0]).shape == (0,)
    meta = copy.deepcopy(flow).float().to("meta")
    assert meta.log_prob(torch.empty(5, 2, device="meta")).shape == (5,)
    built = build_part("base-flow", FLOW, features=2)
    assert GlobalFlow(2, base_flow=built).base_flow is built


def test_samples_carry_no_gradient():
    assert not GlobalFlow(2, base_flow={"name": "maf", "hidden": [4]}).sample(3).requires_grad
