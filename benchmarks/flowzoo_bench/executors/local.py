"""Runs packs on this machine, one worker process each, in its own process group."""

from __future__ import annotations

import contextlib
import heapq
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from flowzoo.interfaces.executor import Executor, Job, Outcome
from flowzoo_bench.lifeline import LOG, PARENT_PIPE

_HEAD, _TAIL = 1 << 20, 1 << 16  # bytes of output kept from the start and from the end
_POLL = 0.02


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    lifeline: int  # our end of the pipe; closing it, or our death, ends the worker's group
    slot: int
    pump: _LogPump
    started: float = field(default_factory=time.monotonic)


class LocalExecutor(Executor):
    """``python -m flowzoo_bench.worker FOLDER`` in N slots.

    Each worker is a session of its own. When it ends, is late or the bench closes, the whole
    process group is killed, children it forked included. When the bench itself dies, even by
    SIGKILL, a pipe closes and a watcher in each group kills it.

    Args:
        device: ``cpu``: all slots share the cores evenly; ``cuda``: one GPU a slot.
        slots: how many workers at once; by default one per core, or one per GPU.

    Raises:
        ValueError: ``slots`` below 1, or ``cuda`` without a GPU.
    """

    def __init__(self, *, device: Literal["cpu", "cuda"] = "cpu", slots: int | None = None) -> None:
        cores = _cores()
        self._gpus = _visible_gpus() if device == "cuda" else []
        if device == "cuda" and not self._gpus:
            raise ValueError("device: expected a CUDA device, found none")
        self.slots = slots if slots is not None else len(self._gpus) or cores
        if self.slots < 1:
            raise ValueError(f"slots: expected at least 1, got {self.slots}")
        self._threads = max(1, cores // self.slots)
        self._waiting: list[tuple[float, int, Job]] = []
        self._count = 0
        self._running: dict[int, _Running] = {}
        self._outcomes: list[Outcome] = []
        self._closed = False

    def submit(self, job: Job) -> None:
        """Queue a job; the costliest waiting job starts first."""
        if self._closed:
            raise RuntimeError("the executor is closed")
        self._count += 1
        heapq.heappush(self._waiting, (-job.cost, self._count, job))

    def running(self) -> tuple[Job, ...]:
        """The jobs that run now."""
        return tuple(item.job for item in self._running.values())

    def pending(self) -> int:
        """How many jobs wait, run, or have an outcome nobody has taken."""
        return len(self._waiting) + len(self._running) + len(self._outcomes)

    def next_outcome(self, wait_seconds: float) -> Outcome | None:
        """The next outcome, or None when there is none within ``wait_seconds``."""
        deadline = time.monotonic() + wait_seconds
        while True:
            self._start_waiting()
            self._collect()
            if self._outcomes:
                return self._outcomes.pop(0)
            if time.monotonic() >= deadline or not self._running:
                return None
            time.sleep(_POLL)

    def close(self) -> None:
        """Kill every worker's process group and drop what waits."""
        self._closed = True
        self._waiting.clear()
        for slot in list(self._running):
            self._finish(slot, "crashed", "the bench was interrupted")

    def _start_waiting(self) -> None:
        for slot in range(self.slots):
            if slot not in self._running and self._waiting and not self._closed:
                job = heapq.heappop(self._waiting)[2]
                try:
                    self._running[slot] = self._start(job, slot)
                except OSError as error:
                    reason = f"the worker could not be started: {error}"
                    self._outcomes.append(Outcome(job, "crashed", reason, 0.0))

    def _start(self, job: Job, slot: int) -> _Running:
        theirs, ours = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "flowzoo_bench.worker", str(job.folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environment(slot, theirs),
                pass_fds=(theirs,),
                start_new_session=True,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        if process.stdout is None:
            raise OSError("no pipe for the worker's output")
        pump = _LogPump(process.stdout, job.folder / LOG)
        pump.start()
        return _Running(job, process, ours, slot, pump)

    def _environment(self, slot: int, pipe: int) -> dict[str, str]:
        threads = str(self._threads)
        environment = {
            **os.environ,
            PARENT_PIPE: str(pipe),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "MPLBACKEND": "Agg",
            "PYTHONUNBUFFERED": "1",
        }
        # threads that spin while they wait for one another cost a busy machine ten times the work
        environment.setdefault("OMP_WAIT_POLICY", "passive")
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
            environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        return environment

    def _collect(self) -> None:
        for slot, item in list(self._running.items()):
            code = item.process.poll()
            limit = item.job.timeout
            if code is not None:
                if code == 0:
                    self._finish(slot, "finished", "")
                else:
                    self._finish(slot, "crashed", _describe(code))
            elif limit is not None and time.monotonic() - item.started > limit:
                self._finish(slot, "timeout", f"no end after {limit:g} s")

    def _finish(
        self, slot: int, status: Literal["finished", "crashed", "timeout"], reason: str
    ) -> None:
        item = self._running.pop(slot)
        # the group may outlive its leader: the watcher in it keeps the number from being reused
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(item.process.pid, signal.SIGKILL)
        item.process.wait()
        os.close(item.lifeline)
        last = item.pump.stop()
        if status == "crashed" and last and not reason.startswith("killed by"):
            reason = f"{reason}: {last}"
        self._outcomes.append(Outcome(item.job, status, reason, time.monotonic() - item.started))


class _LogPump(threading.Thread):
    """Copies a worker's output to a file: all of the first megabyte, and the end."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        super().__init__(daemon=True)
        self._stream, self._path = stream, path
        self._tail = b""

    def run(self) -> None:
        """Read until the last writer is gone, whatever becomes of the file."""
        with contextlib.suppress(OSError, ValueError), self._path.open("ab", buffering=0) as file:
            self._copy(file)
        with contextlib.suppress(OSError, ValueError):  # a full disk must not stop the worker
            while self._read():
                pass

    def _read(self) -> bytes:
        chunk = os.read(self._stream.fileno(), 1 << 16)
        self._tail = (self._tail + chunk)[-_TAIL:]
        return chunk

    def _copy(self, file: IO[bytes]) -> None:
        room = max(0, _HEAD - file.tell())
        dropped = 0
        while chunk := self._read():
            if room:
                file.write(chunk[:room])
            dropped += max(0, len(chunk) - room)
            room = max(0, room - len(chunk))
        if dropped:
            kept = self._tail[-min(_TAIL, dropped) :]
            file.write(b"\n[... %d bytes left out ...]\n" % (dropped - len(kept)))
            file.write(kept)

    def stop(self) -> str:
        """Wait for the end of the output; the last line that says something."""
        self.join(timeout=5.0)
        if not self.is_alive():
            self._stream.close()
        lines = [line.strip() for line in self._tail.decode("utf-8", "replace").splitlines()]
        said = [line for line in lines if line]
        return said[-1][:300] if said else ""


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _visible_gpus() -> list[str]:
    """Identifiers of the GPUs this process may use, as ``CUDA_VISIBLE_DEVICES`` takes them."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named:
        return [item.strip() for item in named.split(",") if item.strip()]
    return [str(index) for index in range(torch.cuda.device_count())]
