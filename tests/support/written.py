"""Records written by hand, for reports to be made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowzoo_bench.records import Record, write_record, write_spec
from flowzoo_bench.runspec import Part, RunSpec

LL = "test_log_likelihood"


def spec(method: str, replicate: int, task: str = "blob") -> RunSpec:
    """A run of nothing but names."""
    return RunSpec(
        task=Part(name=task),
        method=Part(name=method),
        replicate=replicate,
        task_label=task,
        method_label=method,
    )


def density(value: float | None, oracle: float | None = None, **more: Any) -> dict[str, Any]:
    """A row of log-likelihood."""
    return {
        "name": LL,
        "value": value,
        "unit": "nats",
        "direction": "max",
        "likelihood": "exact",
        "measure": "lebesgue",
        "n": 100,
        "stderr": 0.1,
        "reference": oracle,
        **more,
    }


def put(out: Path, run: RunSpec, *metrics: dict[str, Any], status: str = "ok", **more: Any) -> None:
    """Write the run's spec and record."""
    write_spec(out, run)
    given = {
        "run_id": run.run_id,
        "status": status,
        "spec": run,
        "pack_id": "p",
        "metrics": list(metrics),
    }
    write_record(out, Record.model_validate({**given, **more}))
