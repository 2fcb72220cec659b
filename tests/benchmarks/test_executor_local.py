"""The local executor: one outcome a job, nothing left behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowzoo.interfaces.executor import Executor, Job, Outcome
from flowzoo_bench.executors import local
from flowzoo_bench.executors.local import LocalExecutor
from flowzoo_bench.lifeline import LOG

# stands in for the worker: the job's folder holds what it should do
_WORKER = """
import os, signal, sys, time
from pathlib import Path
from flowzoo_bench.lifeline import tie_to_parent
tie_to_parent("FLOWZOO_PARENT_PIPE")
folder = Path(sys.argv[1])
(folder / "pid").write_text(str(os.getpid()), "utf-8")
exec((folder / "script.py").read_text("utf-8"))
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let the executor start the stand-in."""
    (tmp_path / "stand_in.py").write_text(_WORKER, "utf-8")
    real = local.subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        assert command[:3] == [sys.executable, "-m", "flowzoo_bench.worker"]
        return real([sys.executable, str(tmp_path / "stand_in.py"), *command[3:]], **options)

    monkeypatch.setattr(local.subprocess, "Popen", popen)
    yield tmp_path


def job(folder: Path, name: str, script: str, timeout: float | None = None, cost: float = 0) -> Job:
    place = folder / name
    place.mkdir()
    (place / "script.py").write_text(script, "utf-8")
    return Job(name, place, timeout, cost)


def drain(executor: Executor, seconds: float = 30.0) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    end = time.monotonic() + seconds
    while executor.pending() and time.monotonic() < end:
        outcome = executor.next_outcome(0.5)
        if outcome is not None:
            outcomes[outcome.job.id] = outcome
    return outcomes


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


FORK = """
child = os.fork()
if child == 0:
    time.sleep(1000)
(folder / "half").write_text(str(child), "utf-8")
os.replace(folder / "half", folder / "child")
"""


def test_every_end_has_its_outcome(jobs: Path) -> None:
    with LocalExecutor(slots=3) as executor:
        executor.submit(job(jobs, "good", "print('fine')"))
        executor.submit(job(jobs, "raises", "raise RuntimeError('oh no')"))
        executor.submit(job(jobs, "killed", "os.kill(os.getpid(), signal.SIGKILL)"))
        executor.submit(job(jobs, "late", FORK + "time.sleep(1000)", timeout=2.0))
        executor.submit(job(jobs, "forks", FORK))
        outcomes = drain(executor)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "good": "finished",
        "raises": "crashed",
        "killed": "crashed",
        "late": "timeout",
        "forks": "finished",
    }
    assert outcomes["raises"].reason == "exit code 1: RuntimeError: oh no"
    assert outcomes["killed"].reason == "killed by SIGKILL"
    assert outcomes["late"].reason == "no end after 2 s"
    assert "fine" in (jobs / "good" / LOG).read_text("utf-8")
    for name in ("late", "forks"):
        assert gone(int((jobs / name / "child").read_text("utf-8")))


def test_output_is_capped_and_its_end_kept(jobs: Path) -> None:
    with LocalExecutor(slots=1) as executor:
        script = "for i in range(40_000): print('y' * 100)\nprint('the end')"
        executor.submit(job(jobs, "flood", script))
        assert drain(executor)["flood"].status == "finished"
    text = (jobs / "flood" / LOG).read_bytes()
    assert len(text) < 1_200_000
    assert b"bytes left out" in text
    assert text.rstrip().endswith(b"the end")


@pytest.mark.parametrize("broken", ["full", "folder"])
def test_a_log_that_cannot_be_written_holds_up_nothing(jobs: Path, broken: str) -> None:
    script = "for i in range(20_000): print('y' * 100)\nraise RuntimeError('after all that')"
    flood = job(jobs, "flood", script)
    if broken == "full":
        (flood.folder / LOG).symlink_to("/dev/full")
    else:
        (flood.folder / LOG).mkdir()
    with LocalExecutor(slots=1) as executor:
        executor.submit(flood)
        outcome = drain(executor)["flood"]
    assert outcome.reason == "exit code 1: RuntimeError: after all that"


def test_the_costliest_job_starts_first(jobs: Path) -> None:
    with LocalExecutor(slots=1) as executor:
        for name, cost in (("small", 1.0), ("large", 3.0), ("middle", 2.0)):
            executor.submit(job(jobs, name, "pass", cost=cost))
        assert list(drain(executor)) == ["large", "middle", "small"]


def test_closing_kills_and_drops(jobs: Path) -> None:
    executor = LocalExecutor(slots=1)
    executor.submit(job(jobs, "long", FORK + "time.sleep(1000)", cost=1.0))
    executor.submit(job(jobs, "waiting", "pass"))
    while not (jobs / "long" / "child").exists():
        executor.next_outcome(0.05)
    executor.close()
    assert gone(int((jobs / "long" / "pid").read_text("utf-8")))
    assert gone(int((jobs / "long" / "child").read_text("utf-8")))
    assert not (jobs / "waiting" / "pid").exists()
    with pytest.raises(RuntimeError, match="closed"):
        executor.submit(Job("x", jobs))


def test_workers_share_the_cores(jobs: Path) -> None:
    with LocalExecutor(slots=1) as executor:
        executor.submit(job(jobs, "env", "print(os.environ['OMP_NUM_THREADS'])"))
        drain(executor)
    cores = len(os.sched_getaffinity(0))
    assert (jobs / "env" / LOG).read_text("utf-8").strip() == str(cores)


def test_workers_threads_do_not_spin_unless_told_to(
    jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = "print(os.environ['OMP_WAIT_POLICY'])"
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for number, (given, expected) in enumerate(((None, "passive"), ("active", "active"))):
        if given is not None:
            monkeypatch.setenv("OMP_WAIT_POLICY", given)
        with LocalExecutor(slots=1) as executor:
            executor.submit(job(jobs, f"wait{number}", show))
            drain(executor)
        assert (jobs / f"wait{number}" / LOG).read_text("utf-8").strip() == expected


def test_a_worker_that_cannot_start_is_an_outcome(jobs: Path) -> None:
    with LocalExecutor(slots=1) as executor:
        executor.submit(Job("nowhere", jobs / "nowhere"))
        assert drain(executor)["nowhere"].status == "crashed"


def test_when_the_parent_is_killed_the_group_goes(jobs: Path, tmp_path: Path) -> None:
    place = job(jobs, "orphan", FORK + "time.sleep(1000)").folder
    # a parent that starts the stand-in as the executor does, and is then killed
    parent = f"""
import subprocess, sys, time
from flowzoo_bench.executors import local
from flowzoo.interfaces.executor import Job
from pathlib import Path
real = local.subprocess.Popen
local.subprocess.Popen = lambda command, **o: real(
    [sys.executable, {str(tmp_path / "stand_in.py")!r}, *command[3:]], **o)
executor = local.LocalExecutor(slots=1)
executor.submit(Job("orphan", Path({str(place)!r})))
while True:
    executor.next_outcome(1.0)
"""
    real = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", parent])
    end = time.monotonic() + 20
    while not (place / "child").exists() and time.monotonic() < end:
        time.sleep(0.05)
    worker, child = (int((place / name).read_text("utf-8")) for name in ("pid", "child"))
    assert alive(worker) and alive(child)
    os.kill(real, signal.SIGKILL)
    os.waitpid(real, 0)
    assert gone(worker)
    assert gone(child)


@pytest.mark.parametrize("slots", [0, -1])
def test_slots_are_checked(slots: int) -> None:
    with pytest.raises(ValueError, match="slots: expected at least 1"):
        LocalExecutor(slots=slots)


def test_cuda_without_a_gpu_is_refused() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match="CUDA"):
        LocalExecutor(device="cuda")
