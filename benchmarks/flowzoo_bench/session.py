"""Carries planned runs to their records: folders, resume, retries, statuses."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from flowzoo.interfaces.executor import Executor, Job, Outcome
from flowzoo.training.checkpoint import write_atomically
from flowzoo_bench.display import Display
from flowzoo_bench.environment import git_commit
from flowzoo_bench.experiment import Experiment, UsageError
from flowzoo_bench.planner import Planned, make_packs
from flowzoo_bench.records import (
    ARRAYS,
    FINAL,
    RECORD,
    SPEC,
    WEIGHTS,
    Record,
    find_record,
    read_specs,
    run_folder,
    to_bytes,
    write_record,
    write_spec,
)
from flowzoo_bench.runspec import PackSpec, RunSpec, canonical

EXPERIMENT, PACKS, PACK, OUTCOME = "experiment.json", "packs", "pack.json", "outcome.json"
CHECKPOINT, PROGRESS = "checkpoint.safetensors", "progress.json"
_OURS = {
    ".": (EXPERIMENT, "table.csv", "table.md", "paired.csv", "spectra.csv"),
    "figures": ("*.png",),
    "records/*": (RECORD, SPEC, ARRAYS, WEIGHTS),
    "packs/*": (PACK, OUTCOME, f"{CHECKPOINT}*", PROGRESS),
}


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Make the folder and hold it: one bench at a time.

    Raises:
        UsageError: it cannot be made or written, or another bench holds it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("ab")
    except OSError as error:
        raise UsageError(
            f"--out: cannot write in {out}: {error.strerror or error}; expected a folder of yours"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"--out: another flowzoo bench is running in {out}; wait for it or choose another"
            ) from error
        yield


class Session:
    """One bench command on one claimed folder.

    A run with status ok, diverged or non_finite is done. A pack that was under way when a bench
    died is restored with its members and its checkpoint. A pack whose worker dies or is late is
    split, and its unfinished members are tried one by one, each with the whole time limit; a
    lone run that fails that way gets its row.

    Args:
        out: the claimed folder.
        experiment: the whole experiment, for the report.
        planned: the runs asked for.

    Raises:
        UsageError: the folder holds a run of the same task, method and replicate with other
            settings, or a folder where a file of ours belongs.
    """

    def __init__(self, out: Path, experiment: Experiment, planned: Sequence[Planned]) -> None:
        self.out, self.experiment, self.planned = out, experiment, list(planned)
        self.by_id = {item.spec.run_id: item for item in planned}
        self.packs: dict[str, PackSpec] = {}
        self._waiting: set[str] = set()  # jobs that were said to wait
        self._refuse_folders()
        self._refuse_mixture()

    def _refuse_folders(self) -> None:
        """A rename cannot replace a folder, and what is in it may be somebody's."""
        for folder, names in _OURS.items():
            for name in names:
                for path in self.out.glob(f"{folder}/{name}"):
                    if path.is_dir():
                        raise UsageError(
                            f"--out: expected a file, got the folder {path}; remove it"
                        )

    def _refuse_mixture(self) -> None:
        """One table, one comparison: no label twice, and equal terms for all rows of a task."""
        mine = {item.spec.key: item.spec for item in self.planned}
        tasks = {item.spec.task_label: item.spec for item in self.planned}
        for old in read_specs(self.out):
            if old.run_id in self.by_id:
                continue
            new = mine.get(old.key)
            if new is None and old.task_label in tasks:
                other = tasks[old.task_label]
                terms = _difference(old, other) & {"task", "root", "metrics", "precision"}
                new = other if terms else None
            if new is not None and new.run_id != old.run_id:
                named = ", ".join(sorted(_difference(old, new)))
                raise UsageError(
                    f"--out: {self.out} holds {old.method_label!r} on {old.task_label!r} with "
                    f"other settings ({named}); expected the same settings, or another folder"
                )

    def run(self, executor: Executor, display: Display) -> None:
        """Run what has no result yet; afterwards every planned run has a record."""
        self._sweep()
        self._write_plan()
        pending = [item for item in self.planned if not self._is_final(item.spec)]
        for item in pending:
            if item.skip:
                self._write_row(item.spec, "", "skipped", item.skip)
        pending = [item for item in pending if not item.skip]
        display.begin(len(self.planned), len(self.planned) - len(pending))
        for pack, cost in self._packs_for(pending):
            self._submit(executor, pack, cost)
        reported = {item.spec.run_id for item in self.planned if self._is_final(item.spec)}
        while executor.pending():
            outcome = executor.next_outcome(0.5)
            self._announce(display, reported, executor.running(), outcome)
            if outcome is not None:
                self._settle(executor, outcome)
                self._announce(display, reported, (), outcome)

    def tally(self) -> dict[str, int]:
        """How many of the planned runs have each status; ``pending`` for none."""
        counts: dict[str, int] = {}
        for item in self.planned:
            record = find_record(self.out, item.spec.run_id)
            status = "pending" if record is None else record.status
            counts[status] = counts.get(status, 0) + 1
        return counts

    def _sweep(self) -> None:
        """Drop what a kill left between writing a file of ours and its rename."""
        for folder, names in _OURS.items():
            for name in names:
                for path in self.out.glob(f"{folder}/.{name}.*tmp"):
                    path.unlink(missing_ok=True)

    def _write_plan(self) -> None:
        for item in self.planned:
            write_spec(self.out, item.spec)
        names = {_settings(item.spec): item.spec for item in self.planned}
        for old in list(read_specs(self.out)):  # a new label is for all replicates
            new = names.get(_settings(old))
            if new is not None and old.run_id not in self.by_id:
                labels = {"task_label": new.task_label, "method_label": new.method_label}
                write_spec(self.out, old.model_copy(update=labels))
        write_atomically(self.out / EXPERIMENT, to_bytes(self.experiment))

    def _is_final(self, spec: RunSpec) -> bool:
        record = find_record(self.out, spec.run_id)
        return record is not None and record.status in FINAL

    def _packs_for(self, pending: Iterable[Planned]) -> list[tuple[PackSpec, float]]:
        """Packs that were under way, as they were, then new ones for the rest."""
        left = {item.spec.run_id: item for item in pending}
        packs: list[tuple[PackSpec, float]] = []
        for path in sorted((self.out / PACKS).glob(f"*/{PACK}")):
            if (path.parent / OUTCOME).exists():
                _drop_checkpoints(path.parent)  # the bench may have died between the two
                continue
            try:
                pack = PackSpec.model_validate_json(path.read_bytes())
            except (OSError, ValueError):
                continue
            ids = [spec.run_id for spec in pack.runs]
            wanted = [left.pop(run_id) for run_id in ids if run_id in left]
            if wanted:
                packs.append((pack, sum(item.cost for item in wanted)))
            elif all(self._is_final(spec) for spec in pack.runs):
                self._close(path.parent, "finished", "")  # the bench died after the last record
        return packs + make_packs(left.values(), self.experiment.pack_size, git_commit())

    def _submit(self, executor: Executor, pack: PackSpec, cost: float) -> None:
        folder = self.out / PACKS / pack.pack_id
        data = to_bytes(pack)
        if not (folder / PACK).is_file() or (folder / PACK).read_bytes() != data:
            write_atomically(folder / PACK, data)
        for spec in pack.runs:
            if not self._is_final(spec):  # the row of an earlier failure makes way
                (run_folder(self.out, spec.run_id) / RECORD).unlink(missing_ok=True)
        for name in (OUTCOME, PROGRESS):
            (folder / name).unlink(missing_ok=True)
        self.packs[pack.pack_id] = pack
        executor.submit(Job(pack.pack_id, folder, self.experiment.timeout, cost))

    def _settle(self, executor: Executor, outcome: Outcome) -> None:
        """Give every member of an ended pack its row, or another try alone."""
        pack = self.packs[outcome.job.id]
        missing = [spec for spec in pack.runs if find_record(self.out, spec.run_id) is None]
        reason = outcome.reason or "the worker ended without a record"
        if missing and len(pack.runs) == 1:
            status = "timeout" if outcome.status == "timeout" else "crashed"
            self._write_row(missing[0], pack.pack_id, status, reason)
        self._close(outcome.job.folder, outcome.status, outcome.reason, outcome.seconds)
        if missing and len(pack.runs) > 1:
            cost = outcome.job.cost / len(pack.runs)
            for spec in missing:
                self._submit(executor, PackSpec.of([spec], pack.commit), cost)

    def _close(self, folder: Path, status: str, reason: str, seconds: float | None = None) -> None:
        """Mark the pack as over, then drop its checkpoints; no seconds: nobody saw it end."""
        rounded = None if seconds is None else round(seconds, 3)
        data = {"status": status, "reason": reason, "seconds": rounded}
        write_atomically(folder / OUTCOME, json.dumps(data, indent=1).encode())
        _drop_checkpoints(folder)

    def _write_row(self, spec: RunSpec, pack_id: str, status: str, reason: str) -> None:
        record = Record.model_validate(
            {
                "run_id": spec.run_id,
                "status": status,
                "reason": reason,
                "spec": spec,
                "pack_id": pack_id,
                "commit": git_commit(),
                "log": f"packs/{pack_id}/log.txt" if pack_id else "",
            }
        )
        write_record(self.out, record)

    def _announce(
        self,
        display: Display,
        reported: set[str],
        running: Sequence[Job],
        outcome: Outcome | None,
    ) -> None:
        jobs = [*running, *([] if outcome is None else [outcome.job])]
        for job in jobs:
            for spec in self.packs[job.id].runs:
                if spec.run_id in reported or spec.run_id not in self.by_id:
                    continue
                record = find_record(self.out, spec.run_id)
                if record is not None:
                    reported.add(spec.run_id)
                    display.ended(record)
        states = [(self._title(job), _progress(job), job.id) for job in running]
        for title, state, job_id in states:
            waits = state.get("waits")
            if waits and job_id not in self._waiting:
                self._waiting.add(job_id)
                display.note(f"{title}: {waits}")
        display.running([(title, _shown(state)) for title, state, _ in states])

    def _title(self, job: Job) -> str:
        runs = self.packs[job.id].runs
        tasks = list(dict.fromkeys(spec.task_label for spec in runs))
        where = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
        return f"{runs[0].method_label} on {where}, {len(runs)} run{'s' * (len(runs) > 1)}"


def _drop_checkpoints(folder: Path) -> None:
    for path in folder.glob(f"{CHECKPOINT}*"):
        path.unlink(missing_ok=True)
    (folder / PROGRESS).unlink(missing_ok=True)


def _progress(job: Job) -> dict[str, object]:
    """What the job's worker last said of itself; empty for nothing."""
    try:
        data = json.loads((job.folder / PROGRESS).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _shown(state: dict[str, object]) -> str:
    if not {"stage", "step", "total"} <= state.keys():
        return ""
    return f"{state['stage']} {state['step']}/{state['total']}"


def _settings(spec: RunSpec) -> str:
    """What the replicates of a method on a task have in common, but for labels."""
    shared = {"replicate", "task_label", "method_label"}
    return canonical(spec.model_dump(mode="json", exclude=shared))


def _difference(old: RunSpec, new: RunSpec) -> set[str]:
    """Names of the top-level settings that differ."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    return {name for name in after if before[name] != after[name]}
