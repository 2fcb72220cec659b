"""Objectives and stages of VQFlow: alone, under vmap, and through the trainer."""

import itertools
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

import flowzoo
from flowzoo.interfaces import Partitioner
from flowzoo.training import TrainingData, fit, train_pack
from flowzoo_plugins.vq_flows import FRAMED, VQFlow
from flowzoo_plugins.vq_flows.weights import choice_probabilities

MAF = {"name": "maf", "layers": 2, "hidden": [8], "normalization": "none"}
KMEANS = {"name": "kmeans", "num_charts": 6}


def ring(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(rows, generator=generator, dtype=torch.float64)
    noise = 0.05 * torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin()], dim=1) + noise


def prepared(seed=0, x=None, std=0.3, **options):
    """A small mixture after its closed-form stages, with random flow parameters, float64."""
    torch.manual_seed(seed)
    x = ring(200, seed) if x is None else x
    model = VQFlow(2, **{"base_flow": MAF, "partitioner": KMEANS, **options}).double()
    for stage in model.stages()[:-1]:
        stage.prepare(x, x, torch.Generator().manual_seed(seed))
    for parameter in model.flow.parameters():
        nn.init.normal_(parameter, std=std)
    return model.eval()


# -- objectives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["membership", "consistent", "learned"])
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_exact_objective_is_the_truncated_evaluation(margin, weights):
    model, x = prepared(overlap=2, margin=margin, weights=weights, objective="exact"), ring(50, 1)
    loss = model.stages()[-1].loss(x, x.new_zeros(50, 0), 0.0)
    assert torch.allclose(-loss, model.log_prob(x, evaluation="truncated"))


@pytest.mark.parametrize("weights", ["membership", "consistent", "learned"])
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_sampled_objective_has_the_elbo_as_its_mean(margin, weights):
    model = prepared(overlap=2, margin=margin, weights=weights, objective="sampled")
    x = ring(4, 1)
    stage = model.stages()[-1]
    assert stage.noise_features == 1
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    noise = torch.special.ndtri(u)[:, None]
    for row in x:
        loss = stage.loss(row.expand(4000, 2), noise, 0.0)
        elbo = model.log_prob(row[None], evaluation="elbo")
        q = choice_probabilities(model.active(row[None]), model.weights.choice)
        assert loss.unique().numel() <= (q > 0).sum()
        assert float(-loss.mean().detach()) == pytest.approx(float(elbo.detach()), rel=2e-3)


def test_all_objectives_agree_for_a_partition():
    x = ring(30, 1)
    losses = []
    for objective in ("hard", "sampled", "exact"):
        model = prepared(objective=objective)
        stage = model.stages()[-1]
        losses.append(stage.loss(x, torch.randn(30, stage.noise_features).double(), 0.0))
    assert torch.allclose(losses[0], losses[1])
    assert torch.allclose(losses[0], losses[2])


@pytest.mark.parametrize(("objective", "rows"), [("hard", 10), ("sampled", 10), ("exact", 30)])
def test_flow_rows_an_objective_costs(objective, rows, monkeypatch):
    model = prepared(overlap=3, objective=objective)
    encode, seen = model.flow.base.encode, []

    def counted(x, **given):
        seen.append(len(x))
        return encode(x, **given)

    monkeypatch.setattr(model.flow.base, "encode", counted)
    stage = model.stages()[-1]
    stage.loss(ring(10), torch.zeros(10, stage.noise_features).double(), 0.0)
    assert seen == [rows]  # one call


@pytest.mark.parametrize("objective", ["hard", "sampled", "exact"])
def test_leak_penalty_adds_a_finite_differentiable_term(objective):
    options = {"overlap": 2, "objective": objective, "std": 0.6}
    model = prepared(leak_penalty=2.0, **options)
    plain = prepared(**options)
    x = ring(300, 1)
    stage, bare = model.stages()[-1], plain.stages()[-1]
    assert stage.noise_features == bare.noise_features + 2
    noise = torch.randn(
        300, stage.noise_features, generator=torch.Generator().manual_seed(0)
    ).double()
    loss = stage.loss(x, noise, 0.0)
    added = loss - bare.loss(x, noise[:, 2:], 0.0)
    assert (added > -1e-12).all()
    assert added.max() > 0.1
    loss.mean().backward()
    for name, parameter in model.flow.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
    # training on it alone drives the flows into their charts, from wherever they were
    plain.flow = model.flow
    before = model.chart_leak(num_samples=500, generator=torch.Generator().manual_seed(0)).mean()
    optimizer = torch.optim.Adam(model.flow.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(120):
        noise = torch.randn(300, stage.noise_features, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        added = stage.loss(x, noise, 0.0) - bare.loss(x, noise[:, 2:], 0.0)
        added.mean().backward()
        optimizer.step()
    after = model.chart_leak(num_samples=500, generator=torch.Generator().manual_seed(0)).mean()
    assert before < 0.6 and after > 0.9


@pytest.mark.parametrize("weights", ["membership", "consistent", "learned"])
@pytest.mark.parametrize("objective", ["hard", "sampled", "exact"])
def test_dead_charts_leave_loss_and_gradient_finite(objective, weights):
    x = ring(200)
    model = prepared(
        x=x[x[:, 0] > 0], overlap=2, margin=0.1, objective=objective, weights=weights,
        leak_penalty=0.1,
    )  # fmt: skip
    model.weights.choice[:3] = 0.0
    if weights != "learned":
        model.weights.probabilities[:3] = 0.0
    stage = model.stages()[-1]
    loss = stage.loss(x, torch.randn(200, stage.noise_features).double(), 0.0)
    assert torch.isfinite(loss).all()
    loss.mean().backward()
    trained = [model.flow, model.weights] if weights == "learned" else [model.flow]
    for parameter in itertools.chain.from_iterable(part.parameters() for part in trained):
        assert torch.isfinite(parameter.grad).all()


def test_learned_weights_start_from_membership_and_learn_the_choice_frequencies():
    model = prepared(overlap=2, weights="learned", objective="sampled", std=0.0)
    p = model.weights.log_prob().exp()
    assert torch.allclose(p, model.weights.choice, atol=1e-6)
    reference = prepared(overlap=2, weights="consistent", objective="sampled", std=0.0)
    x = ring(200)
    stage = model.stages()[-1]
    optimizer = torch.optim.Adam(model.weights.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        noise = torch.randn(200, 1, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        stage.loss(x, noise, 0.0).mean().backward()
        optimizer.step()
    learned = model.weights.log_prob().exp()
    assert torch.allclose(learned, reference.weights.log_prob().exp(), atol=0.02)


# -- stages and packing -------------------------------------------------------------------------


def test_stages_are_partition_charts_and_maximum_likelihood():
    model = VQFlow(3)
    partition, charts, likelihood = model.stages()
    assert charts.name == "charts" and charts.loss is None
    names = [name for group in partition.groups for name in group.names]
    assert names and all(name.split(".")[0] == "partitioner" for name in names)
    assert likelihood.groups[0].names == ("flow",)
    assert (likelihood.epochs, likelihood.batch_size, likelihood.patience) == (100, 128, 10)
    assert likelihood.groups[0].lr == 1e-4
    framed = VQFlow(3, **FRAMED).stages()[-1]
    assert framed.groups[0].names == ("flow", "weights")
    assert (framed.epochs, framed.schedule, framed.averaging) == (90, "cosine", 0.995)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "hard"},
        {"objective": "sampled", "overlap": 2, "weights": "consistent", "margin": 0.2},
        {"objective": "exact", "overlap": 2, "weights": "learned", "frames": "pca"},
        {"objective": "exact", "margin": 0.3, "max_active": 3, "prior": "uniform-ball"},
        {"objective": "sampled", "overlap": 2, "leak_penalty": 0.5, "condition": "one-hot"},
    ],
)
def test_packed_training_equals_training_alone(options):
    training = {"epochs": 2, "batch_size": 64, "lr": 1e-3}
    data = [TrainingData(ring(160, seed), ring(60, 9)) for seed in range(3)]

    def models():
        made = []
        for seed in range(3):
            torch.manual_seed(seed)
            flow = {**MAF, "normalization": "batch"}
            made.append(
                VQFlow(2, base_flow=flow, partitioner=KMEANS, training=training, **options).double()
            )
        return made

    packed, alone = models(), models()
    results = train_pack(packed, data, [0, 1, 2], packed=True)
    assert [result.status for result in results] == ["ok"] * 3
    for model, rows, seed in zip(alone, data, range(3), strict=True):
        fit(model, rows.train, rows.valid, seed=seed)
    for a, b in zip(packed, alone, strict=True):
        scores = [model.log_prob(ring(40, 20), evaluation="full") for model in (a, b)]
        assert torch.allclose(*scores, atol=1e-6)


def test_the_auto_encoder_is_frozen_while_the_flow_trains():
    torch.manual_seed(0)
    partitioner = {"name": "vq-autoencoder", "num_charts": 4, "hidden": [16]}
    partitioner["training"] = {"epochs": 2}
    training = {"epochs": 1, "lr": 1e-3}
    model = VQFlow(2, base_flow=MAF, partitioner=partitioner, training=training).double()
    x = ring(200)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for stage in model.stages()[:2]:
        if stage.prepare is not None:
            stage.prepare(x, x, torch.Generator().manual_seed(0))
    model.train()
    model.stages()[1].prepare(x, x, torch.Generator())
    assert model.partitioner.training  # put back
    result = fit(model, x, ring(100, 1))
    assert result.status == "ok"
    moved = {name for name, value in model.state_dict().items() if not value.equal(start[name])}
    assert any(name.startswith("partitioner.") for name in moved)
    assert any(name.startswith("flow.") for name in moved)
    weights = model.weights.choice.clone()
    model.stages()[1].prepare(x, x, torch.Generator())
    assert model.weights.choice.equal(weights)  # the charts did not move after they were counted


def test_framed_flow_learns_a_ring():
    options = {**FRAMED, "base_flow": {**FRAMED["base_flow"], "layers": 3, "hidden": [16]}}
    options["partitioner"] = {"name": "kmeans", "num_charts": 8}
    options["training"] = {**FRAMED["training"], "epochs": 30}
    model = VQFlow(2, **options)
    x = ring(2000).float()
    result = fit(model, x, ring(500, 1).float())
    assert result.status == "ok"
    test = ring(2000, 2).float()
    with torch.no_grad():
        score = float(model.log_prob(test).mean())
    oracle = -math.log(2 * math.pi) - math.log(0.05 * math.sqrt(2 * math.pi)) - 0.5
    assert oracle - 0.2 < score < oracle + 0.1
    radius = model.sample(1000, generator=torch.Generator().manual_seed(0)).norm(dim=1)
    assert float(radius.mean()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(12, 2),
        torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]).repeat(5, 1),
        torch.randn(6, 2, generator=torch.Generator().manual_seed(0)),
    ],
    ids=["duplicates", "constant column", "one row a chart"],
)
@pytest.mark.parametrize("frames", ["none", "pca"])
def test_degenerate_data_trains_to_finite_scores(x, frames):
    options = {**FRAMED, "frames": frames, "partitioner": KMEANS, "base_flow": MAF}
    model = VQFlow(2, **{**options, "training": {"epochs": 2}})
    assert fit(model, x, x).status == "ok"
    for evaluation in model.evaluations:
        assert torch.isfinite(model.log_prob(x, evaluation=evaluation)).all()


# -- registration -------------------------------------------------------------------------------


def test_registry_builds_the_plugin_and_refuses_a_misspelt_option():
    model = flowzoo.build("mixture", "vq", features=3, partitioner=KMEANS, overlap=2)
    assert isinstance(model, VQFlow)
    assert isinstance(model.partitioner, Partitioner)
    with pytest.raises(ValueError, match=r"overlop.*did you mean 'overlap'"):
        flowzoo.build("mixture", "vq", features=3, overlop=2)


def test_importing_the_spec_imports_no_torch():
    code = (
        "import sys; import flowzoo_plugins.vq_flows.plugin; "
        "from flowzoo_plugins.vq_flows import FRAMED; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
