"""Evaluations and chart leakage of VQFlow, on local flows whose density is known."""

import copy

import pytest
import torch
from torch import nn

from flowzoo_plugins.vq_flows import VQFlow, leakage
from known_charts import (
    Centres,
    K,
    centres,
    component_log_prob,
    gaussians,
    grid,
    membership,
    points,
)

OVERLAPS = [
    {"overlap": 1},
    {"overlap": 3},
    {"overlap": 1, "margin": 0.4},
    {"overlap": 2, "margin": 0.3, "max_active": 3},
    {"overlap": 2, "weights": "consistent"},
    {"overlap": 2, "weights": "learned"},
]


# -- evaluations --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OVERLAPS)
def test_evaluations_equal_their_definitions(options):
    model, x = gaussians(**options), points(300)
    joint = component_log_prob(model, x) + model.weights.log_prob()
    inside = membership(model, x)
    assert torch.allclose(model.log_prob(x), joint.logsumexp(dim=1))
    truncated = joint.masked_fill(~inside, -torch.inf)
    assert torch.allclose(model.log_prob(x, evaluation="truncated"), truncated.logsumexp(dim=1))
    p = model.weights.choice * inside
    q = p / p.sum(dim=1, keepdim=True)
    elbo = torch.where(inside, q * (joint - q.log()), 0.0).sum(dim=1)
    assert torch.allclose(model.log_prob(x, evaluation="elbo"), elbo)
    leak = model.chart_leak()
    renormalised = (truncated - leak.log()).logsumexp(dim=1)
    assert torch.allclose(model.log_prob(x, evaluation="renormalised"), renormalised)


@pytest.mark.parametrize("options", OVERLAPS)
def test_every_row_is_ordered(options):
    model, x = gaussians(**options), points(500)
    elbo, truncated, full = (
        model.log_prob(x, evaluation=name) for name in ("elbo", "truncated", "full")
    )
    assert (elbo <= truncated + 1e-10).all()
    assert (truncated <= full + 1e-10).all()
    if options == {"overlap": 1}:
        assert torch.allclose(elbo, truncated, atol=1e-12)
        loss = model.stages()[-1].loss(x, x.new_zeros(len(x), 0), 0.0)
        assert torch.allclose(-loss, truncated, atol=1e-12)
    else:
        assert (elbo < truncated - 1e-3).any()


@pytest.mark.parametrize("options", OVERLAPS[1:4])
def test_mass_by_quadrature(options):
    model = gaussians(**options, scale=1.3, leak_samples=100_000)
    x, area = grid(9.0)
    mass = {
        name: float(model.log_prob(x, evaluation=name).detach().exp().sum() * area)
        for name in model.evaluations
    }
    assert mass["full"] == pytest.approx(1.0, abs=1e-4)
    weights, leak = model.weights.log_prob().exp(), model.chart_leak()
    expected = float((weights * leak).sum())
    assert expected < 0.96  # something leaks, or the test shows nothing
    assert mass["truncated"] == pytest.approx(expected, abs=4e-3)
    assert mass["renormalised"] == pytest.approx(1.0, abs=5e-3)
    assert mass["elbo"] <= mass["truncated"] <= 1.0


def test_mass_of_a_framed_autoregressive_mixture_with_a_ball_prior():
    torch.manual_seed(0)
    model = VQFlow(
        2,
        base_flow={"name": "maf", "layers": 2, "hidden": [8]},
        partitioner=Centres(centres()),
        prior="uniform-ball",
        overlap=2,
        condition="one-hot",
        frames="pca",
    ).double()
    for parameter in model.flow.parameters():
        nn.init.normal_(parameter, std=0.15)
    model.stages()[-2].prepare(points(400), points(10), torch.Generator())
    model.eval()
    x, area = grid(25.0, 400)
    assert float(model.log_prob(x).detach().exp().sum() * area) == pytest.approx(1.0, abs=1e-2)
    z = model.embed(x[::1000])
    assert (z.square().sum(dim=1) < 1.0).all()


@pytest.mark.parametrize("options", [{"overlap": 2}, {"overlap": 2, "margin": 0.1}])
def test_truncated_evaluates_the_active_pairs_only_however_many_charts(options):
    x, seen = points(64), []
    for charts in (4, 16, 64):
        model = gaussians(charts, **options)
        base = model.flow.base
        base.rows.clear()
        model.log_prob(x, evaluation="truncated")
        assert len(base.rows) == 1
        assert base.rows[0] == int(membership(model, x).sum())
        seen.append(base.rows[0])
        base.rows.clear()
        model.log_prob(x, evaluation="full")
        assert sum(base.rows) == 64 * charts
    if "margin" not in options:
        assert seen == [128, 128, 128]
    else:
        assert seen[-1] < 64 * 64 / 4


@pytest.mark.parametrize("evaluation", ["full", "truncated", "elbo", "renormalised"])
def test_chunks_and_rows_do_not_matter(evaluation):
    model, x = gaussians(overlap=2, margin=0.2), points(37)
    whole = model.log_prob(x, evaluation=evaluation)
    single = torch.cat([model.log_prob(row[None], evaluation=evaluation) for row in x])
    assert torch.allclose(whole, single)
    model.rows_per_call = 7
    model.flow.base.rows.clear()
    assert torch.allclose(model.log_prob(x, evaluation=evaluation), whole)
    assert max(model.flow.base.rows) <= 7
    assert model.log_prob(x[:0], evaluation=evaluation).shape == (0,)


def test_evaluations_declare_what_they_are():
    model = gaussians(leak_samples=77)
    assert list(model.evaluations) == ["full", "truncated", "elbo", "renormalised"]
    kinds = [str(evaluation.likelihood) for evaluation in model.evaluations.values()]
    assert kinds == ["exact", "lower_bound", "lower_bound", "estimate(77)"]
    assert {str(evaluation.measure) for evaluation in model.evaluations.values()} == {"lebesgue"}


def test_dead_charts_give_no_nan():
    data = points(300)[points(300).sum(dim=1) > 1.0]
    model = gaussians(overlap=1, data=data)
    assert (model.weights.choice == 0).any()
    x = points(300, seed=5)
    truncated = model.log_prob(x, evaluation="truncated")
    assert (truncated == -torch.inf).any()  # rows whose charts are all dead: provably no mass
    assert (model.log_prob(x, evaluation="elbo") <= truncated + 1e-12).all()
    for evaluation in model.evaluations:
        assert not model.log_prob(x, evaluation=evaluation).isnan().any()
    for mode in ("sample", "mean", "argmax"):  # no posterior, no code
        z = model.embed(x, mode, evaluation="truncated")
        assert z.isnan().any(dim=1).equal(truncated == -torch.inf)
    model.log_prob(x).sum().backward()
    assert torch.isfinite(model.flow.base.log_scale.grad).all()


# -- leakage ------------------------------------------------------------------------------------


def test_chart_leak_agrees_with_quadrature():
    model = gaussians(overlap=2, leak_samples=20_000)
    x, area = grid()
    exact = (component_log_prob(model, x).exp() * membership(model, x)).sum(dim=0) * area
    assert torch.allclose(model.chart_leak(), exact.detach(), atol=0.015)


def test_chart_leak_is_kept_and_saved_and_forgotten_by_training():
    model = gaussians(leak_samples=50)
    fresh = copy.deepcopy(model)
    assert (model.state_dict()["inside"] == -1).all()
    leak = model.chart_leak()
    assert model.state_dict()["inside"].equal(leak)
    assert fresh.chart_leak().equal(leak)  # fixed seed
    other = model.chart_leak(num_samples=80, generator=torch.Generator().manual_seed(5))
    assert not other.equal(leak)
    assert model.chart_leak().equal(leak)
    x = points(10)
    a = model.log_prob(x, evaluation="renormalised", num_samples=9)
    assert not a.equal(model.log_prob(x, evaluation="renormalised"))
    model.stages()[-2].prepare(x, x, torch.Generator())
    assert (model.inside == -1).all()


def test_chart_leak_leaves_the_global_generator_alone():
    model = gaussians(leak_samples=50)
    state = torch.get_rng_state()
    model.chart_leak()
    assert torch.get_rng_state().equal(state)


def test_renormalised_samples_lie_in_a_chart_with_the_right_density():
    model = gaussians(overlap=1, scale=0.9, leak_samples=50_000)
    generator = torch.Generator().manual_seed(2)
    x = model.sample(20_000, evaluation="renormalised", generator=generator)
    counts = model.assign(x).bincount(minlength=K).double() / len(x)
    weights = model.weights.log_prob().exp()
    assert torch.allclose(counts, weights, atol=0.015)  # one chart a row: x is in the one drawn
    plain = model.sample(20_000, generator=generator)
    assert (model.assign(plain).bincount(minlength=K) / 20_000 - weights).abs().max() > 0.03
    # E[x] by quadrature
    points_, area = grid()
    density = model.log_prob(points_, evaluation="renormalised").detach().exp() * area
    assert torch.allclose(x.mean(dim=0), density @ points_, atol=0.03)


def test_a_chart_where_no_draw_fell_inside_counts_half_a_draw(monkeypatch):
    model = gaussians(leak_samples=100)
    is_inside = leakage.is_inside

    def never_in_chart_0(model, x, chart):
        return is_inside(model, x, chart) & (chart != 0)

    monkeypatch.setattr(leakage, "is_inside", never_in_chart_0)
    inside = model.chart_leak()
    assert float(inside[0]) == 0.5 / 100 and bool((inside[1:] >= 0.01).all())
    assert bool(torch.isfinite(model.log_prob(points(50), evaluation="renormalised")).all())


def test_leak_distance_is_zero_inside_and_differentiable():
    from flowzoo_plugins.vq_flows.leakage import is_inside, leak_distance

    model = gaussians(overlap=2, scale=1.0)
    z = points(400, seed=9)
    chart = torch.arange(400) % K
    distance = leak_distance(model, z, chart)
    inside = is_inside(model, model.chart_decode(z, chart).value, chart)
    assert (distance[inside] == 0).all()
    assert (distance[~inside] > 0).all()
    distance.mean().backward()
    gradient = model.flow.base.log_scale.grad
    assert torch.isfinite(gradient).all()
    assert (gradient > 0).all()  # narrower flows leak less
