"""``flowzoo new-plugin``: what it writes, what it refuses, and that the result is green at once."""

from __future__ import annotations

import ast
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from flowzoo.cli import main
from flowzoo.cli.new_plugin import NewKind, plugin_files
from flowzoo.plugin import GROUPS
from outside import Outside

KINDS: tuple[NewKind, ...] = get_args(NewKind)


def name_of(kind: NewKind) -> str:
    return f"fresh-{kind}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_files(kind: NewKind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, module = name_of(kind), name_of(kind).replace("-", "_")
    assert main(["new-plugin", name, "--kind", kind, "--dir", str(tmp_path / "new")]) == 0
    root = tmp_path / "new" / name
    files = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
    assert files >= {
        "pyproject.toml", "README.md", "LICENSE", ".gitignore", "experiment.toml",
        f"{module}/__init__.py", f"{module}/plugin.py", f"{module}/py.typed",
        f"tests/test_{module}.py",
    } and len(files) == 10  # fmt: skip
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == name
    assert project["entry-points"] == {GROUPS[kind]: {name: f"{module}.plugin:PLUGIN"}}
    for file in files:
        assert "$" not in (root / file).read_text("utf-8"), file
    out = capsys.readouterr().out
    for step in (
        f"cd {shlex.quote(str(root))}",
        "pip install",
        f"flowzoo check {kind} {name}",
        "flowzoo bench",
    ):
        assert step in out


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_is_clean(kind: NewKind, tmp_path: Path) -> None:
    """Formatted, linted, imports only what an outsider may, and the spec stays light."""
    allowed = {"flowzoo", "torch", "__future__", "collections", "typing", "math"}
    for place, text in plugin_files(name_of(kind), kind).items():
        file = tmp_path / place
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
        if place.endswith(".py"):
            own = {place.partition("/")[0], f"fresh_{kind}".replace("-", "_")}
            names = imported(text)
            assert {name.partition(".")[0] for name in names} <= allowed | own, place
            if place.endswith("plugin.py"):
                assert names == {"flowzoo.plugin"}
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "."],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def imported(code: str) -> set[str]:
    """Dotted names of the modules some code imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_an_existing_folder_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my-flow").mkdir()
    command = ["new-plugin", "my-flow", "--kind", "base-flow", "--dir", str(tmp_path)]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "my-flow" in err and "does not exist yet" in err and len(err.splitlines()) == 1
    assert list((tmp_path / "my-flow").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("My_Flow", "base-flow", "try 'my-flow'"),
        ("2d-flow", "base-flow", "try 'd-flow'"),
        ("a/b", "base-flow", "try 'a-b'"),
        ("../up", "base-flow", "try 'up'"),
        ("..", "base-flow", "got '..'"),
        ("", "base-flow", "got ''"),
        ("a--b", "base-flow", "try 'a-b'"),
        ("flow-", "base-flow", "try 'flow'"),
        ("x" * 61, "base-flow", "at most 60"),
        ("étoile", "base-flow", "lower-case letters"),
        ("realnvp", "base-flow", "'realnvp' belongs to flowzoo; try 'my-realnvp'"),
        ("vq", "mixture", "belongs to flowzoo"),
        ("kmeans", "partitioner", "belongs to flowzoo"),
        ("helix", "task", "belongs to flowzoo"),
        ("class", "task", "means something in Python"),
        ("none", "task", "means something in Python"),
        ("value-error", "task", "means something in Python"),
        ("random", "task", "there is a module 'random'"),
        ("torch", "task", "there is a module 'torch'"),
        ("flowzoo-plugins", "task", "there is a module 'flowzoo_plugins'"),
        ("tests", "task", "there is a module 'tests'"),
        ("dist", "task", "'s .gitignore leaves /dist/ out of the repository and of the wheel"),
        ("runs", "mixture", "leaves /runs/ out of the repository and of the wheel; try 'my-runs'"),
        ("build", "base-flow", "try 'my-build'"),  # or hides the module that makes wheels
        ("winreg", "task", "there is a module 'winreg'"),  # of Python on Windows
    ],
)
def test_names_that_are_refused(
    name: str, kind: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new-plugin", "--kind", kind, "--dir", str(tmp_path), "--", name]) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("flowzoo: error: NAME: ")
    assert len(err.splitlines()) == 1 and list(tmp_path.iterdir()) == []


def test_a_name_is_taken_only_within_its_kind(tmp_path: Path) -> None:
    assert main(["new-plugin", "helix", "--kind", "base-flow", "--dir", str(tmp_path)]) == 0


def test_other_kinds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-plugin", "mine", "--kind", "metric", "--dir", str(tmp_path)]) == 2
    assert "partitioner" in capsys.readouterr().err


def test_names_that_clash_with_the_contracts_work() -> None:
    """A class called Mixture or Tensor hides nothing the code needs."""
    for name in ("mixture", "tensor", "task", "step", "any", "mapping"):
        for kind in KINDS:
            if name == "any" or name == "mapping":
                continue
            files = plugin_files(name, kind)
            (code,) = (t for p, t in files.items() if "class " in t and p.startswith(name))
            names = {
                alias.asname or alias.name
                for node in ast.walk(ast.parse(code))
                if isinstance(node, ast.Import | ast.ImportFrom)
                for alias in node.names
            }
            assert name.capitalize() not in names


# --- from nothing to a row in a table ------------------------------------------------------------


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outside, Path]:
    """The four new distributions, built and installed without network."""
    folder = tmp_path_factory.mktemp("new")
    for kind in KINDS:
        assert main(["new-plugin", name_of(kind), "--kind", kind, "--dir", str(folder)]) == 0
    sources = [folder / name_of(kind) for kind in KINDS]
    return Outside(sources, tmp_path_factory.mktemp("built")), folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_green_from_the_start(kind: NewKind, outside: tuple[Outside, Path]) -> None:
    installed, sources = outside
    name, folder = name_of(kind), sources / name_of(kind)
    assert installed.states(name, folder) == {(kind, name): "ready"}
    report = installed.check(kind, name, folder)
    ran = [check for check in report["checks"] if check["status"] == "passed"]
    assert report["ok"] and len(ran) >= 6
    # pytest's door to the same checks, but for those that start a process of their own
    slow = "not (import or meta-device or save-load)"
    tests = installed.python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", slow, folder=folder
    )
    assert " passed" in tests and "failed" not in tests
    rows = installed.bench("experiment.toml", "--replicates", "1", folder=folder)
    assert any(name in where for where in rows)
    assert all("test_log_likelihood" in metrics for metrics in rows.values()) and len(rows) == 3


def test_it_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom flowzoo.cli import main\n"
        f"code = main(['new-plugin', 'mine', '--kind', 'task', '--dir', {str(tmp_path)!r}])\n"
        "heavy = {'torch', 'numpy', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
