"""What one run is, and what a pack of runs is, as hashed plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flowzoo_bench.seeds import seed

Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "float64"]
Keep = Literal[
    "layers",
    "model",
    "knobs",
    "reconstructions",
    "embeddings",
    "spectrum",
    "codes",
    "representations",
    "density",
    "plane",
]


def canonical(data: Any) -> str:
    """The one JSON text of plain data: sorted keys, no spaces, ASCII.

    Raises:
        ValueError: NaN or infinity, or something that is not plain data.
    """
    try:
        return json.dumps(
            data, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True
        )
    except ValueError as error:
        raise ValueError("expected finite numbers, got NaN or infinity") from error
    except TypeError as error:
        raise ValueError(f"expected plain data (text, numbers, lists, tables): {error}") from error


def digest(data: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(data).encode("ascii")).hexdigest()[:16]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(_Frozen):
    """A plugin with its options; equal versions say that results are comparable."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    version: str = "1"


class RunSpec(_Frozen):
    """One run: everything its result depends on, and the labels it is shown under.

    Attributes:
        task: the data set.
        method: the mixture; its ``training`` option is the budget.
        parts: versions of the plugins nested in the method.
        metrics: what is measured.
        replicate: from 0.
        root: root of all seeds.
        precision: of model and training.
        device: kind of device.
        num_samples: samples kept for figures.
        keep: what is kept beside the record, for figures and later use.
        temperatures: of the samples kept for figures; none without ``knobs`` in ``keep``.
        noise_scales: likewise.
        task_label: how tables call the task; not part of the identity.
        method_label: how tables call the method; not part of the identity.
    """

    task: Part
    method: Part
    parts: dict[str, str] = Field(default_factory=dict)
    metrics: tuple[Part, ...] = ()
    replicate: int = 0
    root: int = 0
    precision: Precision = "float32"
    device: Device = "cpu"
    num_samples: int = 2500
    keep: tuple[Keep, ...] = ()
    temperatures: tuple[float, ...] = ()
    noise_scales: tuple[float, ...] = ()
    task_label: str = ""
    method_label: str = ""

    @property
    def run_id(self) -> str:
        """Content hash; labels do not count, nor do the knobs of a run that keeps none."""
        silent = {"task_label", "method_label"}
        # ids are older than these fields: a run without them keeps the id it always had
        silent |= {name for name in ("temperatures", "noise_scales") if not getattr(self, name)}
        return digest(self.model_dump(mode="json", exclude=silent))

    @property
    def key(self) -> tuple[str, str, int]:
        """The row a table shows it in."""
        return (self.task_label, self.method_label, self.replicate)

    def data_seed(self) -> int:
        """Depends on task and replicate only, so all methods meet the same draw."""
        return seed("data", self.root, *self._task_parts(), self.replicate)

    def seed_for(self, purpose: Literal["init", "train", "eval"]) -> int:
        """Depends on method, task and replicate."""
        return seed(
            purpose,
            self.root,
            self.method.name,
            canonical(self.method.options),
            *self._task_parts(),
            self.replicate,
        )

    def _task_parts(self) -> tuple[str, str]:
        return self.task.name, canonical(self.task.options)


class PackSpec(_Frozen):
    """Runs trained as one program, in this order.

    Attributes:
        pack_id: hash of the members, in order.
        runs: the members.
        commit: git commit of the code that planned it, where known.
    """

    pack_id: str
    runs: tuple[RunSpec, ...]
    commit: str | None = None

    @classmethod
    def of(cls, runs: Iterable[RunSpec], commit: str | None = None) -> PackSpec:
        """The pack of these runs."""
        members = tuple(runs)
        return cls(pack_id=digest([run.run_id for run in members]), runs=members, commit=commit)
