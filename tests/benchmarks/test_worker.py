"""A pack from its folder to its records, in this process."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flowzoo import registry
from flowzoo.interfaces import Splits
from flowzoo_bench.experiment import parse_experiment
from flowzoo_bench.member import Member
from flowzoo_bench.planner import Planner
from flowzoo_bench.records import ARRAYS, WEIGHTS, Record, find_record, run_folder
from flowzoo_bench.runspec import PackSpec, Part, RunSpec
from flowzoo_bench.tasks.standardize import Standardizer
from flowzoo_bench.worker import PACK_FAILED, PackRun


def spec(replicate: int = 0, task: str = "blob", **options: Any) -> RunSpec:
    return RunSpec(
        task=Part(name=task),
        method=Part(name="shift", options=options),
        metrics=(Part(name="log-likelihood"), Part(name="mean-norm")),
        replicate=replicate,
        num_samples=20,
        task_label=task,
        method_label="shift",
    )


def run(out: Path, *specs: RunSpec) -> int:
    pack = PackSpec.of(specs)
    folder = out / "packs" / pack.pack_id
    folder.mkdir(parents=True, exist_ok=True)
    return PackRun(folder, pack).run()


def record(out: Path, run_spec: RunSpec) -> Record:
    found = find_record(out, run_spec.run_id)
    assert found is not None
    return found


def content(out: Path, run_spec: RunSpec) -> dict[str, Any]:
    data = record(out, run_spec).model_dump(
        exclude={"clocks", "memory", "ended", "started", "curves"}
    )
    return json.loads(json.dumps(data, default=str))


def test_the_same_pack_twice_gives_equal_records(faulty: Path, tmp_path: Path) -> None:
    specs = [spec(r) for r in range(3)]
    for name in ("a", "b"):
        assert run(tmp_path / name, *specs) == 0
    for item in specs:
        assert content(tmp_path / "a", item) == content(tmp_path / "b", item)
        one = (run_folder(tmp_path / "a", item.run_id) / ARRAYS).read_bytes()
        assert one == (run_folder(tmp_path / "b", item.run_id) / ARRAYS).read_bytes()


def test_packed_and_alone_agree_and_say_which(faulty: Path, tmp_path: Path) -> None:
    specs = [spec(r).model_copy(update={"precision": "float64"}) for r in range(3)]
    run(tmp_path / "packed", *specs)
    run(tmp_path / "alone", specs[1])
    packed, alone = record(tmp_path / "packed", specs[1]), record(tmp_path / "alone", specs[1])
    for one, two in zip(packed.metrics, alone.metrics, strict=True):
        assert one.value == pytest.approx(two.value, abs=1e-9)
    assert packed.clocks.amortised and packed.clocks.members == 3 and packed.memory.shared
    assert not alone.clocks.amortised and not alone.memory.shared


def test_what_a_record_holds(faulty: Path, tmp_path: Path) -> None:
    item = spec(epochs=4).model_copy(update={"keep": ("model",)})
    assert run(tmp_path, item) == 0
    found = record(tmp_path, item)
    assert found.status == "ok" and found.parameters == 2
    assert found.metrics[0].name == "test_log_likelihood"
    assert found.metrics[0].likelihood == "exact" and found.metrics[0].measure == "lebesgue"
    (curve,) = found.curves
    assert curve.epochs == 4 and len(curve.points) == 4
    assert found.data is not None and found.data.train == 64
    assert {"python", "torch", "flowzoo", "threads"} <= found.software.keys()
    assert found.clocks.train_s is not None and found.clocks.eval_s is not None
    arrays = load_file(run_folder(tmp_path, item.run_id) / ARRAYS)
    assert arrays["samples"].shape == arrays["data"].shape == (20, 2)
    assert set(load_file(run_folder(tmp_path, item.run_id) / WEIGHTS)) == {"mean"}


def test_scores_and_samples_are_in_original_units(faulty: Path) -> None:
    member = Member(spec(task="scaled").model_copy(update={"precision": "float64"}))
    scaling = Standardizer.fit(member.splits.train)
    assert member.train.mean(dim=0).abs().max() < 1e-9
    with torch.no_grad():
        member.model.mean.zero_()
    x = member.splits.test
    z = (x - scaling.shift) / scaling.scale
    expected = -0.5 * (z**2).sum(1) - math.log(2 * math.pi) - scaling.scale.log().sum()
    assert torch.allclose(member.log_prob(x, None), expected, atol=1e-9)
    samples = member.sample(4000, 1)
    assert samples.dtype == torch.float64
    assert abs(float(samples[:, 0].mean()) - 100) < 2 and 9 < float(samples[:, 0].std()) < 12
    assert torch.equal(samples, member.sample(4000, 1))


def test_members_meet_the_same_data_whatever_the_method(faulty: Path) -> None:
    one, two = Member(spec(epochs=3)), Member(spec(epochs=9))
    assert torch.equal(one.splits.train, two.splits.train)
    assert not torch.equal(one.model.mean, two.model.mean)
    assert torch.equal(one.model.mean, Member(spec(epochs=3)).model.mean)


def test_building_leaves_the_random_state_alone(faulty: Path) -> None:
    before = torch.get_rng_state()
    Member(spec())
    assert torch.equal(before, torch.get_rng_state())


def test_a_pack_that_raises_asks_to_be_split(faulty: Path, tmp_path: Path) -> None:
    specs = [spec(r, fault="raise-some") for r in range(6)]
    assert run(tmp_path, *specs) == PACK_FAILED
    assert not any(find_record(tmp_path, item.run_id) for item in specs)
    task = registry.build("task", "blob")
    for item in specs:
        assert run(tmp_path, item) == 0
        unlucky = float(task.splits(item.data_seed()).train[0, 0]) > 0
        assert record(tmp_path, item).status == ("error" if unlucky else "ok")


def test_one_members_metrics_fail_alone(
    faulty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [spec(r) for r in range(3)]
    original = Member.log_prob

    def fail(self: Member, x: torch.Tensor, evaluation: str | None) -> torch.Tensor:
        if self.spec.replicate == 1:
            raise RuntimeError("no score for you")
        return original(self, x, evaluation)

    monkeypatch.setattr(Member, "log_prob", fail)
    assert run(tmp_path, *specs) == 0
    assert [record(tmp_path, item).status for item in specs] == ["ok", "error", "ok"]
    assert "no score for you" in record(tmp_path, specs[1]).reason
    assert record(tmp_path, specs[1]).curves  # what training said is kept


def test_data_that_cannot_be_made_are_one_error_row(
    faulty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [spec(r) for r in range(2)]
    bad = specs[0].data_seed()
    blob = registry.load("task", "blob")
    original = blob.splits

    def fail(self: Any, seed: int) -> Any:
        if seed == bad:
            raise OSError("the disk is gone")
        return original(self, seed)

    monkeypatch.setattr(blob, "splits", fail)
    assert run(tmp_path, *specs) == 0
    assert [record(tmp_path, item).status for item in specs] == ["error", "ok"]
    assert record(tmp_path, specs[0]).reason == "OSError: the disk is gone"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: tuple(s), "TypeError: task: splits: expected Splits, got tuple"),
        (lambda s: s._replace(train=s.train[:, :1]), "ValueError: task: train rows: expected sha"),
        (lambda s: s._replace(valid=s.valid[:0]), "ValueError: task: valid rows: expected at lea"),
        (lambda s: s._replace(test=s.test * math.nan), "ValueError: task: test rows: expected fin"),
        (lambda s: s._replace(test=s.test.numpy()), "TypeError: task: test rows: expected a torch"),
    ],
)
def test_splits_that_break_the_contract_are_one_error_row(
    faulty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, reason: str
) -> None:
    blob = registry.load("task", "blob")
    original = blob.splits
    monkeypatch.setattr(blob, "splits", lambda self, seed: change(original(self, seed)))
    assert run(tmp_path, spec()) == 0
    assert record(tmp_path, spec()).status == "error"
    assert record(tmp_path, spec()).reason.startswith(reason)
    method = {"label": "s", "mixture": "shift"}
    text = {"name": "x", "tasks": ["blob"], "metrics": ["mean-norm"], "methods": [method]}
    assert len(Planner(parse_experiment(text, "x")).plan()) == 1  # one bad task stops no bench


def test_a_run_has_the_labels_of_its_own_rows(
    faulty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the replicate: the class of a row of this task can be seen from the row."""
    item, seen = spec(3), []
    blob, norm = registry.load("task", "blob"), registry.load("metric", "mean-norm")

    def labels(self: Any, seed: int) -> Splits:
        return Splits(*((x[:, 0] > 0).long() for x in self.splits(seed)))

    monkeypatch.setattr(blob, "labels", labels)
    monkeypatch.setattr(norm, "compute", lambda self, trained: seen.append(trained) or [])
    assert run(tmp_path, item) == 0 and record(tmp_path, item).status == "ok"
    (trained,) = seen
    for rows, classes in zip(trained.splits, trained.labels, strict=True):
        assert torch.equal(classes, (rows[:, 0] > 0).long())


def _raise(*_: Any) -> Any:
    raise KeyError("file")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": _raise}, "ValueError: task: labels: raised KeyError: 'file'"),
        ({"labels": lambda *_: [1, 2]}, "TypeError: task: labels: expected Splits or None, got"),
        (
            {"labels": lambda *_: Splits(*torch.zeros(3, 63).long())},
            "ValueError: task: train labels: expected int64 of shape (64,), one a row, got",
        ),
        (
            {"labels": lambda *_: Splits(*torch.zeros(3, 64))},
            "ValueError: task: train labels: expected int64 of shape (64,), one a row, got",
        ),
        ({"shape": (1, 2, 2)}, "ValueError: task: shape: expected None or (C, H, W) of 2 entries"),
        (
            {"levels": 8, "bits": 3, "bin_width": 1.0},
            "ValueError: task: train rows: expected values in [0, 8), as levels says, got -",
        ),
        ({"bits": 3}, "ValueError: task: bits: expected None or b of levels = 2^b, got 3"),
        ({"dimension": 3}, "ValueError: task: dimension: expected None or 0 to 2, got 3"),
    ],
)
def test_what_a_task_says_wrongly_of_its_data_is_an_error_before_training(
    faulty: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    reason: str,
) -> None:
    blob = registry.load("task", "blob")
    for name, value in change.items():
        monkeypatch.setattr(blob, name, value)
    assert run(tmp_path, spec()) == 0
    found = record(tmp_path, spec())
    assert found.status == "error" and found.reason.startswith(reason) and found.curves == ()


def test_members_with_a_result_are_not_measured_again(faulty: Path, tmp_path: Path) -> None:
    specs = [spec(r) for r in range(2)]
    run(tmp_path, *specs)
    path = run_folder(tmp_path, specs[0].run_id) / "record.json"
    (run_folder(tmp_path, specs[1].run_id) / "record.json").unlink()
    before = path.stat().st_mtime_ns
    run(tmp_path, *specs)
    assert path.stat().st_mtime_ns == before
    assert record(tmp_path, specs[1]).status == "ok"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("metric-raise", "metric 'mean-norm': RuntimeError: nothing to measure"),
        ("metric-bad", "metric 'mean-norm': ValueError: mean_norm: direction: expected 'max'"),
        ("metric-exit", "metric 'mean-norm': SystemExit: 0"),
        (
            "metric-twice",
            "metric 'mean-norm': ValueError: expected names of its own, got 'test_log",
        ),
    ],
)
def test_a_failing_metric_harms_no_other(
    faulty: Path, tmp_path: Path, fault: str, reason: str
) -> None:
    item = spec(fault=fault)
    assert run(tmp_path, item) == 0
    found = record(tmp_path, item)
    assert found.status == "error" and found.reason.startswith(reason)
    values = {row.name: row.value for row in found.metrics}
    assert values["test_log_likelihood"] is not None and "mean_norm" not in values
    assert (run_folder(tmp_path, item.run_id) / ARRAYS).exists()


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("assign-raise", "ok", "no pictures: RuntimeError: no charts today"),
        (
            "assign-wide",
            "ok",
            r"no pictures: ValueError: assign: expected integers of shape \(20,\)",
        ),
        (
            "narrow",
            "ok",
            r"no pictures: ValueError: sample: expected shape \(20, 2\), got \(20, 1\)",
        ),
    ],
)
def test_what_pictures_need_is_checked_and_costs_no_numbers(
    faulty: Path, tmp_path: Path, fault: str, status: str, reason: str
) -> None:
    item = spec(fault=fault)
    assert run(tmp_path, item) == 0
    found = record(tmp_path, item)
    assert found.status == status and re.match(reason, found.reason), found.reason
    assert len(found.metrics) > 1
    assert not (run_folder(tmp_path, item.run_id) / ARRAYS).exists()


def test_samples_of_other_shape_are_no_scores(faulty: Path, tmp_path: Path) -> None:
    item = spec(fault="narrow").model_copy(update={"metrics": (Part(name="sample-kde"),)})
    assert run(tmp_path, item) == 0
    found = record(tmp_path, item)
    assert found.status == "error" and found.metrics == ()
    assert "metric 'sample-kde': ValueError: sample: expected shape" in found.reason


def test_scaling_says_nothing_of_densities_on_surfaces(faulty: Path, tmp_path: Path) -> None:
    plain, scaled = spec(fault="surface"), spec(fault="surface", task="scaled")
    assert run(tmp_path, plain) == run(tmp_path, scaled) == 0
    assert record(tmp_path, plain).metrics[0].measure == "surface(dim=1)"
    assert "expected a density against Lebesgue measure" in record(tmp_path, scaled).reason


@pytest.mark.parametrize(
    ("fault", "status"),
    [("nan", "diverged"), ("score", "error"), ("score-nan", "non_finite"), ("", "ok")],
)
def test_statuses(faulty: Path, tmp_path: Path, fault: str, status: str) -> None:
    item = spec(fault=fault)
    assert run(tmp_path, item) == 0
    assert record(tmp_path, item).status == status
