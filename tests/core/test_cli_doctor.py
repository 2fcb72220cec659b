"""``flowzoo doctor``: each thing that can be wrong is found and said on one line."""

from __future__ import annotations

import builtins
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fake_site import Site
from flowzoo import registry
from flowzoo.cli import doctor as command
from flowzoo.cli import main
from flowzoo.diagnosis import environment, plugins
from flowzoo.diagnosis.finding import Finding, problem


def said(findings: Any, level: str = "problem") -> list[str]:
    return [f"{f.about}: {f.text}" for f in findings if f.level == level]


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FLOWZOO_"):
            monkeypatch.delenv(name)


# --- the command ---------------------------------------------------------------------------------


def test_nothing_is_wrong_here(site: Site, quiet: None, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor"])
    out = capsys.readouterr().out
    assert (code, [line for line in out.splitlines() if line.startswith("problem")]) == (0, [])
    for text in ("python", "torch", "numpy", "threads", "determinism", "cuda", "extra compare"):
        assert text in out
    assert "entrypoints and importlib.metadata find the same" in out
    assert out.endswith("\n0 problems\n")


def test_json_and_exit_code(
    site: Site, quiet: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLOWZOO_DISABEL", "x")
    assert main(["doctor", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert all(set(row) == {"level", "about", "text"} for row in rows)
    assert all("\n" not in row["text"] and row["text"] for row in rows)
    (wrong,) = [row for row in rows if row["level"] == "problem"]
    assert wrong["about"] == "FLOWZOO_DISABEL" and "'FLOWZOO_DISABLE'" in wrong["text"]


def test_a_look_that_fails_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken_look() -> list[Finding]:
        raise RuntimeError("out of\norder")

    def good_look() -> list[Finding]:
        return []

    monkeypatch.setattr(command, "LOOKS", (broken_look, good_look), raising=True)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "broken look" in out and "RuntimeError: out of" in out
    assert "good look" in out and "1 problem\n" in out


def test_help_and_doctor_without_torch() -> None:
    code = (
        "import sys\nfrom flowzoo.cli import main\nmain(['doctor', '--help'])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.modules['torch'] = None\ncode = main(['doctor'])\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "torch" in done.stdout and "cannot be imported" in done.stdout


def test_a_finding_is_one_line() -> None:
    assert problem("x", "a\n  b\n").text == "a b"


# --- the environment -----------------------------------------------------------------------------


class Metadata:
    """A distribution that says what the test wants."""

    def __init__(self, version: str, requires: list[str], extras: list[str]) -> None:
        self.version, self.requires = version, requires
        self.metadata = self
        self.extras = extras

    def get_all(self, name: str) -> list[str]:
        return self.extras


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    said_by = Metadata(
        "0.0.1",
        [
            "numpy>=9999",
            "not-there>=1",
            "typer",
            "not-for-us; python_version < '3'",
            "absent; extra == 'gone'",
            "pytest; extra == 'here'",
        ],
        ["gone", "here"],
    )
    real = importlib.metadata.distribution
    monkeypatch.setattr(
        importlib.metadata, "distribution", lambda n: said_by if n == "flowzoo" else real(n)
    )
    found = list(environment.versions())
    wrong = said(found)
    assert len(wrong) == 3
    assert "what is installed says 0.0.1" in wrong[0]
    assert ">=9999 is needed; pip install 'numpy>=9999'" in wrong[1]
    assert "not-there is not installed" in wrong[2]
    assert said(found, "note") == [
        "extra gone: absent is not installed; pip install 'flowzoo[gone]'"
    ]
    assert "extra here: present" in said(found, "ok")


def test_flowzoo_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert "imported but not installed" in said(environment.versions())[0]


def test_torch_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "torch":
            raise OSError("libtorch.so: cannot open")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    found = list(environment.torch_state())
    assert said(found) == ["torch: cannot be imported: OSError: libtorch.so: cannot open"]


def test_torch_is_left_as_it_was() -> None:
    import torch

    before = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
    found = list(environment.torch_state())
    assert said(found) == []
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (torch.get_num_threads(), torch.get_default_dtype())


def test_a_gpu_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    facts = type("Facts", (), {"name": "A GPU", "total_memory": 2**34})
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no device is found" in said(environment._cuda(torch), "note")[0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: facts)

    def refuse(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no kernel image is available\nfor this device")

    monkeypatch.setattr(torch, "ones", refuse)
    (line,) = said(environment._cuda(torch))
    assert "A GPU, 16 GiB" in line and "no kernel image is available" in line


def test_variables(site: Site, monkeypatch: pytest.MonkeyPatch, quiet: None) -> None:
    monkeypatch.setenv("FLOWZOO_DISABLE", "kde, vqq,flowzoo:gmm")
    monkeypatch.setenv("FLOWZOO_AUTOLOAD", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = list(environment.variables())
    assert said(found) == [
        "FLOWZOO_AUTOLOAD: nothing reads it; did you mean 'FLOWZOO_PLUGIN_AUTOLOAD'?",
        "FLOWZOO_DISABLE: no plugin is called 'vqq'; did you mean 'vq'?",
    ]
    assert any("OMP_NUM_THREADS: '3'" in line for line in said(found, "note"))


def test_every_variable_that_is_read_is_known() -> None:
    root = Path(__file__).resolve().parents[2]
    text = "".join(
        file.read_text("utf-8")
        for package in ("core", "plugins", "benchmarks")
        for file in (root / package).rglob("*.py")
        if file.name != "environment.py"
    )
    for name in environment.VARIABLES:
        assert name in text, f"nothing reads {name}"
    import re

    read = set(re.findall(r"FLOWZOO_[A-Z]+(?:_[A-Z]+)*", text))
    assert read <= set(environment.VARIABLES)


# --- plugins -------------------------------------------------------------------------------------


def test_states(site: Site) -> None:
    good = site.plugin("good-one", "good")
    site.target(good, "class Thing: ...")
    site.plugin("no-target", "lost")
    site.plugin("old-api", "old", extra="api='9.0'")
    site.plugin("hungry", "hungry", extra="requires=('fake-not-there>=1',)")
    site.plugin("a-side", "twin")
    site.plugin("b-side", "twin", module="fake_b_side_other")
    site.plugin("thief", "helix", kind="task", module="fake_thief")
    site.entry_points("[flowzoo.tasks]\nodd = fake_not_there:SPEC\n", "odd")
    registry.refresh()
    wrong = said(plugins.states())
    text = "\n".join(wrong)
    assert len(wrong) == 7, text
    for part in (
        "task lost: of no-target: there is no module fake_no_target_lost_target",
        "task old: of old-api is incompatible-api: written for API 9.0",
        "task hungry: of hungry is missing-deps: pip install",
        "task twin: of a-side is conflict",
        "task twin: of b-side is conflict",
        "task helix: of thief is conflict: the name belongs to flowzoo; load it as 'thief:helix'",
        "task odd: of odd is broken: ModuleNotFoundError",
    ):
        assert part in text
    assert "fake_good_one_good_target" not in sys.modules  # nothing of a plugin is run


def test_a_disabled_plugin_is_no_problem(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWZOO_DISABLE", "helix")
    found = list(plugins.states())
    assert said(found) == []
    assert said(found, "note") == ["task helix: disabled: named in FLOWZOO_DISABLE"]


def test_an_optional_library_of_a_built_in_is_no_problem(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = registry.find("mixture", "vq")
    lacking = type(entry)(**{**vars(entry), "state": "missing-deps", "error": "pip install x"})
    monkeypatch.setattr(plugins, "entries", lambda: [lacking])
    found = list(plugins.states())
    assert said(found) == []
    assert "an optional library is missing: pip install x" in said(found, "note")[0]


def test_unreadable_metadata(site: Site) -> None:
    site.entry_points("no header\n", "torn")
    registry.refresh()
    (line,) = said(plugins.unreadable_metadata())
    assert str(site.folder) in line and "MissingSectionHeaderError" in line


def test_readers_that_disagree(site: Site) -> None:
    assert said(plugins.readers_agree()) == []
    # a module name with a dash: one reader drops it, the other keeps it
    site.entry_points("[flowzoo.tasks]\ndashed = not-a-module:SPEC\n", "dashed")
    registry.refresh()
    wrong = said(plugins.readers_agree())
    both = [point.value for point in registry.points() if point.name == "dashed"]
    assert (wrong == []) == (both == ["not-a-module:SPEC"])


@pytest.mark.parametrize("missing", ["ours", "theirs"])
def test_what_only_one_reader_finds_is_named(
    missing: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.plugin("seen", "seen")
    registry.refresh()
    if missing == "ours":
        monkeypatch.setattr(plugins, "discover", lambda path: ([], []))
    else:
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])
    finder = {"ours": "importlib.metadata", "theirs": "flowzoo"}[missing]
    line = next(line for line in said(plugins.readers_agree()) if "seen = " in line)
    assert f"only {finder} finds seen = fake_seen_seen:SPEC in flowzoo.tasks" in line


def test_a_distribution_found_twice(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old egg-info before the real thing hides it, as setuptools once left them."""
    other = Site(tmp_path / "later")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "later")])
    text = "[flowzoo.tasks]\nthing = fake_thing:SPEC\n"
    site.entry_points(text, "Same.One", egg=True)
    other.entry_points(text, "same-one")
    assert said(plugins.repeated_distributions()) == []
    (line,) = said(plugins.repeated_distributions(), "note")
    assert line.startswith("same-one: found twice, alike") and "egg-info (1.0) is used" in line
    site.entry_points(text, "newer", version="1.0", egg=True)
    other.entry_points(text, "newer", version="2.0")
    (line,) = said(plugins.repeated_distributions())
    assert "newer-1.0.egg-info (1.0) is used" in line and "(2.0) is not" in line


def test_a_folder_that_is_on_the_path_twice_is_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.plugin("single", "single")
    monkeypatch.setattr(sys, "path", [*sys.path, str(site.folder), f"{site.folder}/."])
    assert not any("single" in f.about for f in plugins.repeated_distributions())


def test_an_editable_install_that_is_stale(site: Site, tmp_path: Path) -> None:
    source = tmp_path / "the source"
    source.mkdir()
    project = source / "pyproject.toml"
    table = '[project.entry-points."flowzoo.tasks"]\nthing = "fake_mine_thing:SPEC"\n'
    project.write_text(table, "utf-8")
    site.plugin("mine", "thing")
    info = site.folder / "mine-1.0.dist-info"
    url = source.as_uri()
    (info / "direct_url.json").write_text(
        json.dumps({"url": url, "dir_info": {"editable": True}}), "utf-8"
    )
    assert said(plugins.stale_installs()) == []
    project.write_text(table + 'more = "fake_mine_thing:MORE"\n', "utf-8")
    (line,) = said(plugins.stale_installs())
    assert line.startswith("mine: more: pyproject.toml has changed") and str(source) in line
    project.unlink()
    assert "FileNotFoundError" in said(plugins.stale_installs())[0]
    (info / "direct_url.json").write_text(json.dumps({"url": url, "dir_info": {}}), "utf-8")
    assert said(plugins.stale_installs()) == []
