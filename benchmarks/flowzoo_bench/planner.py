"""From an experiment to runs, and from runs to packs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowzoo import registry
from flowzoo.options import options_of
from flowzoo.plugin import KINDS
from flowzoo_bench.experiment import Experiment, MethodEntry, MetricEntry, TaskEntry, UsageError
from flowzoo_bench.runspec import Device, PackSpec, Part, RunSpec, canonical

if TYPE_CHECKING:
    from flowzoo.interfaces import Task


@dataclass(frozen=True)
class Planned:
    """A run, and what the planner knows of it.

    Attributes:
        spec: the run.
        group: runs with equal groups may share a pack; None: the run goes alone.
        cost: an estimate of its training time, in an arbitrary unit.
        skip: why it cannot run here; empty when it can.
    """

    spec: RunSpec
    group: str | None = None
    cost: float = 0.0
    skip: str = ""


@dataclass
class _Models:
    """What was learned about a method on data of one shape, by building it once."""

    packable: bool
    cost: float


@dataclass
class Planner:
    """Checks an experiment and lists its runs; nothing is trained.

    Args:
        experiment: see ``Experiment``.
        device: where the runs go.

    Raises:
        UsageError: an unknown task, method or metric, or an option that is misspelt or refused;
            the message names it and the nearest known spelling.
    """

    experiment: Experiment
    device: Device = "cpu"
    _seen: dict[tuple[str, int], _Models] = field(default_factory=dict)

    def plan(self) -> list[Planned]:
        """All runs: by task, then method, then replicate."""
        with _usage("training"):
            canonical(self.experiment.training)
        tasks = {entry.shown: self._task(entry) for entry in self.experiment.tasks}
        metrics = tuple(self._metric(entry) for entry in self.experiment.metrics)
        entries = self.experiment.expanded()
        methods = {entry.label: self._method(entry) for entry in entries}
        if not any("training" in part.options for part, _, _ in methods.values()):
            with _usage("training"):  # nobody else will look at it
                from flowzoo.training.options import TrainingOptions

                TrainingOptions.of(self.experiment.training)
        planned: list[Planned] = []
        knobs = "knobs" in self.experiment.keep
        for entry in self.experiment.tasks:
            task, task_part = tasks[entry.shown]
            shapes: dict[int, tuple[int, ...] | None] = {}
            for method in entries:
                if not method.runs_on(entry.shown):
                    continue
                part, parts, skip = methods[method.label]
                for replicate in range(self.experiment.replicates):
                    spec = RunSpec(
                        task=task_part,
                        method=part,
                        parts=parts,
                        metrics=metrics,
                        replicate=replicate,
                        root=self.experiment.seed,
                        precision=self.experiment.precision,
                        device=self.device,
                        num_samples=self.experiment.num_samples,
                        keep=tuple(sorted(set(self.experiment.keep))),
                        temperatures=_distinct(self.experiment.temperatures if knobs else ()),
                        noise_scales=_distinct(self.experiment.noise_scales if knobs else ()),
                        task_label=entry.shown,
                        method_label=method.label,
                    )
                    if skip:
                        planned.append(Planned(spec, skip=skip))
                        continue
                    model = self._model(spec, method.label, task.features)
                    if replicate not in shapes:
                        shapes[replicate] = _shape(task, spec.data_seed())
                    planned.append(_planned(spec, model, shapes[replicate]))
        _refuse_twins(planned)
        return planned

    def _task(self, entry: TaskEntry) -> tuple[Task, Part]:
        where = f"task {entry.shown!r}"
        version = _version("task", entry.name, where)
        with _usage(where):
            canonical(entry.options)
            task: Task = registry.build("task", entry.name, **entry.options)
            version = "+".join(filter(None, (version, task.fingerprint())))
        return task, Part(name=entry.name, options=entry.options, version=version)

    def _metric(self, entry: MetricEntry) -> Part:
        where = f"metric {entry.name!r}"
        version = _version("metric", entry.name, where)
        with _usage(where):
            canonical(entry.options)
            registry.build("metric", entry.name, **entry.options)
        return Part(name=entry.name, options=entry.options, version=version)

    def _method(self, entry: MethodEntry) -> tuple[Part, dict[str, str], str]:
        """The method with the experiment's training defaults in it, or why it cannot run here."""
        where = f"method {entry.label!r}"
        with _usage(where):
            canonical(entry.options)
            if "features" in entry.options:
                raise ValueError("options: expected no 'features', the task's data have them")
            found = registry.find("mixture", entry.mixture)
            version = found.spec.version if found.spec else ""
            part = Part(name=entry.mixture, options=entry.options, version=version)
            if found.state == "missing-deps":
                return part, {}, f"{entry.mixture}: {found.error}"
            known = options_of(registry.load("mixture", entry.mixture))
            options = dict(entry.options)
            if "training" in known and self.experiment.training:
                own = options.get("training", {})
                if not isinstance(own, Mapping):
                    raise ValueError(f"training: expected a table, got {own!r}")
                options["training"] = _merged(self.experiment.training, own)
            part = Part(name=entry.mixture, options=options, version=version)
            parts, missing = _nested(options, {n: o.default for n, o in known.items()})
            return part, parts, missing

    def _model(self, spec: RunSpec, label: str, features: int) -> _Models:
        """Build the model once for each width of data, which checks every option."""
        key = (label, features)
        if key not in self._seen:
            import torch

            with (
                _usage(f"method {label!r} on {spec.task_label!r}"),
                torch.random.fork_rng(devices=[]),
            ):
                model = registry.build(
                    "mixture", spec.method.name, features=features, **spec.method.options
                )
                stages = model.stages()
            from flowzoo.training.packing import is_packable

            weights = sum(parameter.numel() for parameter in model.parameters())
            steps = sum(
                float(stage.steps or 50 * (stage.epochs or 0))
                for stage in stages
                if stage.loss is not None
            )
            self._seen[key] = _Models(is_packable(model), 1.0 + steps * (1.0 + weights**0.5))
        return self._seen[key]


def _distinct(values: Iterable[float]) -> tuple[float, ...]:
    """In the order given; 0 whatever its sign."""
    return tuple(dict.fromkeys(value + 0.0 for value in values))


class _usage:
    """Turns what a plugin refuses into a UsageError that says where."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception | SystemExit) and not isinstance(error, UsageError):
            text = " ".join(str(error).split())
            if isinstance(error, SystemExit) or not text:
                text = f"{type(error).__name__} {text}".rstrip()
            raise UsageError(f"{self.where}: {text.removeprefix(f'{self.where}: ')}") from error


def _version(kind: str, name: str, where: str) -> str:
    with _usage(where):
        entry = registry.find(kind, name)
        if entry.spec is None:
            raise ValueError(f"{kind} {name!r} is {entry.state}: {entry.error}")
        return entry.spec.version


def _merged(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The method's own budget over the experiment's; epochs and steps exclude each other."""
    budget = ("epochs", "steps")
    counted = any(name in own for name in budget)
    return {**{k: v for k, v in defaults.items() if not (counted and k in budget)}, **own}


def _nested(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """Versions of the plugins nested in options (or their defaults), and what they lack."""
    versions: dict[str, str] = {}
    missing: list[str] = []
    for option, value in {**defaults, **options}.items():
        kind = option.replace("_", "-")
        if kind not in KINDS:
            continue
        name = value.get("name") if isinstance(value, Mapping) else value
        if not isinstance(name, str):
            continue
        entry = registry.find(kind, name)
        versions[option] = f"{name}:{entry.spec.version if entry.spec else ''}"
        if entry.state == "missing-deps":
            missing.append(f"{name}: {entry.error}")
    return versions, "; ".join(missing)


def _shape(task: Task, seed: int) -> tuple[int, ...] | None:
    """Rows and columns of a replicate; None when it cannot be drawn, which its run will record."""
    try:
        splits = task.splits(seed)
        return (len(splits.train), len(splits.valid), task.features)
    except (Exception, SystemExit):
        return None


def _planned(spec: RunSpec, model: _Models, shape: tuple[int, ...] | None) -> Planned:
    cost = model.cost * (1.0 if shape is None else max(1, shape[0]) / 5000)
    if shape is None:
        return Planned(spec, None, cost)
    group = {
        "method": spec.method.model_dump(),
        "shape": list(shape),
        # models that vmap cannot run train one by one; a worker then takes a task's replicates
        "task": None if model.packable else spec.task.model_dump(),
    }
    return Planned(spec, canonical(group), cost if model.packable else 3.0 * cost)


def _refuse_twins(planned: Iterable[Planned]) -> None:
    """Two labels for one run would show one measurement as two."""
    seen: dict[str, RunSpec] = {}
    for item in planned:
        other = seen.setdefault(item.spec.run_id, item.spec)
        if other is not item.spec:
            raise UsageError(
                f"{other.method_label!r} on {other.task_label!r} and {item.spec.method_label!r} on "
                f"{item.spec.task_label!r} are the same run: expected different options"
            )


def make_packs(
    planned: Iterable[Planned], pack_size: int, commit: str | None = None
) -> list[tuple[PackSpec, float]]:
    """Runs of one group in chunks of nearly equal size, at most ``pack_size``, with their cost."""
    groups: dict[str, list[Planned]] = {}
    packs: list[tuple[PackSpec, float]] = []
    for item in planned:
        if item.group is None:
            packs.append((PackSpec.of([item.spec], commit), item.cost))
        else:
            groups.setdefault(item.group, []).append(item)
    for members in groups.values():
        count = -(-len(members) // pack_size)
        for index in range(count):
            chunk = members[len(members) * index // count : len(members) * (index + 1) // count]
            cost = sum(item.cost for item in chunk)
            packs.append((PackSpec.of([item.spec for item in chunk], commit), cost))
    return packs
