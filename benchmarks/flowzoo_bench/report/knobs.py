"""Scores of samples against the knob that was turned to draw them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from flowzoo_bench.metrics.knobs import parse_knob_name
from flowzoo_bench.report.table import REAL, TableRow

_NAMES = {"s": "noise scale", "t": "temperature"}


@dataclass
class KnobScores:
    """One metric on one task against one knob, the other held fixed.

    Attributes:
        metric: name without knobs.
        symbol: ``s`` or ``t``.
        fixed: the other knob, where it is not 1, as ``t = 2``; else empty.
        lines: by method, the rows by the knob's value, in order; 1 is the model as it was trained.
        levels: methods that do not turn the knob, and real data.
    """

    metric: str
    symbol: str
    fixed: str = ""
    lines: dict[str, dict[float, TableRow]] = field(default_factory=dict)
    levels: dict[str, TableRow] = field(default_factory=dict)

    @property
    def knob(self) -> str:
        """The knob in words."""
        return _NAMES[self.symbol]

    @property
    def values(self) -> list[float]:
        """All values of the knob, in order."""
        return sorted({value for line in self.lines.values() for value in line})


def knob_scores(rows: Sequence[TableRow], task: str) -> list[KnobScores]:
    """Every metric of the task that was measured with a knob turned, in the order of the rows."""
    by_metric: dict[str, list[tuple[dict[str, float], TableRow]]] = {}
    for row in rows:
        if row.task == task:
            base, knobs = parse_knob_name(row.metric)
            by_metric.setdefault(base, []).append((knobs, row))
    found: list[KnobScores] = []
    for metric, measured in by_metric.items():
        for temperature in sorted({knobs.get("t", 1.0) for knobs, _ in measured}):
            fixed = "" if temperature == 1 else f"t = {temperature:g}"
            found += _scores(KnobScores(metric, "s", fixed), measured, "t", temperature)
        # with both knobs turned they are above
        found += _scores(KnobScores(metric, "t"), measured, "s", 1.0)
    return found


def by_setting(measured: Iterable[KnobScores]) -> list[list[KnobScores]]:
    """Metrics against the same knob, the other held at the same value, together."""
    groups: dict[tuple[str, str], list[KnobScores]] = {}
    for scores in measured:
        groups.setdefault((scores.symbol, scores.fixed), []).append(scores)
    return list(groups.values())


def _scores(
    into: KnobScores,
    measured: Iterable[tuple[dict[str, float], TableRow]],
    other: str,
    value: float,
) -> list[KnobScores]:
    """``into`` with the rows at this value of the other knob; nothing if none turns this one."""
    lines: dict[str, dict[float, TableRow]] = {}
    for knobs, row in measured:
        if knobs.get(other, 1.0) == value:
            lines.setdefault(row.method, {}).setdefault(knobs.get(into.symbol, 1.0), row)
    for method, line in lines.items():
        flat = method == REAL and len({row.mean for row in line.values()}) == 1
        if set(line) == {1.0} or flat:
            into.levels[method] = next(iter(line.values()))
        else:
            into.lines[method] = dict(sorted(line.items()))
    return [into] if into.lines.keys() - {REAL} else []
