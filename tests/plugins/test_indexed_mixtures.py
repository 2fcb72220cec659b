"""What lgf, discrete-lgf and rad share: frames, charts, temperatures, draws a row, validation."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor

import flowzoo
from flowzoo.importance import Weights
from flowzoo.registry import build
from flowzoo.testing.numerics import moons
from flowzoo_plugins.continuous_mixtures.categorical import Concrete
from flowzoo_plugins.continuous_mixtures.charts import mixed
from flowzoo_plugins.continuous_mixtures.clusters import some_rows
from flowzoo_plugins.continuous_mixtures.fold import Fold
from flowzoo_plugins.continuous_mixtures.objectives import bound

F64 = torch.float64
FLOW = {"name": "maf", "layers": 2, "hidden": [8], "activation": "tanh"}
KMEANS = {"name": "kmeans", "num_charts": 3}
SMALL = {
    "lgf": {"base_flow": FLOW, "p_hidden": [6], "q_hidden": [6], "st_hidden": [4]},
    "discrete-lgf": {"base_flow": FLOW, "num_values": 3, "p_hidden": [6], "q_hidden": [6]},
    "rad": {"base_flow": FLOW, "folds": 2, "pieces": 3, "gate_hidden": [6]},
}


def model_of(name: str, features: int = 2, perturbed: float = 0.2, **options):
    torch.manual_seed(6)
    model = build("mixture", name, features=features, **{**SMALL[name], **options}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(perturbed * torch.randn_like(parameter))
    return model.eval()


def prepared(model, x: Tensor):
    """The model after its closed-form stages."""
    for stage in model.stages():
        if stage.prepare is not None and stage.name != model.stages()[-1].name:
            stage.prepare(x, x, torch.Generator().manual_seed(0))
    return model


def scores(model, x: Tensor, num: int = 200) -> Tensor:
    return model.log_prob(x, num_samples=num, generator=torch.Generator().manual_seed(3))


# frames -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SMALL))
@torch.no_grad()
def test_density_and_draws_count_the_frame(name):
    """The same model without its frame, at framed rows."""
    x = moons(400, 2) * torch.tensor([30.0, 0.2], dtype=F64) + torch.tensor([500.0, -3.0])
    model = prepared(model_of(name, frame="pca"), x)
    bare = deepcopy(model)
    bare.frame = None
    y, volume = model.frame.encode(x)
    assert volume.abs().min() > 0.1
    torch.testing.assert_close(scores(model, x), scores(bare, y) + volume)
    torch.testing.assert_close(model.embed(x), bare.embed(y))
    drawn, inside = (
        m.sample(50, generator=torch.Generator().manual_seed(1)) for m in (model, bare)
    )
    torch.testing.assert_close(drawn, model.frame.decode(inside).value)


@torch.no_grad()
def test_discrete_indices_start_at_clusters_of_framed_rows():
    x = torch.randn(600, 2, dtype=F64)
    x[:, 0] += torch.tensor([-30.0, 0.0, 30.0], dtype=F64).repeat_interleave(200)
    x = x * 7.0 + 1000.0
    model = build(
        "mixture", "discrete-lgf", features=2, frame="similarity", **SMALL["discrete-lgf"]
    )
    model = prepared(model.double(), x)
    (raw, t) = model.joint.layers[0].bijection.shift.rows.chunk(2, dim=1)
    z = []
    y = model.frame.encode(x).value
    for k in range(3):
        s = 5.0 * torch.tanh(raw[k] / 5.0)
        z.append((y * s.exp() + t[k]).norm(dim=1))
    nearest = torch.stack(z).argmin(dim=0).reshape(3, 200)
    assert all(len(set(part.tolist())) == 1 for part in nearest)
    assert len({part[0].item() for part in nearest}) == 3


def test_starts_see_random_rows_of_sorted_files():
    x = torch.arange(2.0**15)[:, None]
    rows = some_rows(x, torch.Generator().manual_seed(0))
    assert len(rows) == 2**14
    assert (rows > 2**14).double().mean() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(some_rows(x[:9], torch.Generator()).sort(dim=0).values, x[:9])


# charts -------------------------------------------------------------------------------------------


def weights_of(log_weight: Tensor) -> Weights:
    return Weights.of(torch.zeros(*log_weight.shape, 1, dtype=F64), log_weight, 5)


def test_a_mixture_of_charts_is_the_direct_formula():
    log_weight = torch.randn(4, 3, 20, dtype=F64)  # rows, charts, draws
    log_chart = torch.tensor([0.2, 0.5, 0.3], dtype=F64).log()
    found = mixed([weights_of(log_weight[:, k]) for k in range(3)], log_chart)
    direct = (log_weight.exp().mean(dim=2) * log_chart.exp()).sum(dim=1).log()
    torch.testing.assert_close(found.log_mean(), direct)
    elbo = (log_weight.mean(dim=2) + log_chart).logsumexp(dim=1)
    torch.testing.assert_close(found.mean_log(), elbo)
    parts = [
        (log_weight[:, :, g::5].exp().mean(dim=2) * log_chart.exp()).sum(dim=1).log()
        for g in range(5)
    ]
    bias = (torch.stack(parts).mean(dim=0) - direct) / 4
    torch.testing.assert_close(found.bias(), bias)


def test_effective_sample_size_with_charts_is_of_the_draws():
    """Even weights in each chart: S, whatever the charts' shares; one chart alone: its own."""
    even = [weights_of(torch.full((2, 20), float(level), dtype=F64)) for level in (0.0, 3.0)]
    size = mixed(even, torch.tensor([0.4, 0.6], dtype=F64).log()).effective_sample_size()
    torch.testing.assert_close(size, torch.full((2,), 20.0, dtype=F64))
    uneven = weights_of(torch.randn(2, 20, dtype=F64))
    alone = mixed([uneven], torch.zeros(1, dtype=F64)).effective_sample_size()
    torch.testing.assert_close(alone, uneven.effective_sample_size())
    with_nothing = mixed([uneven, even[0]], torch.tensor([0.0, -200.0], dtype=F64))
    torch.testing.assert_close(with_nothing.effective_sample_size(), alone)


@torch.no_grad()
def test_chart_weights_start_at_counts_and_training_uses_the_nearest():
    x = torch.cat([torch.randn(300, 2, dtype=F64) - 9, torch.randn(100, 2, dtype=F64) + 9])
    model = model_of("lgf", partitioner={"name": "kmeans", "num_charts": 2}, perturbed=0.0)
    prepared(model, x)
    torch.testing.assert_close(
        model.charts.log_prob().exp().sort().values, torch.tensor([0.25, 0.75], dtype=F64)
    )
    near = (x[:, None] - model.charts.partitioner.codes).norm(dim=2).argmin(dim=1)
    assert torch.equal(model.assign(x), near)
    assert torch.equal(model.charts.nearest(x)[:, 0], near)


def test_the_loss_with_charts_has_the_gradient_of_finite_differences():
    """Through ``_loss``, with learned weights: their gradient too."""
    model = model_of("lgf", partitioner=KMEANS, overlap=2, training_samples=2).train()
    x = prepared_rows(model)
    stage = model.stages()[-1]
    noise = torch.randn(9, stage.noise_features, dtype=F64)
    stage.loss(x, noise, 0.0).mean().backward()
    for name in ("charts.logits", "joint.layers.0.prior.net.linears.0.weight"):
        parameter = model.get_parameter(name)
        direction, step = torch.randn_like(parameter), 1e-6
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                parameter.add_(sign * step * direction)
                ends.append(stage.loss(x, noise, 0.0).mean())
                parameter.sub_(sign * step * direction)
        numeric = (ends[0] - ends[1]) / (2 * step)
        assert numeric.abs() > 1e-6, name
        torch.testing.assert_close(
            (parameter.grad * direction).sum(), numeric, rtol=1e-5, atol=1e-8
        )


def prepared_rows(model) -> Tensor:
    x = moons(200, 2)
    prepared(model, x)
    return x[:9]


# the inference model ------------------------------------------------------------------------------


@pytest.mark.parametrize("infer_from", ["flow", "data"])
@torch.no_grad()
def test_q_sees_the_flow_s_output_or_the_data(infer_from):
    model = model_of("lgf", infer_from=infer_from)
    layer = model.joint.layers[0]
    seen = []
    layer.posterior.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = moons(5, 2)
    model.joint.infer(x, torch.zeros(5, 2, dtype=F64))
    expected = x if infer_from == "data" else layer.bijection.flow.encode(x).value
    assert torch.equal(seen[0], expected)


@torch.no_grad()
def test_the_relaxed_bound_is_the_formula_with_concrete_variables():
    model = model_of("discrete-lgf", objective="elbo", training_samples=1, tau=0.7)
    x = moons(6, 2)
    stage = model.stages()[-1]
    noise = torch.randn(6, stage.noise_features, dtype=F64)
    z, total = x, torch.zeros(6, dtype=F64)
    for layer, own in zip(model.joint.layers, noise[:, :6].split(3, dim=1), strict=True):
        y, volume = layer.bijection.prepare(z, None)
        q = Concrete(layer.posterior(y).log_share, 0.7)
        u = q.draw(own)
        z, more = layer.bijection.encode(y, u, None)
        p = Concrete(layer.prior(z).log_share, 0.7)
        total = total + volume + more + p.log_prob(u) - q.log_prob(u)
    expected = total + model.joint.prior.log_prob(z)
    torch.testing.assert_close(-stage.loss(x, noise, 0.0), expected)


@pytest.mark.parametrize("name", ["lgf", "discrete-lgf"])
@torch.no_grad()
def test_several_draws_a_row_are_single_draws_side_by_side(name):
    """What the first layer computes once for all draws is what each would compute."""
    options = {"objective": "importance"} if name == "discrete-lgf" else {"partitioner": KMEANS}
    model = model_of(name, **options)
    x = moons(4, 2)
    noise = torch.randn(4, 3, model.joint.noise_features, dtype=F64)
    context = None
    if model.charts is not None:
        context = torch.randn(4, model.charts.context_features, dtype=F64)
    together = model.joint.infer(x, noise.flatten(0, 1), context)
    for k in range(3):
        alone = model.joint.infer(x, noise[:, k], context)
        for whole, part in zip(together, alone, strict=True):
            torch.testing.assert_close(whole.reshape(4, 3, *whole.shape[1:])[:, k], part)


@torch.no_grad()
def test_training_and_validation_take_the_draws_they_are_told():
    model = model_of("lgf", training_samples=3, validation_samples=7)
    x = moons(5, 2)
    stage = model.stages()[-1]
    noise = torch.randn(5, stage.noise_features, dtype=F64)
    size = model.joint.noise_features
    assert stage.noise_features == 7 * size
    for found, draws in ((stage.loss(x, noise, 0.0), 3), (stage.validate(x, noise), 7)):
        shaped = noise[:, : draws * size].reshape(5, 1, draws, size)
        torch.testing.assert_close(found, -bound(model.joint, x, shaped, "importance"))


@torch.no_grad()
def test_exact_validation_is_the_loss_in_blocks():
    model = model_of("discrete-lgf", objective="exact")
    model.rows_per_call = 4
    x = moons(11, 2)
    stage = model.stages()[-1]
    torch.testing.assert_close(stage.validate(x, x[:, :0]), stage.loss(x, x[:, :0], 0.0))


# temperatures -------------------------------------------------------------------------------------


@torch.no_grad()
def test_cold_draws_are_typical_values():
    """At t -> 0: z_0 = 0, u at its mean or its most probable value, the most probable chart."""
    tiny = 1e-9

    def cold(model) -> Tensor:
        return model.sample(40, temperature=tiny, generator=torch.Generator().manual_seed(0))

    lgf = model_of("lgf")
    z = torch.zeros(1, 2, dtype=F64)
    for layer in reversed(lgf.joint.layers):
        z = layer.bijection.decode(z, layer.prior(z).mean, None)
    torch.testing.assert_close(cold(lgf), z.expand(40, 2), rtol=0, atol=1e-6)

    discrete = model_of("discrete-lgf")
    z = torch.zeros(1, 2, dtype=F64)
    for layer in reversed(discrete.joint.layers):
        z = layer.bijection.decode(z, layer.prior(z).centre(), None)
    torch.testing.assert_close(cold(discrete), z.expand(40, 2), rtol=0, atol=1e-6)

    rad = model_of("rad")
    z = torch.zeros(1, 2, dtype=F64)
    for flow, fold in zip(reversed(rad.flows), reversed(rad.folds), strict=True):
        z = flow.decode(fold.decode(z, fold.log_pieces(z).argmax(dim=1))).value
    torch.testing.assert_close(cold(rad), z.expand(40, 2), rtol=0, atol=1e-6)

    charted = model_of("lgf", partitioner=KMEANS)
    charted.charts.logits.copy_(torch.tensor([0.0, 0.5, -1.0]))
    assert set(charted.charts.draw(500, tiny).tolist()) == {1}
    share = torch.bincount(charted.charts.draw(20_000, 2.0), minlength=3) / 20_000
    expected = (charted.charts.logits / 2).softmax(dim=0).float()
    torch.testing.assert_close(share, expected, rtol=0, atol=0.02)


# folds at their knots -----------------------------------------------------------------------------


@torch.no_grad()
def test_rows_at_the_knots_are_scored_in_single_precision():
    """Rounding may put their image outside that of their piece; they are in it all the same."""
    torch.manual_seed(0)
    for seed in range(20):
        torch.manual_seed(seed)
        fold = Fold(1, column=0, pieces=5, hidden=(4,))
        for parameter in fold.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        knots = fold.first_knot + torch.cat([torch.zeros(1), fold.log_gaps.exp().cumsum(dim=0)])
        around = torch.cat([knots + shift * 1e-7 for shift in range(-3, 4)])[:, None]
        assert fold.encode(around).log_factor.isfinite().all()


@torch.no_grad()
def test_folds_start_far_from_the_origin_in_single_precision():
    x = 3000.0 + 0.01 * torch.randn(500, 2)
    x[:250, 0] += 0.2
    torch.manual_seed(0)
    fold = Fold(2, column=0, pieces=3, hidden=(4,))
    fold.place(x)
    assert fold.log_gaps.isfinite().all()
    knots = torch.cat([fold.first_knot[None], fold.first_knot + fold.log_gaps.exp()])
    assert knots[1] > knots[0]
    assert fold.encode(x).piece.bincount(minlength=3)[[0, 2]].tolist() == [250, 250]


# what users meet ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("lgf", {"p_hidden": [0]}, "p_hidden"),
        ("lgf", {"q_hidden": [-1]}, "q_hidden"),
        ("lgf", {"st_hidden": [4, 0]}, "st_hidden"),
        ("rad", {"gate_hidden": [0]}, "gate_hidden"),
        ("discrete-lgf", {"q_hidden": [0]}, "q_hidden"),
    ],
)
def test_messages_name_the_option(name, options, match):
    with pytest.raises(ValueError, match=match):
        build("mixture", name, features=2, **options)


def test_estimates_refuse_rows_that_are_not_finite():
    for model in (model_of("lgf"), model_of("discrete-lgf", objective="importance")):
        x = moons(4, 2)
        x[1, 0] = math.nan
        with pytest.raises(ValueError, match="finite"):
            model.importance_estimate(x, num_samples=2)


@pytest.mark.parametrize("name", sorted(SMALL))
@pytest.mark.parametrize("num_samples", [0, -1, 1.5])
def test_a_number_of_samples_is_checked_where_none_are_drawn_too(name, num_samples):
    with pytest.raises((ValueError, TypeError), match="num_samples: expected a positive int"):
        model_of(name).log_prob(moons(2, 2), num_samples=num_samples)


def test_estimates_take_no_gradients_and_say_what_they_need():
    found = model_of("lgf").importance_estimate(moons(4, 2), num_samples=5)
    assert not any(part.requires_grad for part in found)
    summed = model_of("discrete-lgf", objective="exact")
    with pytest.raises(
        TypeError, match=r"importance_estimate: expected .* exact sums.*\['exact'\]"
    ):
        summed.importance_estimate(moons(4, 2))


def test_one_layer_of_many_values_is_not_summed():
    model = model_of("discrete-lgf", base_flow={**FLOW, "layers": 1}, num_values=9, max_paths=8)
    assert list(model.evaluations) == ["importance", "elbo"]
    with pytest.raises(TypeError, match="9 paths"):
        model.assign(moons(2, 2))


@pytest.mark.parametrize("name", sorted(SMALL))
def test_trained_with_a_frame_it_scores_better_than_one_gaussian(name):
    x = moons(500, 2).float() * torch.tensor([100.0, 0.1])
    torch.manual_seed(0)
    training = {"epochs": 60, "batch_size": 50, "lr": 1e-2}
    model = build("mixture", name, features=2, frame="pca", training=training, **SMALL[name])
    flowzoo.fit(model, x[:400], x[400:], seed=0)
    gaussian = build("mixture", "gaussian", features=2)
    flowzoo.fit(gaussian, x[:400], x[400:], seed=0)
    with torch.no_grad():
        assert model.log_prob(x[400:]).mean() > gaussian.log_prob(x[400:]).mean() + 0.1
