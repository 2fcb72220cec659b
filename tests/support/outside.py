"""Distributions that are built and installed beside flowzoo, without network, for a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Outside:
    """The wheels of some distributions in an otherwise empty folder, which goes on PYTHONPATH.

    Args:
        sources: folders with a pyproject.toml.
        scratch: where to build and install.
    """

    def __init__(self, sources: Sequence[Path], scratch: Path) -> None:
        self.site, wheels = scratch / "site", scratch / "wheels"
        pip = [sys.executable, "-m", "pip"]
        quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
        _run([*pip, "wheel", *quiet, "--no-build-isolation", "-w", wheels, *sources], scratch)
        self.wheels = sorted(wheels.iterdir())
        _run([*pip, "install", *quiet, "--target", self.site, *self.wheels], scratch)

    def python(self, *arguments: str, folder: Path) -> str:
        """What Python prints in ``folder`` with the distributions on its path; it must end well."""
        return _run([sys.executable, *arguments], folder, PYTHONPATH=str(self.site))

    def flowzoo(self, *arguments: str, folder: Path) -> str:
        """What ``flowzoo`` prints; it must end well."""
        return self.python("-m", "flowzoo.cli", *arguments, folder=folder)

    def states(self, distribution: str, folder: Path) -> dict[tuple[str, str], str]:
        """(kind, name) -> state of the plugins a distribution brings."""
        rows = json.loads(self.flowzoo("list", "--json", folder=folder))
        return {
            (row["kind"], row["name"]): row["state"]
            for row in rows
            if row["distribution"] == distribution
        }

    def check(self, kind: str, name: str, folder: Path) -> dict[str, Any]:
        """The report of the conformance suite, which must be green."""
        arguments = ["-m", "flowzoo.cli", "check", kind, name, "--json"]
        done = _started([sys.executable, *arguments], folder, PYTHONPATH=str(self.site))
        (report,) = json.loads(done.stdout)
        good = ("passed", "skipped", "expected failure")
        wrong = [c for c in report["checks"] if c["status"] not in good]
        if done.returncode != 0 or wrong or not report["ok"]:
            raise AssertionError(f"flowzoo check ended with {done.returncode}: {wrong}")
        return dict(report)

    def bench(self, *arguments: str, folder: Path) -> dict[tuple[str, str], dict[str, float]]:
        """(task, method) -> metrics of an experiment, none of whose runs may fail."""
        self.flowzoo("bench", *arguments, "--out", "runs/out", "--no-figures", folder=folder)
        rows = {}
        for file in folder.glob("runs/out/records/*/record.json"):
            record = json.loads(file.read_text("utf-8"))
            if record["status"] != "ok":
                raise AssertionError(f"{record['status']}: {record['reason']}")
            where = (record["spec"]["task_label"], record["spec"]["method_label"])
            rows[where] = {value["name"]: value["value"] for value in record["metrics"]}
        return rows


def _run(command: list[Any], folder: Path, **env: str) -> str:
    done = _started(command, folder, **env)
    if done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _started(command: list[Any], folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    # pip's own settings may name files relative to another folder
    ours = ("FLOWZOO_", "PIP_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(
        command,
        cwd=folder,
        env={**clean, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        check=False,
    )
