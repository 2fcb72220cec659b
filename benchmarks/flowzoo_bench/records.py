"""The record of a run: schema 1, written by rename, never with NaN tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowzoo_bench.runspec import RunSpec

Status = Literal["ok", "diverged", "non_finite", "error", "timeout", "crashed", "skipped"]
FINAL: frozenset[str] = frozenset({"ok", "diverged", "non_finite"})
"""Statuses that are results; runs of any other are tried again by the next command."""

RECORD, SPEC, ARRAYS, WEIGHTS = (
    "record.json",
    "spec.json",
    "samples.safetensors",
    "model.safetensors",
)

NO_PICTURES = "no pictures"
"""Begins what a record says of arrays that could not be made."""


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MetricRow(_Schema):
    """One measured number; ``value`` is null when it was not finite."""

    name: str
    value: float | None
    unit: str = ""
    direction: Literal["max", "min", "none"] = "none"
    likelihood: str | None = None
    measure: str | None = None
    n: int | None = None
    stderr: float | None = None
    reference: float | None = None


class Point(_Schema):
    """One epoch of a learning curve; null where a number was not finite."""

    epoch: int
    step: int
    train: float | None
    valid: float | None
    seconds: float
    monitored: dict[str, float | None] = {}


class Curve(_Schema):
    """Learning curve of one stage, and what the model said of its own numbers."""

    stage: str
    epochs: int
    best_epoch: int
    best_valid: float | None
    points: tuple[Point, ...] = ()
    warnings: tuple[str, ...] = ()


class Clocks(_Schema):
    """Wall-clock seconds; ``amortised``: ``train_s`` is the pack's time divided by its members."""

    train_s: float | None = None
    eval_s: float | None = None
    total_s: float | None = None
    members: int = 1
    amortised: bool = False


class Memory(_Schema):
    """Peak bytes of the worker; ``shared``: with the other members of its pack."""

    shared: bool = False
    peak_rss: int | None = None
    peak_gpu: int | None = None


class DataInfo(_Schema):
    """Shape of the data; ``levels``, ``bits`` and ``shape`` (C, H, W) as of ``Task``."""

    features: int
    train: int
    valid: int
    test: int
    bin_width: float | None = None
    levels: int | None = None
    bits: int | None = None
    shape: tuple[int, int, int] | None = None
    oracle: bool = False


class Record(_Schema):
    """What became of one run."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    version: Literal[1] = Field(default=1, alias="schema")
    run_id: str
    status: Status
    reason: str = ""
    spec: RunSpec
    pack_id: str
    data: DataInfo | None = None
    metrics: tuple[MetricRow, ...] = ()
    curves: tuple[Curve, ...] = ()
    parameters: int | None = None
    clocks: Clocks = Clocks()
    memory: Memory = Memory()
    hardware: dict[str, Any] = Field(default_factory=dict)
    software: dict[str, Any] = Field(default_factory=dict)
    commit: str | None = None
    started: str | None = None
    ended: str | None = None
    log: str = ""


def finite(value: float | None) -> float | None:
    """The number, or None where it is not finite."""
    return value if value is not None and math.isfinite(value) else None


def record_json_schema() -> dict[str, Any]:
    """The JSON Schema of ``record.json``."""
    return Record.model_json_schema(by_alias=True)


def run_folder(out: Path, run_id: str) -> Path:
    """Where a run's files are."""
    return out / "records" / run_id


def to_bytes(model: BaseModel) -> bytes:
    """Canonical, readable JSON; refuses NaN."""
    data = model.model_dump(mode="json", by_alias=True)
    return (json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def write_record(out: Path, record: Record) -> None:
    """Write ``record.json`` by rename; its presence is completion."""
    from flowzoo.training.checkpoint import write_atomically

    write_atomically(run_folder(out, record.run_id) / RECORD, to_bytes(record))


def write_spec(out: Path, spec: RunSpec) -> None:
    """Write ``spec.json`` if it is not there with the same labels."""
    from flowzoo.training.checkpoint import write_atomically

    path = run_folder(out, spec.run_id) / SPEC
    data = to_bytes(spec)
    if not path.is_file() or path.read_bytes() != data:
        write_atomically(path, data)


def read_record(path: Path) -> Record:
    """A record.

    Raises:
        ValueError: unreadable, of another schema, or not what its run id says.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: unreadable record: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != 1:
        got = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{path}: expected record schema 1, got {got!r}")
    try:
        record = Record.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if record.run_id != record.spec.run_id:
        raise ValueError(
            f"{path}: expected the run id of its spec, {record.spec.run_id}, got {record.run_id}"
        )
    return record


def find_record(out: Path, run_id: str) -> Record | None:
    """The run's record, or None where there is none that can be read."""
    path = run_folder(out, run_id) / RECORD
    if not path.is_file():
        return None
    try:
        return read_record(path)
    except ValueError:
        return None


def is_final(out: Path, run_id: str) -> bool:
    """Whether the run has a result."""
    record = find_record(out, run_id)
    return record is not None and record.status in FINAL


def read_specs(out: Path) -> Iterator[RunSpec]:
    """The readable specs in a folder, by run id."""
    for path in sorted((out / "records").glob(f"*/{SPEC}")):
        try:
            yield RunSpec.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
