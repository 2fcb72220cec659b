"""What a stage monitors and what it says of it: the right numbers, packed, alone and resumed."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from flowzoo.interfaces import Stage
from flowzoo.training import FitResult, TrainingData, TrainingOptions, TrainingWarning, train_pack
from flowzoo.training.randomness import generator_for
from known_models import Shifted, rows

BATCH = 32


class Watched(Shifted):
    """Monitors a quantity of a row, one of its noise and one of the whole batch."""

    def __init__(self, **options: object) -> None:
        super().__init__(**{"batch_size": BATCH, **options})
        self.register_buffer("limit", torch.tensor(0.0))

    def prepare(self, x: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        self.limit.copy_(x[0, 0])

    def monitor(self, x: Tensor, noise: Tensor) -> Mapping[str, Tensor]:
        assert not self.norm.training
        spread = x.var(0).sum().expand(len(x))
        return {"net": self.net(self.norm(x)).sum(1), "noise": noise[:, 0], "spread": spread}

    def watch(self, means: Mapping[str, float]) -> str | None:
        assert means.keys() == {"train", "valid", "net", "noise", "spread"}
        if float(self.limit) > 0.0 and means["net"] != 0.0:
            return f"net is {means['net']:.5f}, not 0"
        return None

    def stages(self) -> tuple[Stage, ...]:
        extra = {"monitor": self.monitor, "watch": self.watch, "prepare": self.prepare}
        groups = ("net", "norm")
        options = TrainingOptions.of(self.options)
        return (options.stage("fit", self.loss, groups=groups, noise_features=2, **extra),)


def member(seed: int, kind: type[Watched] = Watched, **options: object) -> tuple:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(**options).double()
    return model, TrainingData(rows(seed), rows(seed + 100, 50)), seed


def train(*members: tuple, **more: object) -> list[FitResult]:
    models, data, seeds = zip(*members, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        return train_pack(models, data, seeds, **more)


@pytest.mark.parametrize("averaging", [None, 0.8])
def test_monitored_are_the_means_of_what_is_validated(averaging: float | None) -> None:
    model, data, seed = member(1, epochs=1, averaging=averaging)
    (point,) = train((model, data, seed))[0].stages[0].curve  # its only epoch is the best
    x = data.valid
    noise = torch.randn(50, 2, dtype=x.dtype, generator=generator_for(seed, 0, "validate"))
    with torch.no_grad():
        expected = {
            "net": model.net(model.norm(x)).sum(1).mean(),
            "noise": noise[:, 0].mean(),
            # of batches as large as in training: 50 rows are two of 25, not one of 50
            "spread": torch.stack([half.var(0).sum() for half in x.split(25)]).mean(),
        }
    assert point.monitored == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-12)


def test_packed_equals_alone_in_curves_and_warnings() -> None:
    seeds = range(2, 6)  # two of which find something to say
    together = train(*(member(s) for s in seeds))
    for i, s in enumerate(seeds):
        (alone,) = train(member(s))
        ours, theirs = alone.stages[0], together[i].stages[0]
        assert ours.warnings == theirs.warnings
        assert len(ours.warnings) == (rows(s)[0, 0] > 0)  # asks its own model, once
        for a, b in zip(ours.curve, theirs.curve, strict=True):
            assert a.monitored == pytest.approx(b.monitored, rel=1e-8)
    assert {len(result.stages[0].warnings) for result in together} == {0, 1}


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("count", [1, 3])
def test_resume_gives_the_same_curve_and_says_nothing_twice(tmp_path, count: int) -> None:
    whole = train(*(member(s) for s in range(count)))

    def stop(event: object) -> None:
        if event.step >= 6:
            raise Interrupted

    path = tmp_path / "checkpoint.safetensors"
    parts = {"checkpoint": path, "checkpoint_seconds": 0}
    with pytest.raises(Interrupted):
        train(*(member(s) for s in range(count)), progress=stop, **parts)
    resumed = train(*(member(s) for s in range(count)), **parts)
    for a, b in zip(whole, resumed, strict=True):
        assert [p.monitored for p in a.stages[0].curve] == [p.monitored for p in b.stages[0].curve]
        assert a.stages[0].warnings == b.stages[0].warnings


def test_a_warning_names_stage_epoch_and_member_once() -> None:
    warned = next(s for s in range(9) if rows(s)[0, 0] > 0)
    silent = next(s for s in range(9) if rows(s)[0, 0] <= 0)
    models, data, seeds = zip(member(silent), member(warned), strict=True)
    with pytest.warns(TrainingWarning) as caught:
        results = train_pack(models, data, seeds)
    (text,) = [str(w.message) for w in caught]
    assert text.startswith("member 1, stage 'fit', epoch 1: net is ")
    assert [len(r.stages[0].warnings) for r in results] == [0, 1]
    assert text.endswith(results[1].stages[0].warnings[0])


def test_messages_of_other_words_are_kept_beside_each_other() -> None:
    class Twofold(Watched):
        def watch(self, means: Mapping[str, float]) -> str | None:
            return f"{'low' if means['valid'] < means['train'] else 'high'}: {means['valid']:.3e}"

    (result,) = train(member(0, Twofold, epochs=12, lr=0.3))
    points = result.stages[0].curve
    kinds = ["low" if p.valid < p.train else "high" for p in points]
    first = {kind: f"{kind}: {points[kinds.index(kind)].valid:.3e}" for kind in kinds}
    assert result.stages[0].warnings == list(first.values())
    assert len(first) == 2


def test_results_of_before_are_read_and_infinities_survive_a_checkpoint() -> None:
    class Infinite(Watched):
        def monitor(self, x: Tensor, noise: Tensor) -> Mapping[str, Tensor]:
            return {**super().monitor(x, noise), "noise": x[:, 0] * math.inf}

    (result,) = train(member(0, Infinite))
    plain = json.loads(json.dumps(result.to_json()))
    again = FitResult.from_json(plain)
    assert again.to_json().keys() == plain.keys()
    found = again.stages[0].curve[0].monitored
    assert not math.isfinite(found["noise"]) and math.isfinite(found["net"])
    for stage in plain["stages"]:
        del stage["warnings"]
        for point in stage["curve"]:
            del point["monitored"]
    old = FitResult.from_json(plain).stages[0]
    assert old.warnings == [] and old.curve[0].monitored == {}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (lambda x: {"valid": x[:, 0]}, ValueError, r"other names from monitor than \['valid'\]"),
        (lambda x: {"a": x.mean()}, ValueError, r"a monitored 'a' of shape \(25,\)"),
        (lambda x: {"a": 1.0}, TypeError, "expected monitor to map names to tensors"),
        (lambda x: x[:, 0], TypeError, "expected monitor to map names to tensors"),
    ],
)
def test_wrong_quantities_are_refused(count: int, values, error, message: str) -> None:
    class Wrong(Watched):
        def monitor(self, x: Tensor, noise: Tensor) -> Mapping[str, Tensor]:
            return values(x)

    with pytest.raises(error, match=message):
        train(*(member(s, Wrong) for s in range(count)))
