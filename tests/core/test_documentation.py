"""What the documentation shows is run: the README's blocks and the docstrings' examples."""

from __future__ import annotations

import doctest
import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from flowzoo import catalogue

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PACKAGES = ("core/flowzoo", "plugins/flowzoo_plugins", "benchmarks/flowzoo_bench")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_python_blocks_run_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    before = dict(catalogue.registered)
    names: dict[str, Any] = {"__name__": "readme"}
    try:
        for code in blocks("python"):
            exec(compile(code, "README.md", "exec"), names)
    finally:
        catalogue.registered.clear()
        catalogue.registered.update(before)
    out = capsys.readouterr().out
    assert len(blocks("python")) >= 4
    assert out.startswith("ok ") and out.count(" nats\n") == 2
    (shown,) = re.findall(r"print\(error\)  # (.*)", README)
    start, _, end = shown.partition(", ...; ")
    line = next(line for line in out.splitlines() if line.startswith("mixture"))
    assert line.startswith(start) and line.endswith(end)
    assert names["samples"].shape == (1000, 3)


def test_the_experiment_of_the_readme_is_valid() -> None:
    from flowzoo_bench.experiment import parse_experiment

    experiment = parse_experiment(tomllib.loads(blocks("toml")[0]), "README")
    assert [method.label for method in experiment.methods] == ["vq-maf", "gmm"]


def test_links_and_folders_of_the_readme_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link
    for folder in re.findall(r"^\| `([^`]+)` \|", README, flags=re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


def modules_with_examples() -> list[str]:
    names = []
    for package in PACKAGES:
        folder = ROOT / package
        for file in sorted(folder.rglob("*.py")):
            if ">>>" in file.read_text("utf-8"):
                dotted = ".".join(file.relative_to(folder.parent).with_suffix("").parts)
                names.append(dotted.removesuffix(".__init__"))
    return names


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    before = dict(catalogue.registered)
    failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS, report=True)
    assert catalogue.registered == before
    assert tried > 0 and failed == 0
