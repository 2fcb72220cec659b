"""Evaluations, sampling and inference of VQFlow, on local flows whose density is known."""

import copy
import math

import pytest
import torch
from torch import nn

from flowzoo.interfaces import BaseFlow, Partitioner, Step
from flowzoo.layers import Composition
from flowzoo_plugins.vq_flows import VQFlow, leakage
from flowzoo_plugins.vq_flows.weights import choice_probabilities

K = 5


class Centres(Partitioner):
    """Fixed centres in data space."""

    def __init__(self, codes):
        super().__init__(codes.shape[1], num_charts=len(codes), code_features=codes.shape[1])
        self.register_buffer("codes", codes.clone())

    def _distances(self, x):
        return (x[:, None, :] - self.codes).square().sum(dim=2).add(1e-12).sqrt()

    def stages(self):
        return ()


class Around(BaseFlow):
    """A Gaussian of trainable scale around the context; counts the rows it sees."""

    def __init__(self, features, context_features, scale=0.5):
        super().__init__(features, context_features=context_features)
        self.log_scale = nn.Parameter(torch.full((features,), math.log(scale)))
        self.rows = []

    def _encode(self, x, context, chart):
        self.rows.append(len(x))
        z = (x - context[:, : self.features]) * (-self.log_scale).exp()
        return Step(z, -self.log_scale.sum().expand(len(x)))

    def _decode(self, z, context, chart):
        x = z * self.log_scale.exp() + context[:, : self.features]
        return Step(x, -self.log_scale.sum().expand(len(z)))


def centres(charts=K, features=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(charts, features, generator=generator, dtype=torch.float64)


def gaussians(charts=K, scale=0.5, data=None, **options):
    """VQFlow of equal Gaussians around the centres, weights counted on ``data``, float64."""
    codes = centres(charts)
    model = VQFlow(2, base_flow=Around(2, 2, scale), partitioner=Centres(codes), **options).double()
    rows = points(400) if data is None else data
    stage = next(stage for stage in model.stages() if stage.name == "charts")
    stage.prepare(rows, rows, torch.Generator().manual_seed(0))
    return model.eval()


def points(rows, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 1.3 * torch.randn(rows, 2, generator=generator, dtype=torch.float64)


def component_log_prob(model, x):
    """log p(x | k) in closed form, (N, K)."""
    scale = model.flow.base.log_scale.exp()
    normal = torch.distributions.Normal(model.partitioner.codes[None], scale)
    return normal.log_prob(x[:, None, :]).sum(dim=2)


def membership(model, x):
    active = model.active(x)
    inside = torch.zeros(len(x), model.num_charts, dtype=torch.bool)
    return inside.scatter(1, active.index, active.present())


def grid(width=5.0, steps=500):
    line = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps * 2 * width - width
    return torch.cartesian_prod(line, line), (2 * width / steps) ** 2


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
