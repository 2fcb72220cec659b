"""SIGKILL of the bench at any moment, then the same command: nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEXT = """
name = "resume"
replicates = 3
tasks = ["blob"]
metrics = ["log-likelihood", "mean-norm"]
[[methods]]
label = "slow"
mixture = "shift"
options = { epochs = 20, pause = 0.07 }
[[methods]]
label = "flow"
mixture = "global"
[methods.options]
base_flow = { name = "maf", layers = 2, hidden = [8] }
training = { epochs = 4, patience = 2 }
"""
HEAD, _, LAST = TEXT.partition("[[methods]]")
FLOW = f"{HEAD}[[methods]]{LAST.partition('[[methods]]')[2]}"
"""The second method alone."""

CLOCKS = ("clocks", "memory", "started", "ended", "commit")


def load(out: Path) -> dict[str, dict[str, Any]]:
    """Records without clocks."""
    found = {}
    for path in sorted(out.glob("records/*/record.json")):
        record = json.loads(path.read_text("utf-8"))
        for name in CLOCKS:
            record.pop(name)
        for curve in record["curves"]:
            for point in curve["points"]:
                point.pop("seconds")
        found[path.parent.name] = record
    return found


def arrays(out: Path) -> dict[str, bytes]:
    paths = sorted(out.glob("records/*/samples.safetensors"))
    return {path.parent.name: path.read_bytes() for path in paths}


@pytest.mark.slow
def test_kills_and_resume(
    bench: Any, all_gone: Callable[[Path], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWZOO_CHECKPOINT_SECONDS", "0.3")
    path = bench.write(TEXT)
    arguments = ("bench", path, "--no-figures", "--slots", "2", "--out")
    whole = bench.folder / "whole"
    code, output = bench.run(*arguments, whole)
    assert code == 0, output
    expected = load(whole)
    assert len(expected) == 6

    # moments: before anything, while training (after a checkpoint), after some records
    def planned(out: Path) -> bool:
        return bool(list(out.glob("packs/*/pack.json")))

    def checkpointed(out: Path) -> bool:
        return bool(list(out.glob("packs/*/checkpoint.safetensors")))

    def recorded(out: Path) -> bool:
        return bool(list(out.glob("records/*/record.json")))

    out = bench.folder / "killed"
    kept: dict[Path, tuple[int, bytes]] = {}
    for moment in (planned, checkpointed, recorded):
        process = bench.start(*arguments, out)
        end = time.monotonic() + 60
        while not moment(out) and time.monotonic() < end and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert all_gone(out)
        for file, before in kept.items():  # no finished run is touched
            assert (file.stat().st_mtime_ns, file.read_bytes()) == before
        for file in out.glob("records/*/record.json"):
            json.loads(file.read_text("utf-8"))
            kept[file] = (file.stat().st_mtime_ns, file.read_bytes())
    assert kept
    code, output = bench.run(*arguments, out)
    assert code == 0, output
    for file, before in kept.items():
        assert (file.stat().st_mtime_ns, file.read_bytes()) == before
    assert load(out) == expected
    assert arrays(out) == arrays(whole)
    assert not list(out.glob("packs/*/*checkpoint*")) and not list(out.rglob("*.tmp"))
    # and once more: nothing to do
    code, output = bench.run(*arguments, out)
    assert code == 0
    assert "6 runs, 6 already done" in output


@pytest.mark.parametrize("outcome", [True, False])
def test_checkpoints_left_by_a_kill_at_the_end_are_dropped(
    bench: Any, faulty: Path, finished: Callable[[str, Path], Path], outcome: bool
) -> None:
    """The bench may die after the last record: before the outcome, or between it and the drop."""
    path = bench.write(FLOW)
    out = finished(FLOW, bench.folder / f"late-{outcome}")
    arguments = ("bench", path, "--no-figures", "--out", out)
    before = load(out)
    (folder,) = (file.parent for file in out.glob("packs/*/pack.json"))
    (record, *_) = out.glob("records/*")
    for name in (".checkpoint.safetensors.77.tmp", "checkpoint.safetensors", "progress.json"):
        (folder / name).write_bytes(b"left")
    (record / ".record.json.77.tmp").write_bytes(b'{"half": ')
    if not outcome:
        (folder / "outcome.json").unlink()
    code, output = bench.here(*arguments)  # no run is left to do
    assert code == 0, output
    assert load(out) == before
    assert not [file for file in folder.iterdir() if "checkpoint" in file.name]
    assert not (folder / "progress.json").exists()
    assert not list(out.rglob("*.tmp"))
    assert (folder / "outcome.json").exists()
