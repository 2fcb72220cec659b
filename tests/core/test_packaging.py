"""What is built and installed: wheel, source distribution, pins, and the files around them."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import flowzoo

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core/flowzoo", "plugins/flowzoo_plugins", "benchmarks/flowzoo_bench")


def source_files(folder: Path) -> Iterator[Path]:
    """Every file under a folder but what Python and the tools leave there."""
    for file in folder.rglob("*"):
        if file.is_file() and not any(
            part == "__pycache__" or part.endswith(".egg-info") for part in file.parts
        ):
            yield file


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel built from it, without any network."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
        text=True,
    )
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def test_the_wheel_holds_the_source_tree(built: tuple[Path, Path]) -> None:
    names = set(zipfile.ZipFile(built[1]).namelist())
    info = f"flowzoo-{flowzoo.__version__}.dist-info/"
    code = {name for name in names if not name.startswith(info)}
    expected = {
        file.relative_to((ROOT / package).parent).as_posix()
        for package in PACKAGES
        for file in source_files(ROOT / package)
    }
    assert code == expected
    for package in PACKAGES:
        assert f"{Path(package).name}/py.typed" in code
    assert any(re.fullmatch(r"flowzoo_bench/experiments/.+\.toml", name) for name in code)
    assert any(re.fullmatch(r"flowzoo_plugins/\w+/README\.md", name) for name in code)
    assert f"{info}licenses/LICENSE" in names


def test_the_source_distribution_holds_what_is_needed_to_test_it(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("core", "plugins", "benchmarks", "tests"):
        for file in source_files(ROOT / folder):
            assert file.relative_to(ROOT).as_posix() in names
    assert {"README.md", "LICENSE", "pyproject.toml", "Makefile", "constraints.txt"} <= names


def test_the_wheel_runs_on_its_own(built: tuple[Path, Path], tmp_path: Path) -> None:
    zipfile.ZipFile(built[1]).extractall(tmp_path)
    code = (
        "import flowzoo\n"
        "print(flowzoo.__file__)\n"
        "bad = [e for e in flowzoo.entries() if e.state != 'ready']\n"
        "print(bad, len(flowzoo.entries()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    file, states = done.stdout.splitlines()
    written = pyproject()["project"]["entry-points"]
    assert Path(file).is_relative_to(tmp_path)
    assert states == f"[] {sum(len(group) for group in written.values())}"


def test_metadata_of_the_wheel(built: tuple[Path, Path]) -> None:
    archive = zipfile.ZipFile(built[1])
    info = f"flowzoo-{flowzoo.__version__}.dist-info"
    metadata = archive.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "make bench" in metadata  # the README is the long description
    assert "flowzoo = flowzoo.cli:main" in archive.read(f"{info}/entry_points.txt").decode()


# --- pins --------------------------------------------------------------------------------------


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {_normal(name): version for name, version in pairs}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> None:
    """Everything ``name[extras]`` needs here, gathered into ``seen``."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    for text in importlib.metadata.requires(name) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            needed(_normal(requirement.name), frozenset(requirement.extras), seen)


def test_every_version_is_pinned_exactly() -> None:
    pinned = pins()
    assert all(re.fullmatch(r"\d+(\.\w+)*", version) for version in pinned.values())
    assert pinned["torch"] == "2.13.0"
    seen: set[tuple[str, frozenset[str]]] = set()
    needed("flowzoo", frozenset({"dev"}), seen)
    names = {name for name, _ in seen} - {"flowzoo"}
    of_cuda = {n for n in names if n.startswith(("nvidia-", "cuda-")) or n == "triton"}
    assert len(names) > 40
    assert sorted(names - of_cuda - set(pinned)) == []
    assert {"hatchling", "setuptools", "editables"} <= set(pinned)  # what builds from source


def test_the_pins_satisfy_the_declared_ranges() -> None:
    project, pinned = pyproject()["project"], pins()
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in (Requirement(text) for group in groups for text in group):
        if requirement.name != "flowzoo":
            version = pinned[_normal(requirement.name)]
            assert requirement.specifier.contains(version), f"{requirement} but {version}"


# --- the files around --------------------------------------------------------------------------


def test_the_interfaces_a_package_promises_to_type_checkers() -> None:
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file()


def test_gitignore_is_anchored() -> None:
    lines = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    loose = [pattern for pattern in patterns if not pattern.startswith("/")]
    assert loose == ["__pycache__/", "*.egg-info/"]


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
    assert [f"   {n}. " in text for n in range(1, 10)] == [True] * 9


def test_the_readme_opens_with_the_two_commands() -> None:
    start = "\n".join((ROOT / "README.md").read_text("utf-8").splitlines()[:12])
    assert "make bench" in start and "make test" in start
    assert "\n## Results" in (ROOT / "README.md").read_text("utf-8")


def test_make_runs_what_the_readme_says() -> None:
    dry = subprocess.run(
        ["make", "--dry-run", "bench", "test"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for step in ("flowzoo bench quick --out runs/quick", "ruff check", "ruff format --check"):
        assert step in dry
    assert "/mypy" in dry and "-m pytest" in dry


def test_an_old_python_is_refused_with_a_way_out(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    old = tmp_path / "old-python"
    code = "import sys; sys.version_info = (3, 9); sys.version = '3.9.1 (old)'"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}; $2"\n', "utf-8")
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "install", f"PYTHON={old}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Python >= 3.11, this is 3.9.1" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_calls_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text("utf-8")
    assert "set -euo pipefail" in text and text.rstrip().endswith("make test")
