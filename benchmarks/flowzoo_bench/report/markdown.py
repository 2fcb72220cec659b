"""``table.md``: failures and warnings first, then one table a task and measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from flowzoo_bench.report.knobs import by_setting, knob_scores
from flowzoo_bench.report.load import Results
from flowzoo_bench.report.table import (
    CHANGE,
    HEADLINE,
    LEBESGUE,
    ORACLE,
    REAL,
    TableRow,
    is_main,
    on_a_surface,
    too_good,
)

_LEGEND = (
    "± is the half width of a 95 % t-interval over replicates. ≥ marks lower bounds, ~ estimates; "
    "numbers without a mark are exact. The oracle is the true density on the same test points: the "
    "row to beat. `_amortised` and `_of_pack` columns are shared by runs trained as one program; "
    "compare times and memory between solo runs only (pack_size = 1). A density against a learned "
    "surface ranks nothing: it is that of the point a model projects to, whose distance is the "
    "`reconstruction_error`. *real data* is the same score of real rows, or the true value: the "
    "floor or the aim of a column."
)
_CHANGE = (
    f"`{CHANGE}` is the median size of the change of the validation objective from one epoch to "
    "the next, over the last quarter of the epochs, in nats: how steady training was at its end."
)


def markdown(results: Results, rows: Sequence[TableRow]) -> str:
    """The whole page."""
    lines = [f"# {results.name}", ""]
    counts = Counter(run.status for run in results.runs)
    lines += [
        f"{len(results.runs)} runs: "
        + ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        + ".",
        "",
    ]
    lines += _failures(results)
    lines += _warnings(results)
    lines += _not_drawn(results)
    bugs = too_good(results)
    if bugs:
        lines += ["## Too good to be true", "", *(f"- **{line}**" for line in bugs), ""]
    lines += [_LEGEND, ""]
    if any(row.metric == CHANGE for row in rows):
        lines += [_CHANGE, ""]
    for task in results.tasks:
        lines += [f"## {task}", "", *_images(results, task)]
        own = [row for row in rows if row.task == task]
        lines += _task(task, own, unbounded=on_a_surface(results, task))
    return "\n".join(lines).rstrip() + "\n"


def _failures(results: Results) -> list[str]:
    """Every run that is not ok, before any number."""
    failed = [run for run in results.runs if run.status not in ("ok", "pending")]
    if not failed and not results.problems:
        return []
    body = [
        [
            run.spec.task_label,
            run.spec.method_label,
            str(run.spec.replicate),
            run.status,
            (run.record.reason if run.record else run.problem),
            (run.record.log if run.record else ""),
        ]
        for run in failed
    ]
    lines = ["## Failures", ""]
    if body:
        lines += _table(["task", "method", "replicate", "status", "reason", "log"], body)
    lines += [f"- {problem}" for problem in results.problems]
    return [*lines, ""]


def _warnings(results: Results) -> list[str]:
    """What models said of their own training, before any number of theirs."""
    replicates: dict[tuple[str, str, str, str], list[str]] = {}
    for run in results.runs:
        for curve in run.record.curves if run.record else ():
            for message in curve.warnings:
                key = (run.spec.task_label, run.spec.method_label, curve.stage, message)
                replicates.setdefault(key, []).append(str(run.spec.replicate))
    if not replicates:
        return []
    body = [
        [task, method, ", ".join(numbers), stage, message]
        for (task, method, stage, message), numbers in replicates.items()
    ]
    head = ["task", "method", "replicates", "stage", "warning"]
    return ["## Warnings in training", "", *_table(head, body), ""]


def _not_drawn(results: Results) -> list[str]:
    """Runs that are ok but for their pictures, a line a method and task."""
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    for run in results.runs:
        if run.status == "ok" and run.record and run.record.reason:
            key = (run.spec.task_label, run.spec.method_label)
            reasons.setdefault(key, {})[run.record.reason] = None
    if not reasons:
        return []
    body = [[*key, "; ".join(found)] for key, found in reasons.items()]
    return ["## Pictures not made", "", *_table(["task", "method", "reason"], body), ""]


def _task(task: str, rows: Sequence[TableRow], *, unbounded: bool) -> list[str]:
    """The tables of a task; ``unbounded``: its data have no density on R^D."""
    lines: list[str] = []
    headline = [row for row in rows if row.metric == HEADLINE]
    measures = list(dict.fromkeys(row.measure for row in headline if row.mean is not None))
    names = list(dict.fromkeys(row.method for row in rows if row.method not in (ORACLE, REAL)))
    ranked: list[str] = []
    for measure in measures:
        group = [row for row in headline if row.measure == measure and row.mean is not None]
        own_surfaces = "learned" in (measure or "")
        unranked = unbounded and measure == LEBESGUE
        if not own_surfaces and not unranked:
            group.sort(key=lambda row: (row.method != ORACLE, -(row.mean or 0.0)))
        if len(measures) > 1 or own_surfaces or unranked:
            note = ", each model's own: not ranked" if own_surfaces else ""
            if unranked:
                note = " (the data have none, and models' grow without bound there: not ranked)"
            lines += [f"Densities against {measure}{note}:", ""]
        lines += _ranked(group, rows)
        ranked += [row.method for row in group]
    rest = [name for name in names if name not in ranked]
    if rest:
        lines += _ranked(
            [TableRow(task, name, HEADLINE, None, None, 0, 0, 0) for name in rest], rows
        )
    return lines + _other_evaluations(rows) + _by_knob(task, rows)


def _images(results: Results, task: str) -> list[str]:
    """What kind of integers the data are: bits per dimension compare at equal levels only."""
    for run in results.runs:
        data = run.record.data if run.record and run.spec.task_label == task else None
        if data is None or data.levels is None:
            continue
        bits = "" if data.bits is None else f" ({data.bits} bits)"
        kind = "" if data.shape is None else " of {} x {} x {} (C, H, W)".format(*data.shape)
        return [f"{'Images' if kind else 'Rows'}{kind} with {data.levels} levels{bits}.", ""]
    return []


def _ranked(group: Sequence[TableRow], rows: Sequence[TableRow]) -> list[str]:
    """Methods of one measure, best first, with everything else that was measured."""
    chosen = {row.method for row in group}
    others = list(
        dict.fromkeys(
            row.metric
            for row in rows
            if row.method in chosen
            and row.metric not in (HEADLINE, "gap_to_oracle")
            and is_main(row.metric)
        )
    )
    cells = {(row.method, row.metric): row for row in rows}
    used = [name for name in others if not _always_zero(name, chosen, cells)]
    body = []
    reference = {name: cells[REAL, name] for name in used if (REAL, name) in cells}
    if reference:
        body.append([f"*{REAL}*", "", "", "", *(number(reference.get(name)) for name in used)])
    for row in group:
        body.append(
            [
                f"**{row.method}**" if row.method == ORACLE else row.method,
                number(row),
                "" if row.gap is None or row.method == ORACLE else f"{row.gap:.3f}",
                "" if row.method == ORACLE else _runs(row.method, rows),
                *(number(cells.get((row.method, name))) for name in used),
            ]
        )
    body.sort(key=lambda line: (line[0] != f"**{ORACLE}**", line[0] != f"*{REAL}*"))
    head = ["method", HEADLINE, "gap to oracle", "ok/failed"]
    return [*_table([*head, *(_headed(name, rows) for name in used)], body), ""]


def _headed(metric: str, rows: Sequence[TableRow]) -> str:
    """A column's name, with the unit of bits per dimension: it says at how many bits."""
    unit = next((row.unit for row in rows if row.metric == metric and row.unit), "")
    return f"{metric} ({unit})" if unit.startswith("bits/dim") else metric


def _always_zero(name: str, methods: Iterable[str], cells: dict[tuple[str, str], TableRow]) -> bool:
    """Whether a column counts something that never happened."""
    found = [cells[method, name] for method in methods if (method, name) in cells]
    return name.endswith("non_finite_rows") and all(row.mean == 0.0 for row in found)


def _runs(method: str, rows: Sequence[TableRow]) -> str:
    for row in rows:
        if row.method == method:
            return f"{row.ok}/{row.failed}"
    return ""


def _other_evaluations(rows: Sequence[TableRow]) -> list[str]:
    """Log-likelihoods by the evaluations that are not the default."""
    every = [row for row in rows if row.metric.startswith(f"{HEADLINE}[")]
    found = [row for row in every if "learned" not in (row.measure or "")]
    pairs = _learned_surfaces([row for row in every if row not in found], rows)
    if not found:
        return pairs
    body = [
        [
            row.method,
            row.metric.removeprefix(HEADLINE).strip("[]"),
            number(row),
            "" if row.gap is None else f"{row.gap:.3f}",
            row.likelihood or "",
            row.measure or "",
        ]
        for row in found
    ]
    head = ["method", "evaluation", HEADLINE, "gap to oracle", "likelihood", "measure"]
    return ["Other evaluations:", "", *_table(head, body), "", *pairs]


def _learned_surfaces(found: Sequence[TableRow], rows: Sequence[TableRow]) -> list[str]:
    """Densities on learned surfaces, each beside how far the rows are from that surface."""
    if not found:
        return []
    errors = {row.method: row for row in rows if row.metric == "reconstruction_error"}
    body = [
        [row.method, number(row), number(errors.get(row.method)), row.measure or ""]
        for row in found
    ]
    head = ["method", "log-likelihood on it", "reconstruction_error", "measure"]
    return ["On surfaces the models have learned (ranks nothing):", "", *_table(head, body), ""]


def _by_knob(task: str, rows: Sequence[TableRow]) -> list[str]:
    """Scores of samples against the knob that was turned, a table a setting of the other."""
    lines: list[str] = []
    for measured in by_setting(knob_scores(rows, task)):
        knob, symbol, fixed = measured[0].knob, measured[0].symbol, measured[0].fixed
        lines += [f"Against the {knob} {symbol}{f' at {fixed}' if fixed else ''}:", ""]
        values = sorted({value for scores in measured for value in scores.values})
        body: list[list[str]] = []
        for scores in measured:
            body += [
                [
                    scores.metric,
                    f"*{method}*" if method == REAL else method,
                    *("" for _ in values),
                    number(row),
                ]
                for method, row in scores.levels.items()
            ]
            body += [
                [scores.metric, method, *(number(line.get(value)) for value in values), ""]
                for method, line in scores.lines.items()
            ]
        named = [f"{symbol} = {value:g}" for value in values]
        lines += [*_table(["metric", "method", *named, f"any {symbol}"], body), ""]
    return lines


def number(row: TableRow | None) -> str:
    """A mean with its mark and interval; empty where there is none."""
    if row is None or row.mean is None:
        return ""
    kind = row.likelihood or ""
    mark = "≥ " if kind == "lower_bound" else "~ " if kind.startswith("estimate") else ""
    text = f"{mark}{_short(row.mean)}"
    return text if row.ci95 is None else f"{text} ± {_short(row.ci95)}"


def _short(value: float) -> str:
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    return f"{value:.3f}" if 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        clean = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
        return "| " + " | ".join(clean) + " |"

    return [line(head), "|" + " --- |" * len(head), *(line(cells) for cells in body)]
