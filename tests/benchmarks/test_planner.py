"""Experiments are checked before anything runs; run ids say what a run depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowzoo_bench.data.fetch import DataNotFoundError
from flowzoo_bench.experiment import UsageError, load_experiment, parse_experiment, select, shipped
from flowzoo_bench.member import Member
from flowzoo_bench.planner import Planner, make_packs
from flowzoo_bench.runspec import PackSpec, Part, RunSpec, canonical


def spec(**changes: Any) -> RunSpec:
    given: dict[str, Any] = {
        "task": Part(name="helix"),
        "method": Part(name="global", options={"training": {"epochs": 3}}),
        "metrics": (Part(name="log-likelihood"),),
        "task_label": "helix",
        "method_label": "flow",
    }
    return RunSpec(**{**given, **changes})


def test_run_id_is_stable_across_machines_and_versions() -> None:
    # a literal: changing how ids are made orphans every folder of results
    assert spec().run_id == "421b103b8b8b8c03"
    assert spec(task_label="x", method_label="y").run_id == spec().run_id


@pytest.mark.parametrize(
    "changes",
    [
        {"task": Part(name="star")},
        {"task": Part(name="helix", version="2")},
        {"task": Part(name="helix", options={"turns": 3})},
        {"method": Part(name="vq")},
        {"method": Part(name="global", options={"training": {"epochs": 4}})},
        {"method": Part(name="global", options={"training": {"epochs": 3}}, version="2")},
        {"parts": {"base_flow": "maf:2"}},
        {"metrics": ()},
        {"replicate": 1},
        {"root": 1},
        {"precision": "float64"},
        {"device": "cuda"},
        {"num_samples": 10},
        {"keep": ("layers",)},
        {"temperatures": (2.0,)},
        {"noise_scales": (0.0,)},
    ],
)
def test_run_id_depends_on_everything_a_result_does(changes: dict[str, Any]) -> None:
    assert spec(**changes).run_id != spec().run_id


def test_knobs_are_part_of_a_run_that_keeps_samples_at_them_only(faulty: Path) -> None:
    def plan(**changes: Any) -> RunSpec:
        return Planner(tiny(replicates=1, tasks=["blob"], **changes)).plan()[0].spec

    old = plan()
    assert (old.temperatures, old.noise_scales) == ((), ())
    assert plan(temperatures=[3.0], noise_scales=[0.5]).run_id == old.run_id
    kept = plan(keep=["knobs"], temperatures=[3, 1.0, 3.0], noise_scales=[-0.0])
    assert (kept.temperatures, kept.noise_scales) == ((3.0, 1.0), (0.0,))
    assert kept.run_id != plan(keep=["knobs"]).run_id
    assert len(plan(keep=["knobs"]).temperatures) == 4


def test_run_id_does_not_depend_on_the_order_of_options() -> None:
    one = Part(name="m", options={"a": 1, "b": {"c": 2, "d": 3}})
    two = Part(name="m", options={"b": {"d": 3, "c": 2}, "a": 1})
    assert spec(method=one).run_id == spec(method=two).run_id


def test_data_are_shared_by_methods_and_nothing_else_is() -> None:
    other = spec(method=Part(name="vq"), parts={"base_flow": "maf:1"}, precision="float64")
    assert other.data_seed() == spec().data_seed()
    assert spec(replicate=1).data_seed() != spec().data_seed()
    assert spec(task=Part(name="helix", options={"a": 1})).data_seed() != spec().data_seed()
    for purpose in ("init", "train", "eval"):
        assert other.seed_for(purpose) != spec().seed_for(purpose)
        assert spec(replicate=1).seed_for(purpose) != spec().seed_for(purpose)
    assert len({spec().seed_for(p) for p in ("init", "train", "eval")}) == 3


def test_pack_id_depends_on_members_and_their_order() -> None:
    a, b = spec(), spec(replicate=1)
    assert PackSpec.of([a, b]).pack_id == PackSpec.of([a, b], "commit").pack_id
    assert len({PackSpec.of(runs).pack_id for runs in ([a, b], [b, a], [a], [b])}) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_canonical_refuses_what_json_cannot_say(value: object) -> None:
    with pytest.raises(ValueError):
        canonical({"a": value})


TINY: dict[str, Any] = {
    "name": "tiny",
    "replicates": 3,
    "tasks": ["blob", {"name": "blob", "label": "small", "options": {"rows": 32}}],
    "methods": [{"label": "shift", "mixture": "shift"}],
    "metrics": ["log-likelihood"],
}


def tiny(**changes: Any) -> Any:
    return parse_experiment({**TINY, **changes}, "tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replicatse": 2}, r"unknown key 'replicatse'.*did you mean 'replicates'"),
        (
            {"methods": [{"label": "a", "mixture": "shift", "optoins": {}}]},
            r"'methods\.0\.optoins'.*did you mean 'options'",
        ),
        ({"tasks": [{"name": "blob", "lable": "x"}]}, r"'tasks\.0\.lable'.*did you mean 'label'"),
        ({"replicates": 0}, r"replicates: .*greater than or equal to 1, got 0"),
        ({"replicates": "3"}, r"replicates: .*got '3'"),
        ({"tasks": []}, r"tasks"),
        ({"tasks": ["blob", "blob"]}, r"distinct labels, got 'blob'"),
        ({"name": "../up"}, r"name"),
        ({"name": "n" * 101}, r"name: .*100"),
        ({"metrics": ["log-likelihood", "log-likelihood"]}, r"distinct labels, got 'log-likelih"),
        ({"metrics": [{"name": "log-likelihood", "label": "x"}]}, r"unknown key 'metrics.0.label'"),
        ({"methods": [{"label": "oracle", "mixture": "shift"}]}, r"another label than 'oracle'"),
        ({"methods": [{"label": "real data", "mixture": "shift"}]}, r"label than 'real data'"),
        ({"timeout": float("inf")}, r"timeout: .*finite number, got inf"),
        ({"keep": ["knob"]}, r"keep\.0: .*'knobs'.*got 'knob'"),
        ({"temperatures": [1.0, 0.0]}, r"temperatures\.1: .*greater than 0, got 0\.0"),
        ({"noise_scales": [-0.5]}, r"noise_scales\.0: .*greater than or equal to 0"),
        (
            {"methods": [{"label": "a", "mixture": "shift", "exclude_tasks": ["blub"]}]},
            r"unknown task 'blub'.*did you mean 'blob'",
        ),
    ],
)
def test_a_wrong_experiment_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["blub"]}, r"unknown task 'blub'.*did you mean 'blob'"),
        ({"training": {"lr": float("nan")}}, r"^training: expected finite numbers"),
        (
            {"training": {"epohcs": 3}, "methods": [{"label": "g", "mixture": "gaussian"}]},
            r"^training: unknown option 'epohcs'.*did you mean 'epochs'",
        ),
        (
            {"methods": [{"label": "a", "mixture": "shift", "options": {"features": 3}}]},
            r"method 'a': options: expected no 'features'",
        ),
        (
            {"methods": [{"label": "a", "mixture": "shift", "options": {"fault": "exit"}}]},
            r"method 'a' on 'blob': SystemExit 0",
        ),
        (
            {"tasks": [{"name": "file", "options": {"path": "no.npy"}}]},
            r"^task 'file': (?!task).*no\.npy",
        ),
        ({"metrics": ["log-likelyhood"]}, r"did you mean 'log-likelihood'"),
        ({"methods": [{"label": "a", "mixture": "shfit"}]}, r"did you mean 'shift'"),
        (
            {"methods": [{"label": "a", "mixture": "shift", "options": {"epoch": 1}}]},
            r"method 'a'.*unknown option 'epoch'.*did you mean 'epochs'",
        ),
        (
            {
                "methods": [
                    {
                        "label": "a",
                        "mixture": "global",
                        "options": {"base_flow": {"name": "maf", "layer": 2}},
                    }
                ]
            },
            r"method 'a'.*unknown option 'layer'.*did you mean 'layers'",
        ),
        (
            {
                "training": {"epochz": 1},
                "methods": [{"label": "a", "mixture": "global"}],
            },
            r"epochz.*did you mean 'epochs'",
        ),
        (
            {
                "methods": [
                    {"label": "a", "mixture": "shift"},
                    {"label": "b", "mixture": "shift"},
                ]
            },
            r"'a'.*'b'.*same run",
        ),
        ({"metrics": [{"name": "mean-norm", "options": {"x": 1}}]}, r"metric 'mean-norm'"),
    ],
)
def test_what_plugins_refuse_is_found_while_planning(
    faulty: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Planner(tiny(**changes)).plan()


def test_the_content_of_a_file_is_part_of_the_run(tmp_path: Path, faulty: Path) -> None:
    path = tmp_path / "rows.npy"
    task = {"name": "file", "options": {"path": str(path)}}

    def ids() -> list[str]:
        return [item.spec.run_id for item in Planner(tiny(tasks=[task])).plan()]

    rows = np.random.default_rng(0).normal(size=(100, 2))
    np.save(path, rows)
    first = ids()
    assert ids() == first
    np.save(path, rows + 1.0)
    planned = Planner(tiny(tasks=[task])).plan()
    assert not set(first) & {item.spec.run_id for item in planned}
    Member(planned[0].spec)
    np.save(path, rows)  # changed again before the worker reads it
    with pytest.raises(ValueError, match="expected the data that were planned for"):
        Member(planned[0].spec)


def test_selection_names_the_nearest_label() -> None:
    with pytest.raises(UsageError, match=r"--methods: unknown 'shft'.*did you mean 'shift'"):
        select(tiny(), methods=["shft"])
    with pytest.raises(UsageError, match="--replicates"):
        select(tiny(), replicates=0)
    chosen = select(tiny(), tasks=["small"], replicates=1)
    assert [task.shown for task in chosen.tasks] == ["small"]
    assert chosen.replicates == 1


SWEPT = {
    "label": "s",
    "mixture": "shift",
    "options": {"training": {"lr": 0.1}, "pause": 0.0},
    "sweep": {"training.epochs": [3, 4]},
}


def test_a_sweep_is_one_method_a_value(faulty: Path) -> None:
    swept = tiny(tasks=["blob"], replicates=1, methods=[SWEPT])
    plain = [
        {"label": f"s epochs={n}", "mixture": "shift", "options": {"training": t, "pause": 0.0}}
        for n, t in ((3, {"lr": 0.1, "epochs": 3}), (4, {"lr": 0.1, "epochs": 4}))
    ]
    expected = Planner(tiny(tasks=["blob"], replicates=1, methods=plain)).plan()
    planned = Planner(swept).plan()
    assert [item.spec for item in planned] == [item.spec for item in expected]
    assert swept.methods[0].options == SWEPT["options"]  # not changed on the way
    assert [m.label for m in select(swept, methods=["s"]).methods] == ["s epochs=3", "s epochs=4"]
    assert [m.label for m in select(swept, methods=["s epochs=4"]).methods] == ["s epochs=4"]
    with pytest.raises(UsageError, match="did you mean 's epochs=3'"):
        select(swept, methods=["s epoch=3"])


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"a": [1], "b": [2]}, r"expected one option, got \['a', 'b'\]"),
        ({"a": []}, r"'a': expected at least one value"),
        ({"a": [1, 1]}, r"distinct values, got 's a=1'"),
        ({"a": [{"b": 1}]}, r"expected numbers or texts"),
        ({"a..b": [1]}, r"got 'a..b'"),
        ({"pause.x": [1]}, r"expected a table at 'pause', got 0.0"),
        ({"a": ["x,y"]}, r"label without comma"),
        ({"a": 3}, r"sweep.a: .*got 3"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(sweep: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny(methods=[{**SWEPT, "sweep": sweep}])


def test_a_sweep_and_a_method_cannot_share_a_label() -> None:
    with pytest.raises(UsageError, match="distinct labels, got 's'"):
        tiny(methods=[SWEPT, {"label": "s", "mixture": "shift"}])


def test_packs_hold_one_configuration_and_one_shape(faulty: Path) -> None:
    planned = Planner(tiny()).plan()
    assert len(planned) == 6
    packs = make_packs(planned, 25)
    assert sorted(len(pack.runs) for pack, _ in packs) == [3, 3]
    assert {len({run.task_label for run in pack.runs}) for pack, _ in packs} == {1}
    assert all(len(pack.runs) == 1 for pack, _ in make_packs(planned, 1))
    members = sorted(run.run_id for pack, _ in make_packs(planned, 2) for run in pack.runs)
    assert members == sorted(item.spec.run_id for item in planned)
    assert max(len(pack.runs) for pack, _ in make_packs(planned, 2)) == 2


def test_training_defaults_go_under_the_methods_own(faulty: Path) -> None:
    methods = [
        {"label": "a", "mixture": "shift", "options": {"training": {"epochs": 7}}},
        {"label": "b", "mixture": "global", "options": {"training": {"steps": 5}}},
        {"label": "c", "mixture": "gaussian"},
    ]
    planned = Planner(tiny(methods=methods, training={"epochs": 2, "lr": 0.5})).plan()
    options = {item.spec.method_label: item.spec.method.options for item in planned}
    assert options["a"]["training"] == {"epochs": 7, "lr": 0.5}
    assert options["b"]["training"] == {"steps": 5, "lr": 0.5}
    assert options["c"] == {}


def test_versions_of_nested_plugins_count(faulty: Path) -> None:
    methods = [{"label": "a", "mixture": "global", "options": {"base_flow": {"name": "maf"}}}]
    (item, *_) = Planner(tiny(methods=methods)).plan()
    assert item.spec.parts == {"base_flow": "maf:1"}


def test_a_method_with_missing_dependencies_is_skipped_not_refused(faulty: Path) -> None:
    planned = Planner(tiny(methods=[{"label": "a", "mixture": "absent"}])).plan()
    assert len(planned) == 6
    assert all("no-such-distribution-xyz" in item.skip for item in planned)


@pytest.mark.parametrize("name", shipped())
def test_shipped_experiments_plan(name: str) -> None:
    experiment = load_experiment(name)
    assert experiment.name == name
    try:
        planned = Planner(select(experiment, replicates=1)).plan()
    except UsageError as error:
        if isinstance(_root(error), DataNotFoundError):  # data that not every machine has
            pytest.skip(str(_root(error)).split(" (looked in")[0])
        raise
    assert len(planned) >= 3


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def test_planning_leaves_the_random_state_alone(faulty: Path) -> None:
    import torch

    before = torch.get_rng_state()
    Planner(tiny()).plan()
    assert torch.equal(before, torch.get_rng_state())
