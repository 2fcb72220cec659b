"""Discovery over fake distributions: every row of the reference's table."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from fake_site import Site, tasks
from flowzoo import registry
from flowzoo.discovery import discover, normalise

# --- the table ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "malformed",
    [
        "no section header here\n",
        "[flowzoo.tasks]\na = x:Y\na = x:Z\n",
        "[flowzoo.tasks]\nbad = 100%%(sure)s %(no)s\n",
        "\x00\x01",
        "[flowzoo.tasks\nx = y",
    ],
    ids=["no-header", "key-twice", "interpolation", "binary", "broken-header"],
)
def test_one_malformed_neighbour_does_not_empty_the_list(site: Site, malformed: str) -> None:
    site.plugin("good-one", "one")
    site.entry_points(malformed, "aaa_malformed")
    site.plugin("good-two", "two")
    found = tasks()
    assert found["good-one:one"].state == found["good-two:two"].state == "ready"
    assert registry.entries("base-flow")  # the built-ins live under another path entry
    assert any(str(site.folder) in problem.where for problem in registry.problems())


def test_a_neighbour_that_is_not_utf8(site: Site) -> None:
    site.plugin("good", "one")
    info = site.entry_points("", "latin")
    (info / "entry_points.txt").write_bytes(b"[flowzoo.tasks]\nx = y:Z # \xe9\xff\n")
    assert tasks()["good:one"].state == "ready"
    assert registry.problems()


def test_a_key_listed_twice_keeps_the_first(site: Site) -> None:
    module = site.plugin("twice", "one")
    text = f"[flowzoo.tasks]\none = {module}:SPEC\none = elsewhere:SPEC\n"
    (site.folder / "twice-1.0.dist-info" / "entry_points.txt").write_text(text, "utf-8")
    assert tasks()["twice:one"].value == f"{module}:SPEC"
    assert any("listed twice" in problem.error for problem in registry.problems())


def test_path_objects_on_sys_path(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.plugin("good", "one")
    found, problems = discover([site.folder, os.fsencode(site.folder / "nowhere")])
    assert [(point.distribution, point.name) for point in found] == [("good", "one")]
    assert problems == []


def test_rubbish_on_sys_path_is_a_recorded_problem(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.plugin("good", "one")
    found, problems = discover([3, None, ["x"], "/nowhere", "", site.folder])
    assert [point.name for point in found] == ["one"]
    assert [problem.where for problem in problems] == ["3", "None", "['x']"]
    monkeypatch.setattr(sys, "path", [["unhashable"], *sys.path])
    assert "good:one" in tasks()


def test_a_malformed_neighbour_a_path_object_and_a_shadowed_duplicate(tmp_path: Path) -> None:
    first, second = Site(tmp_path / "a"), Site(tmp_path / "b")
    first.plugin("Flow_Extras", "one")
    first.entry_points("no header\n", "malformed")
    second.plugin("flow.extras", "one", module="fake_shadowed")
    second.plugin("other", "two")
    found, problems = discover([first.folder, str(second.folder)])
    assert [(point.distribution, point.name) for point in found] == [
        ("flow-extras", "one"),
        ("other", "two"),
    ]
    assert "shadowed" not in found[0].value
    assert len([problem for problem in problems if "header" in problem.error]) >= 1


def test_one_distribution_spelled_two_ways_on_one_path(site: Site) -> None:
    site.plugin("Flow_Extras", "one", version="1.0")
    site.plugin("flow.extras", "one", module="fake_again", version="2.0")
    assert [key for key in tasks() if key.endswith(":one")] == ["flow-extras:one"]


def test_stale_egg_info_earlier_on_the_path_wins(tmp_path: Path) -> None:
    stale, fresh = Site(tmp_path / "a"), Site(tmp_path / "b")
    stale.plugin("mine", "old", egg=True, version="0.1")
    fresh.plugin("mine", "new", version="0.2")
    found, _ = discover([stale.folder, fresh.folder])
    assert [(point.name, point.version) for point in found] == [("old", "0.1")]


def test_extras_after_the_value_are_ignored(site: Site) -> None:
    module = site.plugin("extra", "one")
    text = f"[flowzoo.tasks]\none = {module}:SPEC [fast, big]\n"
    (site.folder / "extra-1.0.dist-info" / "entry_points.txt").write_text(text, "utf-8")
    assert tasks()["extra:one"].state == "ready"


@pytest.mark.parametrize(
    "value", ["with-dash.module:SPEC", "", "fake_nowhere", "os:", ":SPEC", "os:path:join", "a b c"]
)
def test_a_value_that_cannot_be_imported_is_listed_as_broken(site: Site, value: str) -> None:
    site.entry_points(f"[flowzoo.tasks]\none = {value}\n", "dashed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entry = tasks()["dashed:one"]
    assert entry.state == "broken" and entry.error
    with pytest.raises(registry.PluginError, match="'one' is broken"):
        registry.load("task", "one")


def test_dist_info_without_metadata_takes_its_name_from_the_folder(site: Site) -> None:
    site.plugin("nameless", "one", metadata=False)
    assert "nameless:one" in tasks()


def test_plugins_in_a_zip(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    site.plugin("zipped", "one")
    archive = tmp_path / "zipped.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for file in site.folder.rglob("*"):
            out.write(file, file.relative_to(site.folder))
    found, problems = discover([archive])
    assert [(p.distribution, p.name) for p in found] == [("zipped", "one")] and not problems


def test_order_does_not_depend_on_hashes_or_the_file_system(site: Site) -> None:
    names = [f"dist-{i}" for i in range(8)]
    random.Random(0).shuffle(names)
    for name in names:
        site.plugin(name, "one" if name < "dist-4" else name)
    script = (
        "from flowzoo.registry import entries\n"
        "print([(e.distribution, e.name, e.state) for e in entries('task')])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": str(site.folder), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1 and "conflict" in outputs.pop()


@pytest.mark.parametrize("name", ["Flow_Zoo", "flow.zoo", "flow--zoo", "FLOW-zoo"])
def test_normalised_names(name: str) -> None:
    assert normalise(name) == "flow-zoo"
