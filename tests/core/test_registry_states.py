"""States of plugins: broken, incompatible, missing, in conflict, disabled; and the real ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fake_site import Site, tasks
from flowzoo import registry
from flowzoo.plugin import KINDS

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
    (site.folder / f"{module}.py").write_text(body, "utf-8")
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
    file.write_text("print('loud!')\n" + file.read_text("utf-8"), "utf-8")
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

    text = (project / "pyproject.toml").read_text("utf-8")
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
