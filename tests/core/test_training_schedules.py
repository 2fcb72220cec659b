"""Learning rates over a stage, and groups of parameters with rates of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from flowzoo.interfaces import ParameterGroup, Stage
from flowzoo.training import TrainingData, TrainingOptions, fit, train_pack
from flowzoo.training.identity import settings_of
from flowzoo.training.schedules import rate_factor
from known_models import Shifted, rows

STEP = {"steps": 40, "schedule": "step", "decay": 0.7, "decay_every": 4}


def loss(x: Tensor, noise: Tensor, progress: float) -> Tensor:
    return x.sum(1)


def factors(**options: object) -> list[float]:
    stage = TrainingOptions.of({"steps": 40, **options}).stage("s", loss)
    return [rate_factor(stage, step, 40) for step in range(40)]


def torchs(make) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer)
    found = []
    for _ in range(40):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_step_is_torchs() -> None:
    kinds = torch.optim.lr_scheduler
    assert factors(**STEP) == pytest.approx(torchs(lambda o: kinds.StepLR(o, 4, 0.7)), rel=1e-12)


def test_a_late_step_is_torchs_after_a_constant() -> None:
    kinds = torch.optim.lr_scheduler

    def late(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        parts = [kinds.ConstantLR(optimizer, 1.0), kinds.StepLR(optimizer, 4, 0.7)]
        return kinds.SequentialLR(optimizer, parts, milestones=[10])

    assert factors(**STEP, decay_after=10) == pytest.approx(torchs(late), rel=1e-12)


def test_cosine_is_torchs() -> None:
    expected = torchs(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40))
    assert factors(schedule="cosine") == pytest.approx(expected, rel=1e-9)
    assert factors() == [1.0] * 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "step"}, "expected decay_every with schedule 'step'"),
        ({"decay_every": 5}, "expected decay_every with schedule 'step'"),
        ({**STEP, "decay_every": -1}, "decay_every >= 1"),
        ({**STEP, "decay": 0.0}, r"decay in \(0, 1\]"),
        ({**STEP, "decay": 1.5}, r"decay in \(0, 1\]"),
        ({**STEP, "decay_after": -1}, "decay_after >= 0"),
    ],
)
def test_bad_schedules_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingOptions.of(options)


class Grouped(Shifted):
    """The net's two layers, each with a group."""

    groups: tuple[ParameterGroup, ...] = ()

    def stages(self) -> tuple[Stage, ...]:
        return (TrainingOptions.of(self.options).stage("fit", self.loss, groups=self.groups),)

    def loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        return super().loss(x, torch.zeros_like(x), progress)


def grouped(groups: tuple[ParameterGroup, ...], seed: int = 0, **options: object) -> Grouped:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Grouped(batch_size=100, **options).double()
    model.groups = groups
    model.frozen.p = 0.0
    return model


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("members", [1, 2])
def test_groups_keep_their_own_rates_and_decays(members: int, decoupled: bool) -> None:
    first = ParameterGroup(("net.0",), 0.02, 0.5)
    rest = ParameterGroup(("net",), 0.003)  # names net.0 too: the first that does has it
    options = {"epochs": None, **STEP, "decay": 0.5, "steps": 12, "decoupled_decay": decoupled}
    models = [grouped((first, rest), seed, **options) for seed in range(members)]
    data = [TrainingData(rows(0), rows(1))] * members
    results = train_pack(models, data, [0] * members)
    assert all(r.stages[0].best_epoch == 12 for r in results)
    for seed, model in enumerate(models):
        other = grouped((first, rest), seed).eval()  # as modules outside the groups are
        layers = ((other.net[0], 0.02, 0.5), (other.net[2], 0.003, 0.0))
        kind = torch.optim.AdamW if decoupled else torch.optim.Adam
        adam = kind(
            {"params": layer.parameters(), "lr": lr, "weight_decay": decay}
            for layer, lr, decay in layers
        )
        schedule = torch.optim.lr_scheduler.StepLR(adam, 4, 0.5)
        x = rows(0)
        for _ in range(12):
            adam.zero_grad()
            other.loss(x, x, 0.0).mean().backward()
            adam.step()
            schedule.step()
        for name, value in other.net.state_dict().items():
            torch.testing.assert_close(model.net.state_dict()[name], value, rtol=1e-9, atol=1e-12)


def test_names_and_groups_are_not_mixed() -> None:
    options = TrainingOptions(lr=0.1, weight_decay=0.2)
    (group,) = options.stage("s", loss, groups=("a", "b")).groups
    assert group == ParameterGroup(("a", "b"), 0.1, 0.2)
    for wrong in (("a", ParameterGroup()), (1,)):
        with pytest.raises(TypeError, match="groups: expected names or ParameterGroups"):
            options.stage("s", loss, groups=wrong)


def test_a_checkpoint_tells_step_schedules_apart_and_knows_no_other_news(tmp_path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    fit(Shifted(**{**STEP, "epochs": None}), rows(0), rows(1), checkpoint=path)
    with pytest.raises(ValueError, match="another training"):
        fit(Shifted(**{**STEP, "epochs": None, "decay": 0.6}), rows(0), rows(1), checkpoint=path)
    model = Shifted()
    settings = settings_of(model, model.stages())["stage 0"]
    # checkpoints of before these fields must go on
    assert not any(word in settings for word in ("decay_", "monitor", "watch", '"decay"'))


def test_training_leaves_torchs_compiler_alone() -> None:
    """It takes as long to import as torch."""
    code = (
        "import sys, torch, flowzoo\n"
        "base = {'name': 'realnvp', 'layers': 2, 'hidden': [8]}\n"
        "model = flowzoo.build('mixture', 'global', features=2, base_flow=base,"
        " training={'epochs': 1})\n"
        "flowzoo.fit(model, torch.randn(30, 2))\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
