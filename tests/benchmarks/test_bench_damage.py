"""Files that something damaged, and workers that something left behind."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowzoo_bench.records import ARRAYS, find_record, run_folder
from flowzoo_bench.runspec import PackSpec, Part, RunSpec
from flowzoo_bench.worker import CHECKPOINT, PackRun

Finished = Callable[[str, Path], Path]

TEXT = """
name = "damage"
replicates = 3
tasks = [{ name = "blob", label = "données" }]
metrics = ["log-likelihood", "mean-norm"]
[[methods]]
label = "slow μ"
mixture = "shift"
options = { epochs = 12, pause = 0.1 }
"""
QUICK = TEXT.replace("12, pause = 0.1", "3")


def numbers(out: Path) -> dict[str, Any]:
    """What was measured, and the pack it was measured in."""
    found = {}
    for path in sorted(out.glob("records/*/record.json")):
        record = json.loads(path.read_text("utf-8"))
        found[path.parent.name] = (record["status"], record["pack_id"], record["metrics"])
    return found


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.02)
    return False


# --- checkpoints ---------------------------------------------------------------------------------


def specs_of(count: int) -> list[RunSpec]:
    return [
        RunSpec(
            task=Part(name="blob"),
            method=Part(name="shift"),
            metrics=(Part(name="log-likelihood"),),
            replicate=replicate,
            num_samples=20,
            task_label="blob",
            method_label="shift",
        )
        for replicate in range(count)
    ]


@pytest.mark.parametrize(
    "data",
    [b"", bytes(5000), bytes(range(255, -1, -1)) * 20, b"\x40\0\0\0\0\0\0\0" + b"[" * 100_000],
    ids=["empty", "zeros", "noise", "nested"],
)
def test_an_unreadable_checkpoint_is_dropped_and_the_pack_starts_afresh(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    pack = PackSpec.of(specs_of(3))
    for name, before in (("whole", None), ("damaged", data)):
        folder = tmp_path / name / "packs" / pack.pack_id
        folder.mkdir(parents=True)
        if before is not None:
            (folder / CHECKPOINT).write_bytes(before)
            (folder / f"{CHECKPOINT}.1").write_bytes(before)
        assert PackRun(folder, pack).run() == 0
    said = capsys.readouterr().out.splitlines()
    dropped = [line for line in said if "starts afresh" in line]
    assert len(dropped) == 2 and all(CHECKPOINT in line for line in dropped)
    for spec in pack.runs:
        one, two = (find_record(tmp_path / name, spec.run_id) for name in ("whole", "damaged"))
        assert one is not None and two is not None and one.status == "ok"
        assert one.metrics == two.metrics and one.pack_id == two.pack_id
        arrays = [
            (run_folder(tmp_path / name, spec.run_id) / ARRAYS).read_bytes()
            for name in ("whole", "damaged")
        ]
        assert arrays[0] == arrays[1]


@pytest.mark.slow
def test_a_cut_checkpoint_costs_neither_the_pack_nor_its_numbers(
    bench: Any, all_gone: Callable[[Path], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWZOO_CHECKPOINT_SECONDS", "0.3")
    arguments = ("bench", bench.write(TEXT), "--no-figures", "--out")
    whole, out = bench.folder / "whole", bench.folder / "killed"
    code, output = bench.run(*arguments, whole)
    assert code == 0, output
    process = bench.start(*arguments, out)
    assert wait_for(lambda: list(out.glob(f"packs/*/{CHECKPOINT}")))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert all_gone(out)
    (checkpoint,) = out.glob(f"packs/*/{CHECKPOINT}")
    os.truncate(checkpoint, checkpoint.stat().st_size // 2)
    code, output = bench.run(*arguments, out)
    assert code == 0, output
    assert numbers(out) == numbers(whole) and len(numbers(out)) == 3
    (log,) = out.glob("packs/*/log.txt")
    assert "starts afresh" in log.read_text("utf-8")


# --- records -------------------------------------------------------------------------------------


def test_a_record_of_deeply_nested_json_is_redone(
    bench: Any, faulty: Path, finished: Finished
) -> None:
    out = finished(QUICK, bench.folder / "out")
    arguments = ("bench", bench.write(QUICK), "--no-figures", "--out", out)
    before = numbers(out)
    damaged = out / "records" / next(iter(before)) / "record.json"
    for name in (damaged, out / "experiment.json"):
        name.write_text("[" * 100_000, "utf-8")
    code, output = bench.here("report", out, "--no-figures")
    assert code == 0 and "2 of 3 runs ok" in output, output
    assert "unreadable record" in (out / "table.md").read_text("utf-8")
    code, output = bench.here(*arguments)
    assert code == 0 and "3 runs, 2 already done" in output, output
    assert numbers(out).keys() == before.keys()


def test_a_folder_in_the_place_of_a_file_is_named_before_anything_runs(
    bench: Any, faulty: Path, finished: Finished
) -> None:
    out = finished(QUICK, bench.folder / "out")
    arguments = ("bench", bench.write(QUICK), "--no-figures", "--out", out)
    for place in ("records/*/record.json", "packs/*/pack.json", "table.md"):
        path = min(out.glob(place))
        before = path.read_bytes()
        path.unlink()
        path.mkdir()
        code, output = bench.here(*arguments)
        assert code == 2 and "Traceback" not in output
        assert f"expected a file, got the folder {path}; remove it" in output
        path.rmdir()
        path.write_bytes(before)
    code, output = bench.here(*arguments)
    assert code == 0 and "3 runs, 3 already done" in output


# --- workers left behind -------------------------------------------------------------------------


def test_a_worker_that_waits_for_another_says_so(
    bench: Any, faulty: Path, finished: Finished
) -> None:
    out = finished(QUICK, bench.folder / "out")
    arguments = ("bench", bench.write(QUICK), "--no-figures", "--out", out)
    for path in (*out.glob("records/*/record.json"), *out.glob("packs/*/outcome.json")):
        path.unlink()
    (folder,) = out.glob("packs/*")
    with (folder / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(b"4321")
        lock.flush()
        process = bench.start(*arguments)
        said = "waits for process 4321, another worker in this pack"
        assert wait_for(lambda: said in (folder / "log.txt").read_text("utf-8"))
        time.sleep(1.0)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    (line,) = (line for line in output.splitlines() if said in line)  # once, in any locale
    assert line.endswith(f", 3 runs: {said}")
    assert (folder / ".lock").read_bytes() not in (b"", b"4321")


# --- locales -------------------------------------------------------------------------------------


def test_a_bench_and_its_report_in_a_locale_without_letters(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LC_ALL", "C"), ("PYTHONCOERCECLOCALE", "0"), ("PYTHONUTF8", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    out = bench.folder / "out"
    code, output = bench.run("bench", bench.write(QUICK), "--out", out)
    assert code == 0, output
    assert len(list(out.glob("packs/*"))) == 1  # nothing was tried again
    assert "données" in (out / "table.md").read_text("utf-8")
    (log,) = out.glob("packs/*/log.txt")
    assert "données slow μ 0: ok" in log.read_text("utf-8")
    code, output = bench.run("report", out)
    assert code == 0, output
