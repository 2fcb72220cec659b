"""Packed training: members are independent, equal themselves alone, and survive interruption."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from flowzoo.interfaces import ParameterGroup, Stage
from flowzoo.training import TrainingData, TrainingOptions, fit, train_pack
from known_models import Shifted, rows


def member(seed: int, **options) -> tuple[Shifted, TrainingData, int]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Shifted(**options).double()
    return model, TrainingData(rows(seed), rows(seed + 100, 50)), seed


def unzip(members):
    return tuple(map(list, zip(*members, strict=True)))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"averaging": 0.9, "schedule": "cosine"},
        {"clip_norm": 0.05, "weight_decay": 0.1},
        {"epochs": 12, "patience": 1, "lr": 0.3},
        {"epochs": None, "steps": 7, "decoupled_decay": True, "weight_decay": 0.1},
    ],
)
def test_packed_equals_alone(options):
    models, data, seeds = unzip([member(s, **options) for s in range(5)])
    together = train_pack(models, data, seeds)
    for s in range(5):
        model, own, seed = member(s, **options)
        (alone,) = train_pack([model], [own], [seed])
        assert [c.epoch for c in alone.stages[0].curve] == [
            c.epoch for c in together[s].stages[0].curve
        ]
        assert alone.stages[0].best_epoch == together[s].stages[0].best_epoch
        for name, tensor in state_of(model).items():
            torch.testing.assert_close(tensor, models[s].state_dict()[name], rtol=1e-8, atol=1e-9)


def test_early_stopping_keeps_the_best_state():
    model, data, seed = member(3, epochs=40, patience=2, lr=0.3)
    (result,) = train_pack([model], [data], [seed])
    stage = result.stages[0]
    best = min(stage.curve, key=lambda point: point.valid)
    assert stage.best_epoch == best.epoch < stage.epochs == stage.best_epoch + 2 < 40
    noise = torch.randn(50, 2, dtype=torch.float64, generator=_validation_generator(seed))
    assert float(model.loss(data.valid, noise, 0.0).mean().detach()) == pytest.approx(
        best.valid, rel=1e-9
    )


def _validation_generator(seed: int) -> torch.Generator:
    from flowzoo.training.randomness import generator_for

    return generator_for(seed, 0, "validate")


def test_one_diverging_member_harms_no_other():
    models, data, seeds = unzip([member(s, poison=s == 1) for s in range(3)])
    ended = []
    results = train_pack(
        models, data, seeds, on_member_end=lambda m, r: ended.append((m, r.status))
    )
    assert [r.status for r in results] == ["ok", "diverged", "ok"]
    assert "non-finite" in results[1].reason and "fit" in results[1].reason
    assert sorted(ended) == [(0, "ok"), (1, "diverged"), (2, "ok")]
    for s in (0, 2):
        alone, own, seed = member(s)
        train_pack([alone], [own], [seed])
        torch.testing.assert_close(state_of(alone), state_of(models[s]), rtol=1e-8, atol=1e-9)
    assert all(torch.isfinite(p).all() for p in models[1].parameters())  # last good state


def test_untrained_modules_are_in_eval_mode_and_static_infinities_stay():
    # dropout outside the groups would break determinism and the loss if it were in train mode
    model, data, seed = member(0, averaging=0.5)
    first = train_pack([model], [data], [seed])[0].stages[0].curve
    again, data, seed = member(0, averaging=0.5)
    second = train_pack([again], [data], [seed])[0].stages[0].curve
    assert [c.train for c in first] == [c.train for c in second]
    assert not torch.isnan(again.static).any() and again.static[0] == -math.inf


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("stop_at", [1, 5, 9, 13])
def test_resume_is_bit_equal(tmp_path, count, stop_at):
    options = {"epochs": 4, "patience": 1, "averaging": 0.8, "lr": 0.1}
    models, data, seeds = unzip([member(s, **options) for s in range(count)])
    whole = train_pack(models, data, seeds)
    seen = []

    def stop(event):
        seen.append(event)
        if len(seen) > 1 and event.step >= stop_at:
            raise Interrupted

    path = tmp_path / "checkpoint.safetensors"
    again, data, seeds = unzip([member(s, **options) for s in range(count)])
    try:
        train_pack(again, data, seeds, checkpoint=path, checkpoint_seconds=0, progress=stop)
    except Interrupted:
        pass
    fresh, data, seeds = unzip([member(s, **options) for s in range(count)])
    for model in fresh:  # prove that the state comes from the file
        for parameter in model.parameters():
            parameter.data.zero_()
    resumed = train_pack(fresh, data, seeds, checkpoint=path)
    for a, b in zip(models, fresh, strict=True):
        for name, tensor in a.state_dict().items():
            assert torch.equal(tensor, b.state_dict()[name]), name
    for a, b in zip(whole, resumed, strict=True):
        assert [(c.epoch, c.train, c.valid) for c in a.stages[0].curve] == [
            (c.epoch, c.train, c.valid) for c in b.stages[0].curve
        ]


def test_a_foreign_or_broken_checkpoint_is_refused(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    model, data, seed = member(0)
    train_pack([model], [data], [seed], checkpoint=path)
    with pytest.raises(ValueError, match="another training"):
        train_pack([model], [data], [seed + 1], checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot read"):
        train_pack([model], [data], [seed], checkpoint=path)


def test_a_checkpoint_of_other_options_is_refused(tmp_path):
    class Scaled(Shifted):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = scale

    path = tmp_path / "checkpoint.safetensors"
    fit(Scaled(1.0), rows(0), rows(1), checkpoint=path)
    with pytest.raises(ValueError, match="another training"):
        fit(Scaled(2.0), rows(0), rows(1), checkpoint=path)
    fit(Scaled(1.0), rows(0), rows(1), checkpoint=path)


@pytest.mark.parametrize("other", [{"lr": 0.1}, {"epochs": 2}])
def test_members_with_other_options_are_refused(other):
    models, data, seeds = unzip([member(0), member(1, **other)])
    with pytest.raises(ValueError, match="equal models and options"):
        train_pack(models, data, seeds)


def test_an_interrupted_model_is_not_left_half_frozen():
    model, data, seed = member(0)
    total = sum(p.numel() for p in model.parameters())
    model.extra = nn.Linear(2, 2).double()  # outside the groups

    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_pack([model], [data], [seed], progress=stop)
    assert all(p.requires_grad for p in model.parameters()) and not model.training
    assert train_pack([model], [data], [seed])[0].parameters == total + 6


@pytest.mark.parametrize("count", [1, 2])
def test_parameters_a_user_froze_stay_as_they_are(count):
    models, data, seeds = unzip([member(s) for s in range(count)])
    for model in models:
        model.net[0].weight.requires_grad_(False)
    before = [state_of(model) for model in models]
    train_pack(models, data, seeds)
    for start, model in zip(before, models, strict=True):
        assert torch.equal(start["net.0.weight"], model.net[0].weight)
        assert not torch.equal(start["net.2.weight"], model.net[2].weight)
        assert not model.net[0].weight.requires_grad


@pytest.mark.parametrize("count", [1, 2])
def test_patience_does_not_hide_a_validation_objective_that_is_never_finite(count):
    models, data, seeds = unzip([member(s, epochs=9, patience=2) for s in range(count)])
    data = [TrainingData(d.train, d.valid * 1e200) for d in data]  # squares overflow
    for result in train_pack(models, data, seeds):
        assert (result.status, result.stages[0].epochs) == ("diverged", 2)
        assert "never finite" in result.reason


@pytest.mark.parametrize(
    ("part", "message"),
    [("validate", "a validation objective of shape"), ("penalty", "a scalar penalty")],
)
@pytest.mark.parametrize("count", [1, 2])
def test_parts_of_the_wrong_shape_are_refused(part, message, count):
    class Wrong(Shifted):
        def validate(self, x: Tensor, noise: Tensor) -> Tensor:
            return self.loss(x, noise, 0.0).mean()

        def penalty(self) -> Tensor:
            return self.net[0].weight.square().sum(1)

        def stages(self) -> tuple[Stage, ...]:
            extra = {part: getattr(self, part), "noise_features": 2, "groups": ("net", "norm")}
            return (TrainingOptions.of({"epochs": 1}).stage("fit", self.loss, **extra),)

    models = [Wrong() for _ in range(count)]
    data = [TrainingData(rows(s), rows(s + 1)) for s in range(count)]
    with pytest.raises(ValueError, match=message):
        train_pack(models, data, list(range(count)))


class TwoStages(Shifted):
    """A closed-form stage, then a trained one that reads what the first wrote."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.register_buffer("centre", torch.zeros(2))

    def set_centre(self, x: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        self.centre.copy_(x.mean(0) + torch.randn(2, dtype=x.dtype, generator=generator))

    def nudge(self, x: Tensor, generator: torch.Generator) -> None:
        self.centre.add_(1.0)

    def centred(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        return self.loss(x - self.centre, noise, progress)

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("centre", prepare=self.set_centre),
            Stage(
                "fit",
                loss=self.centred,
                noise_features=2,
                groups=(ParameterGroup(("net",), 1e-2), ParameterGroup(("norm",), 1e-3)),
                epochs=2,
                after_epoch=self.nudge,
            ),
        )


def test_stages_run_in_order_and_after_epoch_reaches_every_member():
    def build(s):
        _, data, seed = member(s)
        with torch.random.fork_rng():
            torch.manual_seed(s)
            return TwoStages().double(), data, seed

    models, data, seeds = unzip([build(s) for s in range(3)])
    results = train_pack(models, data, seeds)
    assert [s.name for s in results[0].stages] == ["centre", "fit"]
    for s in range(3):
        model, own, seed = build(s)
        (result,) = train_pack([model], [own], [seed])
        torch.testing.assert_close(state_of(model), state_of(models[s]), rtol=1e-8, atol=1e-9)
        moved = own.train.mean(0) + result.stages[1].best_epoch
        assert (model.centre - moved).abs().max() < 5 and not torch.equal(model.centre, moved)


class Alone(Shifted):
    packable = False


def test_models_that_vmap_cannot_run_train_one_after_another():
    def build(s):
        _, data, seed = member(s)
        with torch.random.fork_rng():
            torch.manual_seed(s)
            return Alone().double(), data, seed

    models, data, seeds = unzip([build(s) for s in range(3)])
    ended = []
    results = train_pack(models, data, seeds, on_member_end=lambda m, r: ended.append(m))
    assert ended == [0, 1, 2] and all(r.members == 1 for r in results)
    with pytest.raises(TypeError, match="packable"):
        train_pack(models, data, seeds, packed=True)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((4, 2), math.nan), "finite"),
        (torch.tensor([[0.0, math.inf]]), "finite"),
        (torch.zeros(4, 3), "expected shape"),
        (torch.zeros(4, 2, dtype=torch.int64), "floating"),
        (torch.zeros(0, 2), "at least one row"),
        (torch.zeros(4), "expected shape"),
    ],
)
def test_bad_training_data_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        fit(Shifted(), x)


def test_one_row_and_uneven_batches_train():
    assert fit(Shifted(), torch.zeros(1, 2)).status == "ok"
    assert fit(Shifted(), rows(0, 33).float(), rows(1, 5).float()).status == "ok"


def test_fit_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    fit(member(0)[0], rows(0), rows(1))
    assert torch.equal(before, torch.get_rng_state())


def test_unknown_training_option_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'patience'"):
        TrainingOptions.of({"patiense": 3})


@pytest.mark.parametrize("name", ["x_train", "x_valid"])
def test_non_finite_rows_are_named_as_the_caller_counts_them(name):
    good, bad = rows(0, 30), rows(1, 30)
    bad[17, 1] = math.nan
    with pytest.raises(ValueError, match=rf"{name}: .*in 1 of 30 rows \(first: row 17\)"):
        fit(Shifted(), **{"x_train": good, "x_valid": good, name: bad})
    with pytest.raises(ValueError, match=r"x_train: .*first: row 17"):
        fit(Shifted(), bad)
    with pytest.raises(ValueError, match="x_valid: expected at least one row"):
        fit(Shifted(), good, good[:0])


def test_rows_that_overflow_the_models_dtype_are_refused():
    with pytest.raises(ValueError, match=r"as torch.float32: expected finite"):
        fit(Shifted(), rows(0) * 1e300)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"lr": math.nan},
        {"weight_decay": -1.0},
        {"clip_norm": -1.0},
        {"clip_norm": math.nan},
        {"averaging": 1.0},
        {"batch_size": 0},
        {"epochs": 0},
        {"epochs": 1, "steps": 1},
        {"patience": -1},
    ],
)
def test_bad_training_values_are_refused_before_anything_is_trained(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        TrainingOptions.of(options)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule"):
        TrainingOptions(schedule="cosin")
