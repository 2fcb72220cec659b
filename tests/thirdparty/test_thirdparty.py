"""Somebody else's distribution, built, installed, listed, checked and benchmarked."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from pathlib import Path

import pytest

from outside import Outside

SOURCE = Path(__file__).parent / "flowzoo-sinh"
PLUGINS = {
    ("base-flow", "sinh-arcsinh"),
    ("partitioner", "slabs"),
    ("mixture", "sinh-atlas"),
    ("task", "sinh-normal"),
    ("metric", "quantile-distance"),
}
CHECKED = sorted(plugin for plugin in PLUGINS if plugin[0] != "metric")


@pytest.fixture(scope="module")
def sinh(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    scratch = tmp_path_factory.mktemp("sinh")
    copy = shutil.copytree(
        SOURCE, scratch / "flowzoo-sinh", ignore=shutil.ignore_patterns("__pycache__")
    )
    return Outside([copy], scratch)


def test_it_knows_only_what_is_public() -> None:
    allowed = {"flowzoo", "torch", "flowzoo_sinh", "pytest", *sys.stdlib_module_names}
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) == 8
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] in allowed, f"{file.name} imports {name}"
                assert not any(part.startswith("_") for part in name.split(".")[1:]), name


def test_nothing_here_knows_of_it() -> None:
    root = SOURCE.parents[2]
    for package in ("core", "plugins", "benchmarks"):
        for file in (root / package).rglob("*.py"):
            text = file.read_text("utf-8")
            assert "sinh-arcsinh" not in text and "flowzoo_sinh" not in text


def test_list_and_info(sinh: Outside, tmp_path: Path) -> None:
    assert sinh.states("flowzoo-sinh", tmp_path) == dict.fromkeys(PLUGINS, "ready")
    facts = json.loads(sinh.flowzoo("info", "mixture", "sinh-atlas", "--json", folder=tmp_path))
    assert (facts["distribution"], facts["version"]) == ("flowzoo-sinh", "1.2.0")
    assert Path(facts["file"]).is_relative_to(sinh.site)
    assert [option["name"] for option in facts["options"]] == [
        "features", "partitioner", "base_flow", "training"
    ]  # fmt: skip


def test_cite_and_doctor(sinh: Outside, tmp_path: Path) -> None:
    cited = sinh.flowzoo("cite", "sinh-atlas", "vq", "sinh-arcsinh", folder=tmp_path)
    assert cited.count("@") == 2 and cited.index("jones2009sinh") < cited.index("sidheekh2022")
    found = json.loads(sinh.flowzoo("doctor", "--json", folder=tmp_path))
    assert [finding for finding in found if finding["level"] == "problem"] == []


def test_specs_are_read_without_torch(sinh: Outside, tmp_path: Path) -> None:
    code = (
        "import sys, flowzoo\n"
        "states = {e.name: e.state for e in flowzoo.entries()}\n"
        "print(states['slabs'], 'torch' in sys.modules)"
    )
    assert sinh.python("-c", code, folder=tmp_path).split() == ["ready", "False"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), CHECKED)
def test_check(kind: str, name: str, sinh: Outside, tmp_path: Path) -> None:
    report = sinh.check(kind, name, tmp_path)
    assert report["ok"]
    assert sum(check["status"] == "passed" for check in report["checks"]) >= 6


@pytest.mark.slow
def test_its_own_tests(sinh: Outside, tmp_path: Path) -> None:
    shutil.copytree(SOURCE / "tests", tmp_path / "tests")
    alone = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not conformance"]
    assert "2 passed" in sinh.python(*alone, folder=tmp_path)
    every = sinh.python("-m", "pytest", "-q", "--collect-only", folder=tmp_path)
    for kind, name in CHECKED:
        assert f"{kind}-{name}-" in every  # the same checks, by pytest's door


@pytest.mark.slow
def test_bench(sinh: Outside, tmp_path: Path) -> None:
    rows = sinh.bench(str(SOURCE / "experiment.toml"), folder=tmp_path)
    methods = ("one flow", "atlas", "vq", "gaussian")
    assert set(rows) == {("sinh-normal", method) for method in methods}
    for metrics in rows.values():
        assert metrics["quantile_distance"] > 0 and metrics["test_non_finite_rows"] == 0
        assert metrics["gap_to_oracle"] > -0.1
    gaussian = rows["sinh-normal", "gaussian"]["test_log_likelihood"]
    for method in ("one flow", "atlas"):
        assert rows["sinh-normal", method]["test_log_likelihood"] > gaussian
