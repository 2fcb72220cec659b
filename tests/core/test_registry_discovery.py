"""Discovery over fake distributions: every row of the reference's table, and the states."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowzoo import registry
from flowzoo.discovery import discover, normalise
from flowzoo.plugin import KINDS

SPEC = """
from flowzoo.plugin import PluginSpec
SPEC = PluginSpec(kind={kind!r}, name={name!r}, summary="made for a test",
                  target="{module}_target:Thing", {extra})
"""


class Site:
    """A folder on sys.path that holds fake distributions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def entry_points(
        self,
        text: str,
        dist: str,
        version: str = "1.0",
        *,
        metadata: bool = True,
        egg: bool = False,
    ) -> Path:
        folder = dist.replace("-", "_")  # as the wheel format asks
        info = self.folder / f"{folder}-{version}.{'egg' if egg else 'dist'}-info"
        info.mkdir()
        if metadata:
            name = "PKG-INFO" if egg else "METADATA"
            (info / name).write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(text)
        return info

    def plugin(
        self,
        dist: str,
        name: str = "thing",
        *,
        module: str | None = None,
        kind: str = "task",
        said: tuple[str, str] | None = None,
        extra: str = "",
        version: str = "1.0",
        **how: bool,
    ) -> str:
        module = module or f"fake_{dist.replace('-', '_').lower()}_{name.replace('-', '_')}"
        spec_kind, spec_name = said or (kind, name)
        text = SPEC.format(kind=spec_kind, name=spec_name, module=module, extra=extra)
        (self.folder / f"{module}.py").write_text(text)
        group = f"flowzoo.{kind.replace('-', '_')}s"
        self.entry_points(f"[{group}]\n{name} = {module}:SPEC\n", dist, version, **how)
        return module

    def target(self, module: str, text: str) -> None:
        (self.folder / f"{module}_target.py").write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delenv("FLOWZOO_DISABLE", raising=False)
    monkeypatch.delenv("FLOWZOO_PLUGIN_AUTOLOAD", raising=False)
    before = set(sys.modules)
    registry.refresh()
    yield Site(tmp_path / "site")
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]
    registry.refresh()


def tasks() -> dict[str, registry.Entry]:
    """The tasks that are not built in."""
    registry.refresh()
    return {
        f"{entry.distribution}:{entry.name}": entry
        for entry in registry.entries("task")
        if entry.distribution != "flowzoo"
    }


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
    (site.folder / "twice-1.0.dist-info" / "entry_points.txt").write_text(text)
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
    (site.folder / "extra-1.0.dist-info" / "entry_points.txt").write_text(text)
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


# --- states ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line"),
        ("import fake_missing_package", "ModuleNotFoundError: No module named"),
        ("SPEC = 3", "expected a PluginSpec"),
        ("import sys; sys.exit(4)", "SystemExit: 4"),
        ("def", "SyntaxError"),
        ("", "AttributeError"),
        ("class E(Exception):\n  pass\nraise E", "E"),
    ],
)
def test_broken_shows_the_first_line_and_stops_no_other(site: Site, body: str, error: str) -> None:
    site.plugin("good", "one")
    module = site.plugin("bad", "two")
    (site.folder / f"{module}.py").write_text(body)
    found = tasks()
    assert found["good:one"].state == "ready"
    assert found["bad:two"].state == "broken"
    assert error in found["bad:two"].error and "\n" not in found["bad:two"].error
    assert found["bad:two"].distribution == "bad" and found["bad:two"].spec is None


@pytest.mark.parametrize("said", [("metric", "thing"), ("task", "other")])
def test_a_spec_that_disagrees_with_its_entry_point_is_broken(
    site: Site, said: tuple[str, str]
) -> None:
    site.plugin("bad", said=said)
    entry = tasks()["bad:thing"]
    assert entry.state == "broken"
    assert repr(said[1]) in entry.error and "flowzoo.tasks" in entry.error


@pytest.mark.parametrize(
    ("api", "state"),
    [
        ("1.0", "ready"),
        ("1.1", "incompatible-api"),
        ("2.0", "incompatible-api"),
        ("0.9", "incompatible-api"),
    ],
)
def test_api_versions(site: Site, api: str, state: str) -> None:
    site.plugin("dist", extra=f"api={api!r}")
    entry = tasks()["dist:thing"]
    assert entry.state == state
    if state != "ready":
        assert api in entry.error
        with pytest.raises(registry.PluginError, match="incompatible-api"):
            registry.load("task", "thing")


@pytest.mark.parametrize(
    ("requires", "state", "error"),
    [
        (["numpy", "torch>=2"], "ready", ""),
        (["numpy>=999"], "missing-deps", "pip install 'numpy>=999'"),
        (["no-such-package-here", "numpy"], "missing-deps", "pip install no-such-package-here"),
        (["no-such-package-here; python_version < '3'"], "ready", ""),
        (["not a requirement!"], "broken", "no requirement"),
        (["x; extra == 'a' and nonsense == 'b'"], "broken", "no requirement"),
        ("numpy", "broken", "requires: expected a tuple of strings"),
        ([3], "broken", "requires: expected a tuple of strings"),
    ],
)
def test_dependencies(site: Site, requires: list[str] | str, state: str, error: str) -> None:
    given = requires if isinstance(requires, str) else tuple(requires)
    site.plugin("dist", extra=f"requires={given!r}")
    entry = tasks()["dist:thing"]
    assert entry.state == state and error in entry.error


def test_two_distributions_one_name(site: Site) -> None:
    target = "from flowzoo.interfaces import Task\nclass Thing(Task):\n    from_dist = {!r}\n"
    for dist in ("dist_a", "dist_b"):
        site.target(site.plugin(dist), target.format(dist))
    found = tasks()
    assert {entry.state for entry in found.values()} == {"conflict"}
    with pytest.raises(registry.PluginError) as caught:
        registry.load("task", "thing")
    assert "'dist-a:thing'" in str(caught.value) and "'dist-b:thing'" in str(caught.value)
    assert registry.load("task", "dist-b:thing").from_dist == "dist_b"  # type: ignore[attr-defined]
    assert registry.load("task", "Dist_A:thing").from_dist == "dist_a"  # type: ignore[attr-defined]


def test_disabling_one_of_two_settles_the_conflict(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.plugin("dist_a")
    site.plugin("dist_b")
    monkeypatch.setenv("FLOWZOO_DISABLE", "other, dist-a:thing")
    found = tasks()
    assert found["dist-a:thing"].state == "disabled"
    assert found["dist-b:thing"].state == "ready"
    assert registry.find("task", "thing").distribution == "dist-b"
    with pytest.raises(registry.PluginError, match="disabled"):
        registry.load("task", "dist-a:thing")


def test_a_built_in_name_cannot_be_taken_over(site: Site) -> None:
    site.plugin("intruder", "helix", extra="version='evil'")
    found = tasks()
    assert found["intruder:helix"].state == "conflict"
    assert "belongs to flowzoo" in found["intruder:helix"].error
    chosen = registry.find("task", "helix")
    assert (chosen.distribution, chosen.state) == ("flowzoo", "ready")
    assert registry.find("task", "intruder:helix").spec is not None


def test_disabling_a_built_in_does_not_free_its_name(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.plugin("intruder", "helix")
    monkeypatch.setenv("FLOWZOO_DISABLE", "flowzoo:helix")
    assert tasks()["intruder:helix"].state == "conflict"
    assert registry.find("task", "helix").state != "ready"


def test_what_a_spec_prints_does_not_reach_stdout(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    module = site.plugin("loud", "one")
    file = site.folder / f"{module}.py"
    file.write_text("print('loud!')\n" + file.read_text())
    assert tasks()["loud:one"].state == "ready"
    assert capsys.readouterr().out == ""


def test_disabled_plugins_are_listed_and_not_imported(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = site.plugin("dist", "two")
    monkeypatch.setenv("FLOWZOO_DISABLE", "two")
    assert tasks()["dist:two"].state == "disabled"
    assert module not in sys.modules


def test_autoload_off_leaves_the_built_ins(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    module = site.plugin("dist", "two")
    monkeypatch.setenv("FLOWZOO_PLUGIN_AUTOLOAD", "0")
    assert tasks() == {}
    assert module not in sys.modules
    assert registry.find("task", "helix").state == "ready"
    with pytest.raises(registry.UnknownPluginError):
        registry.load("task", "two")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise ImportError('no cuda')", "ImportError: no cuda"),
        ("class Thing: ...", "subclass of flowzoo.interfaces.Task"),
        ("Thing = 3", "subclass of flowzoo.interfaces.Task"),
        ("", "AttributeError"),
    ],
)
def test_a_target_that_cannot_be_used(site: Site, body: str, error: str) -> None:
    site.target(site.plugin("dist"), body)
    assert tasks()["dist:thing"].state == "ready"  # nothing of the target was imported
    with pytest.raises(registry.PluginError, match=error) as caught:
        registry.load("task", "thing")
    assert "task 'thing'" in str(caught.value)


# --- the real ones -----------------------------------------------------------------------------


def test_every_built_in_is_ready_and_its_target_exists() -> None:
    built_in = [entry for entry in registry.entries() if entry.distribution == "flowzoo"]
    assert {entry.kind for entry in built_in} == set(KINDS)
    states = {f"{e.kind} {e.name}": (e.state, e.error) for e in built_in if e.state != "ready"}
    assert states == {}
    for entry in built_in:
        registry.load(entry.kind, entry.name)


def test_entry_points_agree_with_pyproject(project: Path) -> None:
    import tomllib

    from flowzoo.plugin import GROUPS

    text = (project / "pyproject.toml").read_text()
    written = tomllib.loads(text)["project"]["entry-points"]
    expected = {(kind, name) for kind, group in GROUPS.items() for name in written[group]}
    found = {(e.kind, e.name) for e in registry.entries() if e.distribution == "flowzoo"}
    assert found == expected, "run `make install`: the installed entry points are older"


@pytest.fixture
def project() -> Path:
    return Path(__file__).resolve().parents[2]


def test_specs_are_the_ready_ones() -> None:
    assert [spec.name for spec in registry.specs("executor")] == ["local"]


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: registry.load("mixture", "vqq"), "did you mean 'vq'"),
        (lambda: registry.load("base-flow", "real-nvp"), "did you mean 'realnvp'"),
        (lambda: registry.load("mixtur", "vq"), "did you mean 'mixture'"),
        (lambda: registry.entries("base_flow"), "did you mean 'base-flow'"),
        (lambda: registry.load("mixture", "nobody:vqq"), "'gaussian'"),
    ],
)
def test_unknown_names_come_with_the_nearest(call: Callable[[], object], hint: str) -> None:
    with pytest.raises(registry.UnknownPluginError, match=hint):
        call()


def test_json_of_the_table_is_plain(site: Site) -> None:
    site.plugin("dist", "two")
    rows = [(e.kind, e.name, e.state, e.distribution, e.version) for e in registry.entries()]
    assert json.loads(json.dumps(rows))[0][0] == KINDS[0]
