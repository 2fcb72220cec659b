"""Records hold what they say, are never half written, and never hold NaN."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flowzoo_bench.records import (
    RECORD,
    Record,
    find_record,
    is_final,
    read_record,
    record_json_schema,
    run_folder,
    write_record,
    write_spec,
)
from flowzoo_bench.runspec import Part, RunSpec

SPEC = RunSpec(task=Part(name="t"), method=Part(name="m"), task_label="t", method_label="m")


def record(**changes: Any) -> Record:
    given: dict[str, Any] = {
        "run_id": SPEC.run_id,
        "status": "ok",
        "spec": SPEC,
        "pack_id": "p",
        "metrics": [{"name": "a", "value": 0.1 + 0.2, "stderr": None}],
        "curves": [
            {
                "stage": "s",
                "epochs": 1,
                "best_epoch": 1,
                "best_valid": 0.5,
                "points": [{"epoch": 1, "step": 2, "train": None, "valid": 0.5, "seconds": 0.1}],
            }
        ],
    }
    return Record.model_validate({**given, **changes})


def test_round_trip(tmp_path: Path) -> None:
    write_record(tmp_path, record())
    path = run_folder(tmp_path, SPEC.run_id) / RECORD
    assert read_record(path) == record()
    assert json.loads(path.read_text("utf-8"))["schema"] == 1
    assert [file.name for file in path.parent.iterdir()] == [RECORD]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_that_json_lacks(value: float) -> None:
    with pytest.raises(ValidationError):
        record(metrics=[{"name": "a", "value": value}])
    with pytest.raises(ValidationError):
        record(clocks={"train_s": value})


def test_unknown_fields_and_statuses_are_refused() -> None:
    with pytest.raises(ValidationError):
        record(status="fine")
    with pytest.raises(ValidationError):
        record(extra=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unreadable"),
        ("{", "unreadable"),
        ("[]", "schema 1, got 'list'"),
        ('{"schema": 2}', "schema 1, got 2"),
        ('{"schema": 1}', "run_id"),
    ],
)
def test_damaged_records_are_refused_and_count_as_missing(
    tmp_path: Path, text: str, message: str
) -> None:
    path = run_folder(tmp_path, SPEC.run_id) / RECORD
    path.parent.mkdir(parents=True)
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message):
        read_record(path)
    assert find_record(tmp_path, SPEC.run_id) is None
    assert not is_final(tmp_path, SPEC.run_id)


def test_a_record_of_another_run_is_refused(tmp_path: Path) -> None:
    other = SPEC.model_copy(update={"replicate": 5})
    path = tmp_path / "record.json"
    write_record(tmp_path, record())
    data = json.loads((run_folder(tmp_path, SPEC.run_id) / RECORD).read_text("utf-8"))
    data["spec"]["replicate"] = other.replicate
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(ValueError, match="run id"):
        read_record(path)


@pytest.mark.parametrize(
    ("status", "final"),
    [
        ("ok", True),
        ("diverged", True),
        ("non_finite", True),
        ("error", False),
        ("timeout", False),
        ("crashed", False),
        ("skipped", False),
    ],
)
def test_which_statuses_are_results(tmp_path: Path, status: str, final: bool) -> None:
    write_record(tmp_path, record(status=status))
    assert is_final(tmp_path, SPEC.run_id) is final


def test_an_unchanged_spec_is_not_written_again(tmp_path: Path) -> None:
    write_spec(tmp_path, SPEC)
    path = run_folder(tmp_path, SPEC.run_id) / "spec.json"
    before = path.stat().st_mtime_ns
    write_spec(tmp_path, SPEC)
    assert path.stat().st_mtime_ns == before
    write_spec(tmp_path, SPEC.model_copy(update={"method_label": "new name"}))
    assert json.loads(path.read_text("utf-8"))["method_label"] == "new name"


def test_the_schema_is_exported() -> None:
    schema = record_json_schema()
    assert {"schema", "run_id", "status", "metrics"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False
