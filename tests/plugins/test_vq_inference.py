"""Sampling, inference and saving of VQFlow, on local flows whose density is known."""

import math

import pytest
import torch
from torch import nn

from flowzoo.layers import Composition
from flowzoo_plugins.vq_flows import VQFlow
from flowzoo_plugins.vq_flows.weights import choice_probabilities
from known_charts import (
    Around,
    Centres,
    K,
    centres,
    component_log_prob,
    gaussians,
    grid,
    membership,
    points,
)

# -- sampling -----------------------------------------------------------------------------------


def test_samples_follow_the_full_density():
    model = gaussians(overlap=2)
    x, score = model.sample_and_log_prob(40_000, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(score, model.log_prob(x))
    weights, codes = model.weights.log_prob().exp(), model.partitioner.codes
    assert torch.allclose(x.mean(dim=0), weights @ codes, atol=0.02)
    second = weights @ codes.square() + 0.25
    assert torch.allclose(x.square().mean(dim=0), second, atol=0.05)
    # mass of a box: samples against quadrature
    cells, area = grid()
    inside = (cells.abs() < 0.7).all(dim=1)
    mass = float(model.log_prob(cells[inside]).detach().exp().sum() * area)
    assert float((x.abs() < 0.7).all(dim=1).double().mean()) == pytest.approx(mass, abs=0.012)


def test_sampling_is_reproducible_chunked_and_takes_temperature():
    model = gaussians()
    a = model.sample(50, generator=torch.Generator().manual_seed(3))
    assert a.equal(model.sample(50, generator=torch.Generator().manual_seed(3)))
    assert model.sample(0).shape == (0, 2)
    assert model.sample(0, evaluation="renormalised").shape == (0, 2)
    cold = model.sample(200, temperature=1e-6, generator=torch.Generator().manual_seed(3))
    assert model.partitioner.distances(cold).min(dim=1).values.max() < 1e-4
    model.rows_per_call = 8
    assert model.sample(50).shape == (50, 2)
    assert not a.requires_grad


# -- inference ----------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluation", [None, "full", "truncated", "elbo", "renormalised"])
def test_responsibilities(evaluation):
    model, x = gaussians(overlap=2), points(60)
    p = model.responsibilities(x, evaluation=evaluation)
    assert torch.allclose(p.sum(dim=1), torch.ones(60, dtype=torch.float64))
    joint = component_log_prob(model, x) + model.weights.log_prob()
    inside = membership(model, x)
    if evaluation in (None, "full"):
        assert torch.allclose(p, joint.softmax(dim=1))
    else:
        assert (p[~inside] == 0).all()
    if evaluation == "truncated":
        assert torch.allclose(p, joint.masked_fill(~inside, -torch.inf).softmax(dim=1))
    if evaluation == "elbo":
        q = choice_probabilities(model.active(x), model.weights.choice)
        assert torch.allclose(p.gather(1, model.active(x).index), q)


def test_embed_modes():
    model, x = gaussians(overlap=3), points(40)
    p = model.responsibilities(x)
    every = torch.stack(
        [model.chart_encode(x, torch.full((40,), k)).value for k in range(K)], dim=1
    )
    assert torch.allclose(model.embed(x, "mean"), (p[:, :, None] * every).sum(dim=1))
    best = every[torch.arange(40), p.argmax(dim=1)]
    assert torch.allclose(model.embed(x, "argmax"), best)
    assert torch.allclose(model.embed(x), best)
    many = x[:1].expand(20_000, 2)
    drawn = model.embed(many, "sample", generator=torch.Generator().manual_seed(0))
    which = (drawn[:, None, :] - every[0]).abs().sum(dim=2).argmin(dim=1)
    frequency = which.bincount(minlength=K) / 20_000
    assert torch.allclose(frequency.double(), p[0], atol=0.015)
    model.rows_per_call = 6
    assert torch.allclose(model.embed(x, "mean"), (p[:, :, None] * every).sum(dim=1))
    with pytest.raises(ValueError, match="mode: expected one of"):
        model.embed(x, "median")


def test_embed_modes_agree_for_a_partition():
    model, x = gaussians(overlap=1), points(40)
    z = model.chart_encode(x, model.partitioner.assign(x)).value  # eq. 19
    for mode in ("sample", "mean", "argmax"):
        assert torch.allclose(model.embed(x, mode, evaluation="truncated"), z)


def test_transform_layers_end_in_the_latent_code():
    torch.manual_seed(0)
    model = VQFlow(
        2,
        base_flow={"name": "realnvp", "layers": 3, "hidden": [8]},
        partitioner=Centres(centres()),
        prior="uniform-ball",
        frames="pca",
    ).double()
    for parameter in model.flow.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.stages()[-2].prepare(points(300), points(10), torch.Generator())
    model.eval()
    x = points(20)
    steps = model.transform_layers(x)
    assert len(steps) == 1 + 3 + 1  # frame, couplings, squash
    chart = model.assign(x)
    assert torch.allclose(steps[0], model.flow.frames.encode(x, chart).value)
    assert torch.allclose(steps[-1], model.chart_encode(x, chart).value)


def test_encode_and_decode_are_inverse_with_the_jacobians_volume():
    torch.manual_seed(0)
    model = VQFlow(
        2,
        base_flow={"name": "maf", "layers": 2, "hidden": [8], "normalization": "none"},
        partitioner=Centres(centres()),
        prior="uniform-ball",
        frames="pca",
        condition="one-hot",
    ).double()
    for parameter in model.flow.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.stages()[-2].prepare(points(300), points(10), torch.Generator())
    model.eval()
    x, chart = points(12), torch.arange(12) % K
    z, volume = model.chart_encode(x, chart)
    back, same = model.chart_decode(z, chart)
    assert torch.allclose(back, x, atol=1e-9)
    assert torch.allclose(volume, same, atol=1e-9)
    for n in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda row, k=chart[n : n + 1]: model.chart_encode(row[None], k).value[0], x[n]
        )
        assert torch.allclose(torch.linalg.slogdet(jacobian).logabsdet, volume[n])


# -- the model as a module ----------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_scores_survive_saving_and_the_meta_device(margin):
    model, x = gaussians(overlap=2, margin=margin, frames="pca"), points(9)
    model.chart_leak()
    other = gaussians(overlap=2, margin=margin, frames="pca", data=points(50, seed=8))
    other.load_state_dict(model.state_dict())
    for evaluation in model.evaluations:
        assert torch.equal(
            model.log_prob(x, evaluation=evaluation), other.log_prob(x, evaluation=evaluation)
        )
    other.to("meta")
    for evaluation in other.evaluations:
        assert other.log_prob(x.to("meta"), evaluation=evaluation).shape == (9,)
    assert other.sample(4).shape == (4, 2)


def test_flow_indexed_by_chart_is_given_the_chart():
    class Indexed(Around):
        def __init__(self):
            super().__init__(2, 2)
            self.num_charts = K

        def _encode(self, x, context, chart):
            assert chart.shape == (len(x),)
            return super()._encode(x, context, chart)

    x = points(6)
    model = VQFlow(2, base_flow=Composition([Indexed()]), partitioner=Centres(centres())).double()
    plain = VQFlow(2, base_flow=Around(2, 2), partitioner=Centres(centres())).double()
    assert torch.allclose(model.log_prob(x), plain.log_prob(x))
    with pytest.raises(ValueError, match="base_flow: expected num_charts None or 4, got 5"):
        VQFlow(2, base_flow=Indexed(), partitioner=Centres(centres(4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": 0}, "overlap: expected a positive integer"),
        ({"overlap": 6}, "overlap: expected at most 5 charts, got 6"),
        ({"margin": -0.1}, "margin: expected a finite number >= 0"),
        ({"margin": math.nan}, "margin: expected a finite number >= 0"),
        ({"overlap": 2, "margin": 0.1, "max_active": 1}, "max_active: expected 2 to 5, got 1"),
        ({"overlap": 2, "margin": 0.1, "max_active": 2.5}, "max_active: expected a positive integ"),
        ({"margin": "a"}, "margin: expected a finite number >= 0, got 'a'"),
        ({"frames": "pca", "frame_shrinkage": "x"}, r"frame_shrinkage: .* \[0, 1\], got 'x'"),
        ({"training": 3}, "training: expected a table of options, got 3"),
        ({"objective": "exakt"}, "objective: expected one of .* got 'exakt'"),
        ({"weights": "even"}, "weights: expected one of"),
        ({"condition": "hot"}, "condition: expected one of"),
        ({"frames": "ica"}, "frames: expected 'none' or 'pca', got 'ica'"),
        ({"frames": "pca", "frame_inflation": 0.0}, "frame_inflation: .* > 0, got 0.0"),
        ({"frames": "pca", "frame_inflation": math.inf}, "frame_inflation: .*got inf"),
        ({"leak_penalty": -1.0}, "leak_penalty: expected a finite number >= 0"),
        ({"leak_samples": 0}, "leak_samples: expected a positive integer"),
        ({"prior": "normal"}, "prior: expected one of"),
        ({"training": {"epoch": 3}}, "unknown option 'epoch'.*did you mean 'epochs'"),
        ({"condition": "one-hot"}, "context_features: expected 5"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        gaussians(**options)


def test_bad_calls_are_refused_by_name():
    model, x = gaussians(), points(3)
    with pytest.raises(ValueError, match="evaluation: expected one of"):
        model.log_prob(x, evaluation="exact")
    with pytest.raises(ValueError, match="evaluation: expected one of"):
        model.responsibilities(x, evaluation="exact")
    with pytest.raises(ValueError, match="evaluation: expected 'full' or 'renormalised'"):
        model.sample(3, evaluation="truncated")
    with pytest.raises(ValueError, match="num: expected >= 0"):
        model.sample(-1, evaluation="renormalised")
    with pytest.raises(ValueError, match="temperature: expected > 0"):
        model.sample(1, evaluation="renormalised", temperature=0.0)
    with pytest.raises(ValueError, match="temperature: expected > 0 and finite, got inf"):
        model.sample(1, temperature=math.inf)
    with pytest.raises(ValueError, match=r"num: expected >= 0, an integer, got 2\.5"):
        model.sample(2.5)
    for draws in (0, -3):
        with pytest.raises(ValueError, match="num_samples: expected a positive integer"):
            model.log_prob(x, evaluation="renormalised", num_samples=draws)
    for call in (model.log_prob, model.embed, model.assign, model.transform_layers):
        with pytest.raises(ValueError, match=r"x: expected shape \(N, 2\), got \(3, 3\)"):
            call(torch.zeros(3, 3, dtype=torch.float64))
        with pytest.raises(ValueError, match="x: expected finite values"):
            call(torch.full((3, 2), torch.nan, dtype=torch.float64))
        with pytest.raises(ValueError, match="x: expected"):
            call(torch.zeros(3, 2, dtype=torch.int64))
