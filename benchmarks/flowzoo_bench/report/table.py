"""Means over replicates, with intervals, references and gaps."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from math import sqrt
from typing import TYPE_CHECKING

from flowzoo_bench.experiment import RESERVED
from flowzoo_bench.metrics.knobs import parse_knob_name
from flowzoo_bench.metrics.statistics import mean_and_t_interval, paired_difference
from flowzoo_bench.records import MetricRow, Record, finite
from flowzoo_bench.report.load import Results, Run
from flowzoo_bench.report.stability import late_change, main_curve

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

HEADLINE = "test_log_likelihood"
ORACLE, REAL = RESERVED
LEBESGUE = "lebesgue"
"""What records call the measure of R^D."""
MEASURED = frozenset({"ok", "non_finite", "error"})
"""Statuses of runs whose finite numbers count: one bad metric harms no other."""
_BY_EVALUATION = (HEADLINE, "gap_to_oracle", "test_bits_per_dim", "test_non_finite_rows")
CHANGE = "validation_change"
SHARED = ("_amortised", "_of_pack")
"""Endings of metrics that the members of a pack have in common: no replicates of anything."""
FAILED = frozenset(
    {"diverged", "non_finite", "error", "timeout", "crashed", "skipped", "unreadable"}
)


@dataclass(frozen=True)
class TableRow:
    """One row of ``table.csv``; empty cells are None.

    Attributes:
        task, method, metric: labels. The method ``oracle`` is the true density on the same test
            points, ``real data`` the same score of held-out real data.
        mean: over the replicates that have the number, and it is finite.
        ci95: half width of the t-interval; None for one replicate, and for what a pack shares.
        n: replicates in the mean.
        ok, failed: runs of the method on the task; what is neither is still to come. A run one
            of whose metrics failed is among the failed.
        likelihood, measure: what kind of density the number is of.
        oracle: the oracle's mean over the same replicates, for log-likelihoods.
        gap: oracle minus mean, paired.
        unit: of all these numbers.
    """

    task: str
    method: str
    metric: str
    mean: float | None
    ci95: float | None
    n: int
    ok: int
    failed: int
    likelihood: str | None = None
    measure: str | None = None
    oracle: float | None = None
    gap: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class PairedRow:
    """One row of ``paired.csv``: method_a minus method_b on the data sets both have a number for.

    The likelihoods say what is compared: a lower bound minus an exact score only bounds the
    difference.
    """

    task: str
    metric: str
    method_a: str
    method_b: str
    mean_diff: float
    ci95: float | None
    n: int
    likelihood_a: str | None = None
    likelihood_b: str | None = None
    measure: str | None = None


def measurements(record: Record) -> list[MetricRow]:
    """The record's metrics, and the harness's own: time, objective, memory, parameters."""
    rows = list(record.metrics)
    clocks = record.clocks
    shared = record.memory.shared
    if clocks.train_s is not None:
        name = "train_seconds_amortised" if clocks.amortised else "train_seconds"
        rows.append(MetricRow(name=name, value=clocks.train_s, unit="s", direction="min"))
    main = main_curve(record)
    if main is not None and main.best_valid is not None:
        # in the units it was trained in, for choosing between settings; between methods it ranks
        # nothing, their objectives differ: no direction, no unit
        rows.append(MetricRow(name="validation_objective", value=main.best_valid))
    if main is not None and (change := late_change(main)) is not None:
        rows.append(MetricRow(name=CHANGE, value=finite(change), unit="nats"))
    if record.memory.peak_rss is not None:
        name = "peak_memory_of_pack" if shared else "peak_memory"
        mib = record.memory.peak_rss / 2**20
        rows.append(MetricRow(name=name, value=mib, unit="MiB", direction="min"))
    if record.memory.peak_gpu is not None:
        name = "peak_gpu_memory_of_pack" if shared else "peak_gpu_memory"
        mib = record.memory.peak_gpu / 2**20
        rows.append(MetricRow(name=name, value=mib, unit="MiB", direction="min"))
    if record.parameters is not None and "parameters" not in {row.name for row in rows}:
        rows.append(MetricRow(name="parameters", value=float(record.parameters)))
    return rows


def is_main(metric: str) -> bool:
    """Whether a number is of the default evaluation, and of samples with no knob turned."""
    base, knobs = parse_knob_name(metric)
    return not knobs and not (base.startswith(_BY_EVALUATION) and "[" in base)


def _is_log_density(row: MetricRow) -> bool:
    return row.likelihood is not None and row.direction == "max"


def on_a_surface(results: Results, task: str) -> bool:
    """Whether the data have a true density, and none on R^D: any there grows without bound."""
    densities = [
        row
        for run in results.runs
        if run.spec.task_label == task and run.record and run.record.data
        if run.record.data.oracle
        for row in run.record.metrics
        if row.name.startswith(HEADLINE) and row.measure == LEBESGUE
    ]
    return bool(densities) and all(row.reference is None for row in densities)


def table(results: Results) -> list[TableRow]:
    """All rows, in the order of tasks, references, methods, metrics."""
    rows: list[TableRow] = []
    for task in results.tasks:
        own: list[TableRow] = []
        for method in results.methods:
            runs = results.of(task, method)
            if runs:
                own += _method_rows(task, method, runs)
        rows += _reference_rows(results, task) + own
    return rows


def _method_rows(task: str, method: str, runs: Sequence[Run]) -> list[TableRow]:
    ok = sum(run.status == "ok" for run in runs)
    failed = sum(run.status in FAILED for run in runs)
    collected: dict[tuple[str, str | None, str | None], list[MetricRow]] = {}
    for run in runs:
        if run.record is not None and run.status in MEASURED:
            for row in measurements(run.record):
                collected.setdefault((row.name, row.likelihood, row.measure), []).append(row)
    if not collected:
        return [TableRow(task, method, HEADLINE, None, None, 0, ok, failed)]
    rows = []
    for (name, likelihood, measure), values in collected.items():
        numbers = [row.value for row in values if row.value is not None]
        if not numbers:  # measured, and never finite
            rows.append(
                TableRow(
                    task,
                    method,
                    name,
                    None,
                    None,
                    0,
                    ok,
                    failed,
                    likelihood,
                    measure,
                    unit=values[0].unit,
                )
            )
            continue
        interval = mean_and_t_interval(numbers)
        oracle = gap = None
        pairs = [
            (row.reference, row.value)
            for row in values
            if row.reference is not None and row.value is not None
        ]
        if _is_log_density(values[0]) and len(pairs) == len(numbers):
            oracle = sum(reference for reference, _ in pairs) / len(pairs)
            gap = oracle - interval.mean
        rows.append(
            TableRow(
                task,
                method,
                name,
                interval.mean,
                None if name.endswith(SHARED) else interval.half_width,
                interval.n,
                ok,
                failed,
                likelihood,
                measure,
                oracle,
                gap,
                values[0].unit,
            )
        )
    return rows


def _reference_rows(results: Results, task: str) -> list[TableRow]:
    """The oracle's row for log-likelihoods, real data's for scores of samples."""
    found: dict[tuple[str, str, str | None], dict[int, float]] = {}
    units: dict[str, str] = {}
    for run in results.runs:
        if run.spec.task_label != task or run.record is None:
            continue
        for row in run.record.metrics:
            if row.reference is None:
                continue
            if _is_log_density(row):
                if row.name != HEADLINE:
                    continue
                key = (ORACLE, row.name, row.measure)
            elif row.likelihood is None:
                key = (REAL, row.name, None)
            else:
                continue
            found.setdefault(key, {}).setdefault(run.spec.replicate, row.reference)
            units.setdefault(row.name, row.unit)
    rows = []
    for (method, metric, measure), by_replicate in sorted(found.items(), key=_by_method):
        interval = mean_and_t_interval(list(by_replicate.values()))
        exact = method == ORACLE
        rows.append(
            TableRow(
                task,
                method,
                metric,
                interval.mean,
                interval.half_width,
                interval.n,
                interval.n,
                0,
                "exact" if exact else None,
                measure,
                interval.mean if exact else None,
                0.0 if exact else None,
                units[metric],
            )
        )
    return rows


def _by_method(item: tuple[tuple[str, str, str | None], dict[int, float]]) -> tuple[bool, str]:
    (method, metric, _), _ = item
    return (method != ORACLE, metric)


def paired(results: Results) -> list[PairedRow]:
    """Differences on common data sets, of numbers of one metric and one measure.

    None of densities on R^D where the data have no such density: see ``on_a_surface``.
    """
    rows: list[PairedRow] = []
    for task in results.tasks:
        unbounded = on_a_surface(results, task)
        values: dict[tuple[str, str | None], dict[str, dict[int, tuple[float, str | None]]]] = {}
        for run in results.runs:
            if run.spec.task_label != task or run.record is None or run.status not in MEASURED:
                continue
            for row in measurements(run.record):
                if row.value is None or row.direction == "none" or row.name.endswith(SHARED):
                    continue
                if unbounded and row.measure == LEBESGUE:
                    continue
                by_method = values.setdefault((row.name, row.measure), {})
                own = by_method.setdefault(run.spec.method_label, {})
                own[run.spec.data_seed()] = (row.value, row.likelihood)
        for (metric, measure), by_method in values.items():
            names = [name for name in results.methods if name in by_method]
            for index, first in enumerate(names):
                for second in names[index + 1 :]:
                    a, b = by_method[first], by_method[second]
                    common = [data for data in a if data in b]
                    if common:
                        difference = paired_difference(
                            [a[data][0] for data in common], [b[data][0] for data in common]
                        )
                        kinds = (a[common[0]][1], b[common[0]][1])
                        rows.append(
                            PairedRow(task, metric, first, second, *difference, *kinds, measure)
                        )
    return rows


def too_good(results: Results) -> list[str]:
    """Exact densities above the oracle by over three standard errors: each is a bug somewhere."""
    lines = []
    for task in results.tasks:
        for method in results.methods:
            gaps: dict[str, list[tuple[float, float]]] = {}
            for run in results.of(task, method):
                for row in run.record.metrics if run.record and run.status in MEASURED else ():
                    if (
                        row.name.startswith("gap_to_oracle")
                        and row.likelihood == "exact"
                        and row.value is not None
                        and row.stderr is not None
                    ):
                        gaps.setdefault(row.name, []).append((row.value, row.stderr))
            for name, values in gaps.items():
                mean = sum(value for value, _ in values) / len(values)
                error = sqrt(sum(stderr**2 for _, stderr in values)) / len(values)
                if mean < -3 * error:
                    lines.append(
                        f"BUG: {method} on {task} is above the oracle by {-mean:.4g} nats "
                        f"({name}, standard error {error:.2g}), which an exact density cannot be"
                    )
    return lines


def to_csv(rows: Iterable[DataclassInstance], kind: type) -> str:
    """Rows as CSV text; numbers in full precision, empty cells for None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(kind)])
    for row in rows:
        writer.writerow(["" if cell is None else cell for cell in astuple(row)])
    return text.getvalue()
