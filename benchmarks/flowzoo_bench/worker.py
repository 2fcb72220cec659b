"""Trains and measures one pack: ``python -m flowzoo_bench.worker DIR/packs/PACK_ID``.

Exit codes: 0: every member has a record; 3: the pack failed as a whole (its members should be
tried one by one); 2: no readable pack. The environment variable ``FLOWZOO_CHECKPOINT_SECONDS``
(30) sets how much training a kill can cost.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import sys
import time
import traceback
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowzoo_bench.lifeline import LOG, PARENT_PIPE, tie_to_parent
from flowzoo_bench.records import Record, is_final, write_record
from flowzoo_bench.runspec import PackSpec, RunSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowzoo.training import FitResult
    from flowzoo.training.trainer import TrainingEvent
    from flowzoo_bench.member import Member

PACK, CHECKPOINT, PROGRESS = "pack.json", "checkpoint.safetensors", "progress.json"
LOCK = ".lock"  # held by the worker in the pack, whose process id it holds
PACK_FAILED = 3
CHECKPOINT_SECONDS = float(os.environ.get("FLOWZOO_CHECKPOINT_SECONDS", "30"))


def main(arguments: list[str] | None = None) -> int:
    """Run the pack in the folder named on the command line."""
    tie_to_parent(PARENT_PIPE)  # first: before anything heavy, before any thread
    for stream in (sys.stdout, sys.stderr):  # a label the locale lacks must not cost a pack
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        print("usage: python -m flowzoo_bench.worker DIR/packs/PACK_ID", file=sys.stderr)
        return 2
    folder = Path(given[0])
    try:
        pack = PackSpec.model_validate_json((folder / PACK).read_bytes())
    except (OSError, ValueError) as error:
        text = str(error).splitlines()[0]
        print(f"worker: cannot read {folder / PACK}: {text}", file=sys.stderr)
        return 2
    import torch

    from flowzoo_bench.allocator import keep_freed_memory

    keep_freed_memory()
    torch.set_num_interop_threads(1)
    with _locked(folder):
        return PackRun(folder, pack).run()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other worker is in the pack: one of a killed bench may still be dying."""
    with (folder / LOCK).open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(20).decode("ascii", "replace") or "unknown"
            waits = f"waits for process {holder}, another worker in this pack"
            print(waits, flush=True)
            _show(folder, {"waits": waits})
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        yield


def _show(folder: Path, data: dict[str, Any]) -> None:
    """Tell the bench where the pack stands; may be lost in a kill."""
    temporary = folder / f".{PROGRESS}.tmp"
    temporary.write_text(json.dumps(data), "utf-8")
    os.replace(temporary, folder / PROGRESS)


class PackRun:
    """One pass over a pack; members that have a result are trained along but not measured again."""

    def __init__(self, folder: Path, pack: PackSpec) -> None:
        self.folder, self.pack = folder, pack
        self.out = folder.parent.parent
        self.members: list[Member] = []
        self.started = time.perf_counter()
        self._shown_at = 0.0

    def run(self) -> int:
        """Train and measure; see the module for the exit codes."""
        import torch

        from flowzoo.training import TrainingData, train_pack

        self._warm_up(torch.device(self.pack.runs[0].device))
        for spec in self.pack.runs:
            self._prepare(spec)
        if not self.members:
            return 0
        self._drop_unreadable_checkpoints()
        try:
            train_pack(
                [member.model for member in self.members],
                [TrainingData(member.train, member.valid) for member in self.members],
                [member.spec.seed_for("train") for member in self.members],
                device=self.pack.runs[0].device,
                checkpoint=self.folder / CHECKPOINT,
                checkpoint_seconds=CHECKPOINT_SECONDS,
                progress=self._progress,
                on_member_end=self._member_end,
            )
        except Exception as error:
            traceback.print_exc()
            if len(self.members) > 1:
                return PACK_FAILED
            self._error(self.members[0].spec, error)
        return 0

    def _warm_up(self, device: Any) -> None:
        """Start the device and the thread pool before any clock runs."""
        import torch

        product = torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)
        float(product.sum())

    def _prepare(self, spec: RunSpec) -> None:
        from flowzoo_bench.member import Member

        try:
            self.members.append(Member(spec))
        except Exception as error:
            traceback.print_exc()
            self._error(spec, error)

    def _drop_unreadable_checkpoints(self) -> None:
        """A damaged file costs the training in it, neither the pack nor its numbers."""
        from flowzoo.training.checkpoint import load_checkpoint

        for path in sorted(self.folder.glob(f"{CHECKPOINT}*")):
            try:
                load_checkpoint(path)
            except Exception as error:  # whatever a reader makes of bytes that are not its own
                path.unlink()
                print(f"{path.name} is dropped, its training starts afresh: {error!r:.300}")

    def _member_end(self, index: int, fit: FitResult) -> None:
        member = self.members[index]
        if is_final(self.out, member.spec.run_id):
            return
        began = _now()
        try:
            fields = member.measure(fit, self.out)
        except Exception as error:
            traceback.print_exc()
            self._error(member.spec, error, **member.about(fit))
            return
        self._write(member.spec, started=began, **fields)

    def _error(self, spec: RunSpec, error: Exception, **fields: Any) -> None:
        from flowzoo_bench.member import one_line

        self._write(spec, **{**fields, "status": "error", "reason": one_line(error)})

    def _write(self, spec: RunSpec, **fields: Any) -> None:
        from flowzoo_bench import environment

        if is_final(self.out, spec.run_id):
            return
        rss, gpu = environment.peak_memory(spec.device)
        clocks = fields.pop("clocks", {})
        record = Record.model_validate(
            {
                "run_id": spec.run_id,
                "spec": spec,
                "pack_id": self.pack.pack_id,
                "clocks": {**clocks, "total_s": time.perf_counter() - self.started},
                "memory": {
                    "peak_rss": rss,
                    "peak_gpu": gpu,
                    "shared": len(self.pack.runs) > 1,
                },
                "hardware": environment.hardware(spec.device),
                "software": environment.software(),
                "commit": self.pack.commit,
                "ended": _now(),
                "log": f"packs/{self.pack.pack_id}/{LOG}",
                **fields,
            }
        )
        write_record(self.out, record)
        print(f"{spec.task_label} {spec.method_label} {spec.replicate}: {record.status}")

    def _progress(self, event: TrainingEvent) -> None:
        """Show where training stands, at most once a second."""
        if time.monotonic() - self._shown_at < 1.0:
            return
        self._shown_at = time.monotonic()
        _show(self.folder, {"stage": event.stage, "step": event.step, "total": event.total_steps})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main())
