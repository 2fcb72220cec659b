"""The harness's commands; importing this imports nothing heavy."""

from __future__ import annotations

from flowzoo.plugin import PluginSpec

BENCH = PluginSpec(
    kind="command",
    name="bench",
    summary="Train, measure and compare methods as an experiment says.",
    target="flowzoo_bench.bench:bench",
)
REPORT = PluginSpec(
    kind="command",
    name="report",
    summary="Rebuild the tables and figures of a benchmark folder from its records.",
    target="flowzoo_bench.report.command:report",
)
