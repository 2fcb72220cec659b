"""The command line: what it prints, its exit codes, and how little it imports."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flowzoo
from flowzoo import registry
from flowzoo.cli import main
from flowzoo.plugin import KINDS

COMMAND = """
import typer
from typing import Annotated

def hello(name: str, times: Annotated[int, typer.Option(help="How often.")] = 1) -> None:
    '''Say hello.'''
    for _ in range(times):
        typer.echo(f"hello {name}")

def value() -> None:
    raise ValueError("first\\nsecond")

def bug() -> None:
    raise RuntimeError("a bug")

def interrupt() -> None:
    raise KeyboardInterrupt

def failed() -> None:
    raise typer.Exit(1)

def missing() -> None:
    open("/no/such/file")
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A distribution that brings subcommands."""
    names = ["hello", "value", "bug", "interrupt", "failed", "missing", "absent", "list"]
    specs = "".join(
        f"{n} = PluginSpec(kind='command', name='{n}', summary='Summary of {n}.', "
        f"target='fake_cli_target:{n}')\n"
        for n in names
    )
    (tmp_path / "fake_cli_target.py").write_text(COMMAND, "utf-8")
    (tmp_path / "fake_cli.py").write_text(
        "from flowzoo.plugin import PluginSpec\n" + specs, "utf-8"
    )
    info = tmp_path / "fake_cli-1.0.dist-info"
    info.mkdir()
    lines = [f"{n} = fake_cli:{n}" for n in names] + ["torn = fake_cli:torn"]
    (info / "entry_points.txt").write_text("[flowzoo.commands]\n" + "\n".join(lines), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    registry.refresh()
    yield
    for name in ("fake_cli", "fake_cli_target"):
        sys.modules.pop(name, None)
    registry.refresh()


def run(*arguments: str, code: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    command = ["-c", code] if code is not None else ["-m", "flowzoo.cli", *arguments]
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
    )


def test_list_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    keys = {"kind", "name", "state", "distribution", "version", "summary"}
    assert all(set(row) == keys for row in rows)
    vq = next(row for row in rows if (row["kind"], row["name"]) == ("mixture", "vq"))
    assert (vq["state"], vq["distribution"]) == ("ready", "flowzoo") and vq["summary"]
    assert {row["kind"] for row in rows} == set(KINDS)


def test_list_of_one_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--kind", "base-flow"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["kind", "name", "state", "distribution"]
    assert all(line.startswith("base-flow") for line in lines[1:]) and len(lines) > 5


def test_list_shows_why_and_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good-1.0.dist-info", tmp_path / "bad-1.0.dist-info"
    for folder in (good, bad):
        folder.mkdir()
    (good / "METADATA").write_text("Name: good\nVersion: 1.0\n", "utf-8")
    (good / "entry_points.txt").write_text("[flowzoo.tasks]\nodd = fake_not_there:SPEC\n", "utf-8")
    (bad / "entry_points.txt").write_text("no header\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    registry.refresh()
    assert main(["list", "--kind", "task"]) == 0
    out, err = capsys.readouterr()
    line = next(line for line in out.splitlines() if " odd " in line)
    assert "broken" in line and "No module named 'fake_not_there'" in line and "helix" in out
    assert "warning" in err and "MissingSectionHeaderError" in err


def test_info_shows_spec_options_and_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "base-flow", "maf"]) == 0
    out = capsys.readouterr().out
    for text in ("state:", "ready", "paper:", "file:", "maf.py", "Sequence[int]", "@inproceedings"):
        assert text in out
    features = next(line.split() for line in out.splitlines() if line.startswith("  features"))
    assert features == ["features", "int", "required"]


def test_info_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "task", "helix", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["capabilities"]["features"] == 3
    assert {"name": "noise", "type": "float", "default": "0.01", "required": False} in facts[
        "options"
    ]


def test_info_of_a_broken_plugin_shows_the_error(
    commands: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "command", "torn"]) == 0
    out = capsys.readouterr().out
    assert "broken" in out and "AttributeError" in out
    assert main(["info", "command", "absent"]) == 0
    assert "cannot be imported" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "mixture", "vqq"], 2, "did you mean 'vq'"),
        (["info", "mixtures", "vq"], 2, "did you mean 'mixture'"),
        (["list", "--kind", "baseflow"], 2, "did you mean 'base-flow'"),
        (["info", "mixture"], 2, "NAME"),
        (["lst"], 2, "No such command 'lst'"),
        (["list", "--jsn"], 2, "--jsn"),
    ],
)
def test_bad_usage(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert message in err and "Traceback" not in err and out == ""


def test_plugin_commands(commands: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "Summary of hello." in out and "(broken)" in out
    assert "fake_cli" in sys.modules and "fake_cli_target" not in sys.modules
    assert main(["hello", "you", "--times", "2"]) == 0
    assert capsys.readouterr().out == "hello you\nhello you\n"
    assert main(["hello", "--help"]) == 0
    out = capsys.readouterr().out
    assert "Say hello." in out and "How often." in out and "flowzoo hello" in out
    assert main(["hello"]) == 2
    assert "Missing argument" in capsys.readouterr().err


def test_a_plugin_cannot_replace_a_core_command(
    commands: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "--kind", "metric"]) == 0
    assert "log-likelihood" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "Summary of list." not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("value", 1, "flowzoo: error: first second\n"),
        ("missing", 1, "/no/such/file"),
        ("absent", 1, "cannot be imported"),
        ("torn", 1, "command 'torn' is broken"),
        ("failed", 1, ""),
        ("interrupt", 130, ""),
    ],
)
def test_exit_codes(
    commands: None, name: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name]) == code
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err and len(err.splitlines()) <= 1


def test_bugs_are_not_hidden(commands: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        main(["bug"])
    monkeypatch.setenv("FLOWZOO_TRACEBACK", "1")
    with pytest.raises(ValueError, match="first"):
        main(["value"])


def test_version_and_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == flowzoo.__version__
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert "list" in out + err


HEAVY = ("torch", "sklearn", "scipy", "matplotlib", "nflows", "normflows", "numpy", "zuko")


@pytest.mark.parametrize(
    "arguments", [["list"], ["list", "--json"], ["--help"], ["info", "--help"], ["--version"]]
)
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom flowzoo.cli import main\n"
        f"code = main({arguments!r})\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = run(code=code)
    assert done.returncode == 0, done.stderr


def test_importing_flowzoo_imports_nothing_heavy() -> None:
    code = (
        "import sys, flowzoo, flowzoo.registry, flowzoo.plugin\n"
        "flowzoo.entries()\n"
        f"sys.exit(str([name for name in {HEAVY!r} if name in sys.modules] or ''))"
    )
    done = run(code=code)
    assert (done.returncode, done.stderr.strip()) in ((0, ""), (1, "")), done.stderr


def test_list_is_quick() -> None:
    """By the processor's clock: other programs may keep the machine busy."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("list").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 1.0  # 0.2 s on an idle machine; importing torch alone takes 1.5 s


def test_a_closed_pipe_is_quiet() -> None:
    done = subprocess.run(
        f"{sys.executable} -m flowzoo.cli list | true",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_the_installed_script_runs() -> None:
    script = Path(sys.executable).parent / "flowzoo"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == flowzoo.__version__
