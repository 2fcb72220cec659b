"""An experiment as written in TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from flowzoo.options import nearest
from flowzoo_bench.runspec import Keep, Precision
from flowzoo_bench.sweep import sweep_points

RESERVED = ("oracle", "real data")
"""Rows of a table that no method may be called."""


class UsageError(ValueError):
    """What the user asked for cannot be done; nothing has run."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class MetricEntry(_Strict):
    """A metric: its registered name, its options."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class TaskEntry(_Strict):
    """A task: its registered name, its label in tables, its options."""

    name: str
    label: str = ""
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The label, by default the name."""
        return self.label or self.name


class MethodEntry(_Strict):
    """A method: label, registered mixture, options, and where it runs (by default everywhere).

    With ``sweep = { "partitioner.num_charts" = [2, 4] }`` it stands for one method a value,
    labelled ``LABEL num_charts=2`` and so on, and the report draws the scores against the value.
    """

    label: str
    mixture: str
    options: dict[str, Any] = Field(default_factory=dict)
    sweep: dict[str, list[Any]] = Field(default_factory=dict)
    tasks: list[str] | None = None
    exclude_tasks: list[str] = Field(default_factory=list)

    def runs_on(self, task: str) -> bool:
        """Whether the method runs on the task with this label."""
        return (self.tasks is None or task in self.tasks) and task not in self.exclude_tasks

    def expanded(self) -> list[MethodEntry]:
        """The method itself, or one method for each value of its sweep.

        Raises:
            ValueError: a sweep that cannot be.
        """
        points = sweep_points(self.label, self.sweep)
        return [
            self.model_copy(
                update={"label": point.label, "options": point.into(self.options), "sweep": {}}
            )
            for point in points
        ] or [self]


class Experiment(_Strict):
    """A comparison: tasks x methods x replicates.

    Attributes:
        name: also the default folder under ``runs/``.
        summary: one line.
        replicates: independent draws of data, initialisation and training.
        tasks: names, or tables with name, label, options.
        methods: see ``MethodEntry``.
        training: defaults merged under the ``training`` option of every method that has one.
        metrics: names, or tables with name and options.
        pack_size: most runs trained as one program; 1 trains every run alone (honest timings).
        timeout: wall-clock seconds a worker may take for its pack.
        precision: of models and training; metrics are float64 always.
        seed: root of all seeds.
        num_samples: samples kept for figures.
        keep: what else is kept, for figures: ``layers``, the data after each layer; ``knobs``,
            samples of one seed at every temperature and noise scale; ``reconstructions`` of test
            rows; ``embeddings`` of test rows in the plane that parts the classes; ``spectrum``, the
            variance over noise along each latent direction; ``codes`` of test rows and draws of
            the prior beside them; ``representations``, the first two columns of the embedding of
            test rows; ``density`` along the manifold, true and learned; ``plane``, the density on a
            grid, true and learned, for data of two columns. And ``model``, the weights.
        temperatures: of ``knobs``, above 0.
        noise_scales: of ``knobs``, at least 0, for models that have that knob.
    """

    name: str = Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    summary: str = ""
    replicates: int = Field(default=1, ge=1)
    tasks: list[TaskEntry] = Field(min_length=1)
    methods: list[MethodEntry] = Field(min_length=1)
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: list[MetricEntry] = Field(min_length=1)
    pack_size: int = Field(default=25, ge=1)
    timeout: float = Field(default=3600.0, gt=0)
    precision: Precision = "float32"
    seed: int = 0
    num_samples: int = Field(default=2500, ge=1)
    keep: list[Keep] = Field(default_factory=list)
    temperatures: list[Annotated[float, Field(gt=0)]] = [0.5, 1.0, 2.0, 4.0]
    noise_scales: list[Annotated[float, Field(ge=0)]] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]

    @field_validator("tasks", "metrics", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [{"name": item} if isinstance(item, str) else item for item in value]
        return value

    def expanded(self) -> list[MethodEntry]:
        """All methods, each sweep as one method a value."""
        return [entry for method in self.methods for entry in method.expanded()]

    def labels(self) -> list[str]:
        """Names a method can be asked for by: of each method, and of each value of a sweep."""
        return [
            label
            for method in self.methods
            for label in (
                *([method.label] if method.sweep else []),
                *(entry.label for entry in method.expanded()),
            )
        ]


_TABLES: dict[str, type[BaseModel]] = {
    "tasks": TaskEntry,
    "metrics": MetricEntry,
    "methods": MethodEntry,
}


def shipped() -> list[str]:
    """Names of the experiments that come along."""
    folder = files("flowzoo_bench.experiments")
    return sorted(
        item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")
    )


def load_experiment(name_or_path: str) -> Experiment:
    """A shipped experiment by name, or the one in a TOML file.

    Raises:
        UsageError: no such name or file, not TOML, or a key or value the schema does not know; the
            message names the key and the nearest known one.
    """
    if name_or_path in shipped():
        source = files("flowzoo_bench.experiments") / f"{name_or_path}.toml"
        text = source.read_text("utf-8")
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise UsageError(
                f"experiment: expected a TOML file or one of {shipped()}, got {name_or_path!r}"
                f"{nearest(name_or_path, shipped())}"
            )
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"experiment {name_or_path}: {error}") from error
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"experiment {name_or_path}: not valid TOML: {error}") from error
    experiment = parse_experiment(data, f"experiment {name_or_path}")
    return experiment


def parse_experiment(data: dict[str, Any], owner: str) -> Experiment:
    """An experiment from plain data.

    Raises:
        UsageError: see ``load_experiment``.
    """
    try:
        experiment = Experiment.model_validate(data)
    except ValidationError as error:
        lines = [_explain(dict(item)) for item in error.errors(include_url=False)]
        raise UsageError("; ".join(f"{owner}: {line}" for line in lines)) from None
    try:
        labels_of_methods = experiment.labels()
    except ValueError as error:
        raise UsageError(f"{owner}: methods: {error}") from None
    for kind, labels in (
        ("tasks", [task.shown for task in experiment.tasks]),
        ("methods", labels_of_methods),
        ("metrics", [metric.name for metric in experiment.metrics]),
    ):
        for label in labels:
            if labels.count(label) > 1:
                raise UsageError(
                    f"{owner}: {kind}: expected distinct labels, got {label!r} more than once"
                )
            if label in RESERVED:
                raise UsageError(
                    f"{owner}: {kind}: expected another label than {label!r}, the name of a "
                    "reference row in tables"
                )
            if not label or "," in label:
                raise UsageError(f"{owner}: {kind}: expected a label without comma, got {label!r}")
    tasks = [task.shown for task in experiment.tasks]
    for method in experiment.methods:
        for field, names in (
            ("tasks", method.tasks or []),
            ("exclude_tasks", method.exclude_tasks),
        ):
            for task in names:
                if task not in tasks:
                    raise UsageError(
                        f"{owner}: methods: {method.label}: {field}: unknown task {task!r}, "
                        f"expected one of {tasks}{nearest(task, tasks)}"
                    )
    return experiment


def _explain(error: dict[str, Any]) -> str:
    """One line for one of pydantic's errors."""
    place = [str(part) for part in error["loc"]]
    where = ".".join(place)
    if error["type"] != "extra_forbidden":
        return f"{where}: {error['msg']}, got {error['input']!r}"
    model = _TABLES.get(place[0], Experiment) if len(place) > 1 else Experiment
    known = list(model.model_fields)
    return f"unknown key {where!r}, expected one of {known}{nearest(place[-1], known)}"


def select(
    experiment: Experiment,
    tasks: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    replicates: int | None = None,
) -> Experiment:
    """The part of an experiment that was asked for, by labels; that of a sweep means all of it.

    Raises:
        UsageError: an unknown label, or replicates below 1.
    """
    if replicates is not None and replicates < 1:
        raise UsageError(f"--replicates: expected at least 1, got {replicates}")
    known_tasks = [task.shown for task in experiment.tasks]
    known_methods = experiment.labels()
    for option, asked, known in (
        ("--tasks", tasks, known_tasks),
        ("--methods", methods, known_methods),
    ):
        for label in asked or ():
            if label not in known:
                raise UsageError(
                    f"{option}: unknown {label!r}, expected one of {known}{nearest(label, known)}"
                )
    kept = [task for task in experiment.tasks if tasks is None or task.shown in tasks]
    names = {task.shown for task in kept}
    chosen = [
        method.model_copy(
            update={
                "tasks": None if method.tasks is None else [t for t in method.tasks if t in names],
                "exclude_tasks": [t for t in method.exclude_tasks if t in names],
            }
        )
        for written in experiment.methods
        for method in written.expanded()
        if methods is None or method.label in methods or written.label in methods
    ]
    return experiment.model_copy(
        update={
            "tasks": kept,
            "methods": chosen,
            "replicates": experiment.replicates if replicates is None else replicates,
        }
    )
