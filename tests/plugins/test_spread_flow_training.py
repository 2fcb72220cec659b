"""How spread flows start and train."""

import copy
import math
import warnings

import pytest
import torch

from flowzoo.training import TrainingData, TrainingWarning, fit, train_pack
from flowzoo_plugins.spread_flows.annealing import Annealing
from flowzoo_plugins.spread_flows.collapse import dimension_messages, disagreements
from flowzoo_plugins.spread_flows.dimension import some_of_each
from flowzoo_plugins.spread_flows.entropy import mixture_log_prob
from flowzoo_plugins.spread_flows.flow import SpreadFlow
from flowzoo_plugins.spread_flows.presets import PRESETS, TRAINING
from spread_models import (
    CURVED,
    F64,
    GIN,
    NICE,
    Diagonal,
    Shell,
    generator,
    line_and_plane,
    model_of,
    objective,
    rows,
    sine,
    started,
)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_weight_decay_and_learning_rate_of_the_prior():
    """One AdamW step: p (1 - lr decay) less a step of lr, whatever the gradient's size."""
    x = rows(64)
    found = {}
    for on_prior, prior_lr in ((False, None), (True, None), (True, 0.05)):
        torch.manual_seed(0)
        training = {"steps": 1, "lr": 0.01, "weight_decay": 2.0, "decoupled_decay": True}
        model = model_of(
            start="identity", decay_on_prior=on_prior, prior_lr=prior_lr, training=training
        )
        groups = objective(model).groups
        lr = prior_lr or 0.01
        assert [(g.lr, g.weight_decay) for g in groups] == [(0.01, 2.0), (lr, 2.0 * on_prior)]
        fit(model, x, x, seed=0)
        found[on_prior, prior_lr] = {n: p.detach() for n, p in model.named_parameters()}
    plain, decayed, faster = found.values()
    torch.testing.assert_close(
        plain["prior.weight"] - decayed["prior.weight"], 0.02 * torch.eye(2, dtype=F64)
    )
    step = torch.eye(2, dtype=F64) - plain["prior.weight"]
    torch.testing.assert_close(
        step.abs().tril(), 0.01 * torch.ones(2, 2).tril().double(), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(faster["prior.weight"], torch.eye(2, dtype=F64) * 0.9 - 5 * step)
    for name in plain:
        if name.startswith("base_flow"):
            torch.testing.assert_close(plain[name], faster[name], rtol=0, atol=0)


@pytest.mark.parametrize("rank", [None, 2])
def test_principal_start_takes_the_second_moments_of_the_codes(rank):
    x = rows(500, 4) * torch.tensor([2.0, 1.0, 0.3, 0.0]) + 0.5
    found = {}
    for start in ("principal", "identity"):
        still = {"rank": rank, "prior_lr": 1e-12, "training": {"steps": 1, "lr": 0.0}}
        model = model_of(NICE, 4, start=start, **still)
        fit(model, x, x, seed=0)
        found[start] = model.prior.eigenvalues().detach(), model.codes(x).detach()
    columns = rank or 4
    assert found["identity"][0].tolist() == pytest.approx([1.0] * columns + [0.0] * (4 - columns))
    values, codes = found["principal"]
    expected = torch.linalg.eigvalsh(codes.mT.cov(correction=0)).flip(0)[:columns]
    torch.testing.assert_close(values[:columns], expected, atol=5e-4, rtol=0)


@pytest.mark.parametrize("spread", ["latent", "data"])
def test_the_start_is_that_of_rows_under_their_noise(spread):
    """Moments of codes under the first noise of all, about their mean, less the prior's own."""
    first, last = 0.5, 0.1
    scale = torch.tensor([2.0, 0.5], dtype=F64)
    options = {"data_noise": {"start": first, "end": last}, "spread": spread, "noise": last}
    model = started(model_of(Diagonal(*scale.log().tolist()), **options), rows(20_000) + 7.0)
    spread_on_data = scale.square() * (1.0 + first**2)
    if spread == "data":  # both add up; the noise on the codes is none of the data's
        spread_on_data = spread_on_data + scale.square() * last**2 - last**2
    torch.testing.assert_close(
        model.prior.eigenvalues().detach(), spread_on_data, rtol=0.03, atol=0
    )
    torch.testing.assert_close(model.prior.mean.detach(), 7.0 * scale, rtol=0.01, atol=0)


@pytest.mark.parametrize("spread", ["latent", "data"])
def test_an_offset_of_the_data_is_no_dimension(spread):
    """A line far from the origin, no frame: the mean is learned."""
    x = rows(400, 1) @ torch.tensor([[1.0, 0.0]], dtype=F64) + torch.tensor([0.0, 50.0])
    training = {"steps": 20, "batch_size": 100, "lr": 1e-3}
    model = model_of(NICE, spread=spread, entropy="drop", noise=0.05, training=training)
    before = model.prior.mean.detach().clone()
    fit(model, x, x, seed=0)
    assert model.prior.mean.requires_grad and not torch.equal(model.prior.mean, before)
    torch.testing.assert_close(model.prior.mean, model.codes(x).mean(dim=0), atol=0.2, rtol=0)
    assert int(model.intrinsic_dimension()) == 1
    assert not model_of(NICE, start="identity").prior.mean.requires_grad


def test_rows_in_order_start_as_rows_shuffled(monkeypatch):
    """A line and then a plane: the first rows alone are all line."""
    from flowzoo_plugins.spread_flows import flow

    monkeypatch.setattr(flow, "_ROWS", 300)
    x, piece = line_and_plane(500)
    for spread in ("latent", "data"):
        model = started(model_of(NICE, 3, noise=0.05, components=2, spread=spread), x)
        found = (model.prior.eigenvalues() > 0.1).sum(dim=1)
        assert sorted(found.tolist()) == [1, 2]
        assert (found[model.assign(x)] == piece + 1).double().mean() > 0.95
    assert {float(row[0]) > 3.0 for row in model.centres} == {True, False}


@pytest.mark.parametrize("noise", [0.2, {"start": 0.25, "end": 0.05}])
@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("spread", ["latent", "data"])
def test_the_start_counts_the_noise_once(spread, components, noise):
    """A A' is the covariance of the rows without noise, wherever the noise goes."""
    deviations = torch.tensor([0.3, 0.2, 0.1], dtype=F64)
    x = rows(20_000, 3) * deviations
    x[::2] += 5.0 * (components - 1)
    options = {"spread": spread, "noise": noise, "components": components}
    model = started(model_of(Diagonal(0.0, 0.0, 0.0), 3, **options), x)
    values = model.prior.eigenvalues().detach().reshape(components, 3)
    expected = deviations.square().expand(components, 3)
    torch.testing.assert_close(values, expected, rtol=0.05, atol=1e-3)


def test_training_under_noise_is_validated_under_it():
    """A segment, held-out rows among the others: one objective, one value, half a nat less without.

    It decides which state is kept, and early ones fit rows without noise better.
    """
    x = torch.stack([torch.linspace(-1.0, 1.0, 600), torch.zeros(600)], dim=1).double()
    x = x[torch.randperm(600, generator=generator())]
    training = {"epochs": 25, "batch_size": 100, "lr": 3e-2, "patience": 4}
    options = {"start": "identity", "noise": 0.02, "data_noise": 0.05, "training": training}
    model = model_of(CURVED, entropy="drop", **options)
    result = fit(model, x[:500], x[500:], seed=0)
    stage = next(stage for stage in result.stages if stage.curve)
    assert stage.best_epoch > 11
    assert stage.best_valid == pytest.approx(stage.curve[-1].train, abs=0.15)
    assert stage.curve[-1].monitored["surrogate"] == pytest.approx(stage.curve[-1].valid, abs=1e-6)
    assert int(model.intrinsic_dimension()) == 1


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_models_train_as_the_paper_does(name):
    """The model's own schedule, a cosine, is not merged in."""
    features = {"toy": 2, "s-curve": 3, "mnist": 784}.get(name, 1024)
    with torch.device("meta"):
        model = SpreadFlow(features, base_flow=PRESETS[name], training=TRAINING[name])
    stage, given = objective(model), TRAINING[name]
    assert (stage.steps, stage.batch_size) == (given["steps"], given["batch_size"])
    assert stage.schedule == ("constant" if name in {"toy", "fading-square-code"} else "step")
    assert stage.decay_every == given.get("decay_every")
    assert stage.patience in (None, 0)


def test_annealing():
    assert Annealing(0.5, 0.1, 0.0, 0.0).at(0.0) == Annealing(0.5, 0.1, 1.0, 1.0).at(1.0) == 0.1
    falling = Annealing.of({"start": 0.16, "end": 0.01, "hold": 0.2, "until": 0.8})
    levels = [falling.at(share) for share in (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)]
    assert levels == pytest.approx([0.16, 0.16, 0.08, 0.04, 0.02, 0.01, 0.01])
    assert Annealing.of(0.3).at(0.5) == 0.3 and Annealing.of({"start": 0.2}).at(1.0) == 0.2
    assert Annealing.of(0.0).at(0.5) == 0.0 and Annealing.of(falling) is falling
    for wrong, said in (
        (-1.0, "noise: expected"),
        ({"end": 0.1}, "noise: .*start"),
        ({"start": 0.1, "stop": 0.2}, "stop"),
        ({"start": 0.1, "end": 0.0}, "both zero or none"),
        ({"start": 0.1, "hold": 0.9, "until": 0.5}, "hold <= until"),
    ):
        with pytest.raises(ValueError, match=said):
            Annealing.of(wrong)


@pytest.mark.parametrize(("spread", "components"), [("latent", 1), ("latent", 2), ("data", 1)])
def test_the_loss_follows_both_noises(spread, components):
    falling = {"start": 0.4, "end": 0.1}
    model = model_of(
        GIN,
        3,
        moved=0.2,
        noise=falling,
        data_noise={"start": 0.2, "end": 0.05},
        components=components,
        spread=spread,
    )
    stage = objective(model)
    assert stage.noise_features == (3 if spread == "data" else 6)
    x, noise = rows(9, 3), rows(9, stage.noise_features, seed=1)
    for progress, std, around in ((0.0, 0.4, 0.2), (0.5, 0.2, 0.1), (1.0, 0.1, 0.05)):
        at, level = copy.deepcopy(model), torch.tensor(std, dtype=F64)
        for prior in at.atlas().parts:
            prior.noise_std.fill_(std)
        if spread == "data":  # plain maximum likelihood, both noises in one draw
            expected = -at.log_prob(x + math.hypot(std, around) * noise)
        else:
            z = at.codes(x + around * noise[:, 3:])
            expected = mixture_log_prob(z, level) - at.prior.log_prob(z + std * noise[:, :3])
        found = stage.loss(x, noise, progress)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # what is validated has both last noises, and does not depend on the batch
    if spread == "data":
        cross = -model.log_prob(x + math.hypot(0.1, 0.05) * noise)
    else:
        codes = model.codes(x + 0.05 * noise[:, 3:])
        cross = -model.prior.log_prob(codes + 0.1 * noise[:, :3])
    whole = stage.validate(x, noise)
    torch.testing.assert_close(whole[:4], stage.validate(x[:4], noise[:4]))
    torch.testing.assert_close(whole - whole[0], cross - cross[0], rtol=1e-5, atol=1e-5)


def test_packed_training_equals_training_alone():
    options = {
        "frame": "rotation",
        "noise": {"start": 0.3, "end": 0.05, "until": 0.8},
        "data_noise": 0.02,
        "entropy": "kde",
        "training": {"steps": 20, "lr": 1e-2, "batch_size": 100},
    }
    data = [TrainingData(sine(300, seed), sine(60, 9)) for seed in range(2)]
    packed = []
    for seed in range(2):
        torch.manual_seed(seed)
        packed.append(model_of(**options))
    alone = copy.deepcopy(packed)
    train_pack(packed, data, [1, 2], packed=True)
    for one, seed, own in zip(alone, (1, 2), data, strict=True):
        train_pack([one], [own], [seed])
    x = rows(20)
    for one, other in zip(packed, alone, strict=True):
        scores = [flow.eval().log_prob(x).detach() for flow in (one, other)]
        torch.testing.assert_close(*scores, atol=1e-7, rtol=1e-9)
        assert torch.equal(one.kept, other.kept)


@pytest.mark.parametrize(
    "options",
    [{}, {"spread": "data"}, {"spread": "data", "components": 2}, {"frame": "pca"}],
)
def test_the_unit_of_the_data_changes_nothing(options):
    """Powers of two, so that rounding is the same; densities are those of other units."""
    training = {"steps": 60, "batch_size": 100, "lr": 1e-2}
    x = sine(600)
    found = []
    for unit in (1.0, 2.0**-12, 2.0**10):
        torch.manual_seed(0)
        noises = {"noise": 0.03 * unit, "data_noise": 0.01 * unit}
        if "frame" in options:  # pca: the noise is that of whitened data
            noises = {"noise": 0.03}
        model = SpreadFlow(2, base_flow=CURVED, training=training, **noises, **options).double()
        result = fit(model, unit * x[:500], unit * x[500:], seed=0)
        monitored = next(stage for stage in result.stages if stage.curve).curve[-1].monitored
        shift = 2.0 * math.log(unit)
        found.append(
            {
                "dimension": model.intrinsic_dimension().double(),
                "spectrum": model.spectrum(),
                "local": model.local_dimension(unit * x[:9]),
                "density": model.log_prob(unit * x[:9]) + shift,
                "draws": model.sample(9, generator=generator()) / unit,
                "points": model.reconstruct(unit * x[:9], 1) / unit,
                "monitored": torch.tensor(list(monitored.values()), dtype=F64) - shift,
            }
        )
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-4, msg=name)


def test_training_tells_a_dimension_that_tells_nothing():
    training = {"steps": 4, "batch_size": 50}
    few, small, plenty = rows(5, 8), 1e-4 * rows(200, 8), rows(200, 8)
    pieces = torch.cat([few, plenty + 50.0])
    for x, options, said in (
        (few, {}, "dimension: 4 axes of 5 rows"),
        (pieces, {"components": 2}, "dimension: 4 axes of 5 rows"),
        (small, {}, "collapse: no axis"),
        (plenty, {"rank": 2}, "dimension: all 2 columns of A stand out of the noise: it is at"),
    ):
        model = model_of(NICE, 8, training=training, spread="data", **options)
        with pytest.warns(TrainingWarning, match=f"stage 'dimension': {said}"):
            result = fit(model, x, x, seed=0)
        assert any(message.startswith(said) for message in result.stages[-1].warnings)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        fit(model_of(NICE, 8, training=training, rank=8), plenty, plenty, seed=0)


def test_a_pack_tells_whose_dimension_tells_nothing():
    training = {"steps": 4, "batch_size": 50}
    models = [model_of(NICE, 3, training=training, spread="data") for _ in range(3)]
    scales = (1.0, 1e-4, 1e-4)
    data = [TrainingData(scale * rows(200, 3), scale * rows(50, 3)) for scale in scales]
    with pytest.warns(TrainingWarning) as caught:
        results = train_pack(models, data, [0, 1, 2])
    assert [len(result.stages[-1].warnings) for result in results] == [0, 1, 1]
    told = [str(one.message) for one in caught if "stage 'dimension'" in str(one.message)]
    assert [text.split(",")[0] for text in told] == ["member 1", "member 2"]


def test_one_collapsed_part_is_told():
    assert len(dimension_messages([2, 0], [500, 500], None)) == 1
    assert dimension_messages([2, 1], [500, 500], None) == []


def test_axes_that_are_not_the_dimension_are_told():
    """Of a sphere in R^4, whose codes fill the space; and not of a plane."""
    flat = torch.tensor([1.0, 1.0, 1.0, 1e-4], dtype=F64)
    x = torch.nn.functional.normalize(rows(300, 4), dim=1)
    for flow, x_train, said in (
        (Shell(4, 1e-3), x, ["dimension: 3 around rows", "4 axes"]),
        (NICE, x * flat, []),
    ):
        model = model_of(flow, 4)
        start, _, count = model.stages()
        start.prepare(x_train, x_train, generator())
        messages = count.prepare(x_train, x_train, generator())
        assert len(messages) == bool(said)
        assert all(part in message for message in messages for part in said)


def test_each_part_is_held_against_its_own_rows():
    assert disagreements([2, 1], [2, 1], [9, 9], None) == []
    assert [text[:24] for text in disagreements([3, 1, 2], [2, 1, 3], [9, 9, 9], None)] == [
        "dimension: 2 around rows",
        "dimension: 3 around rows",
    ]
    assert disagreements([0], [1], [9], None) == []  # told as a collapse
    assert disagreements([2], [3], [9], 2) == []  # as the rank that A is held to
    (said,) = disagreements([2, 1], [2, 1], [9, 0], None)
    assert said.startswith("dimension: part 1 has none of the 9 rows")


def test_a_look_takes_rows_of_every_part_and_fewer_in_many_columns():
    chart = torch.tensor([0] * 250 + [1] * 6)
    for features, most in ((2, 64), (512, 64), (1024, 8), (4096, 2)):
        looked = chart[some_of_each(chart, 2, features)]
        assert torch.bincount(looked).tolist() == [most, min(most, 6)]
    assert len(some_of_each(chart * 0, 1, 8)) == 128
    assert some_of_each(chart, 300, 8).tolist() == [0, 250]


def test_a_small_part_is_looked_at_in_many_columns(monkeypatch):
    """Where as few rows are looked at as in 4096, and the part has none of the first.

    f stretches the noise along one axis to signal, which the part's own A does not have.
    """
    monkeypatch.setattr("flowzoo_plugins.spread_flows.dimension._OPERATIONS", 0)
    model = model_of(Diagonal(0.0, 0.0, -5.0), 3, components=2)
    with torch.no_grad():
        model.prior.part(1).mean.copy_(torch.tensor([50.0, 0.0, 0.0]))
        model.prior.part(1).weight.copy_(torch.diag(torch.tensor([1.0, 0.0, 0.0])))
        z = rows(256, 3)
        z[250:] = torch.tensor([50.0, 0.0, 0.0])
        model.centres.copy_(model._decode_rows(z))
    assert model.spectrum_rank().dimension.tolist() == [3, 1]
    assert model.dimension_rank().dimension.tolist() == [1, 2]


def test_a_broken_inverse_is_told_and_the_model_kept():
    class Broken(Diagonal):
        def _decode(self, z, context, chart):
            step = super()._decode(z, context, chart)
            return step._replace(value=step.value * (z.detach() / z.detach().clamp(max=0.0)))

    x = rows(200)
    model = model_of(Broken(0.0, 0.0), training={"steps": 2, "batch_size": 50})
    with pytest.warns(TrainingWarning, match="expected finite Jacobians"):
        fit(model, x, x, seed=0)
    assert bool(model.log_prob(x).isfinite().all())


def test_what_is_watched_and_validated_has_the_last_noise():
    """Of noise that falls tenfold; the codes are the rows themselves."""
    falling = {"start": 0.5, "end": 0.05}
    x, noise = rows(300), rows(300, seed=1)
    for spread, entropy in (("latent", "kde"), ("data", "drop")):
        options = {"spread": spread, "entropy": entropy}
        falls, last = (
            objective(started(model_of(Diagonal(0.0, 0.0), noise=level, **options), x))
            for level in (falling, 0.05)
        )
        for name, value in last.monitor(x, noise).items():
            if name != "surrogate":  # whose A starts under the first noise on the data
                torch.testing.assert_close(falls.monitor(x, noise)[name], value)
        if spread == "latent":
            torch.testing.assert_close(falls.validate(x, noise), last.validate(x, noise))


def test_parts_start_by_the_generator():
    """EM's start is drawn, as nothing else of it is."""
    x = rows(500)  # one piece, which any halves
    model = model_of(NICE, components=2)
    found = []
    for seed in (0, 0, 1, 2):
        model.prior.start(x, generator(seed))
        found.append(model.prior.part(0).mean.detach().clone())
    assert torch.equal(found[0], found[1])
    assert not all(torch.allclose(found[0], other, atol=1e-3) for other in found[2:])
