"""Writes every derived file of a benchmark folder; all of them may be deleted."""

from __future__ import annotations

from pathlib import Path

from flowzoo_bench.report.load import Results, load_results
from flowzoo_bench.report.markdown import markdown
from flowzoo_bench.report.spectra_table import SpectrumRow, spectrum_rows
from flowzoo_bench.report.table import PairedRow, TableRow, paired, table, to_csv


def write_report(out: Path, *, figures: bool = True) -> Results:
    """``table.csv``, ``paired.csv``, ``table.md`` and ``figures/`` from the records in ``out``.

    ``spectra.csv`` too, where runs have kept their spectra.

    Raises:
        ValueError: ``out`` holds no records folder.
        OSError: ``out`` cannot be written.
    """
    from flowzoo.training.checkpoint import write_atomically

    results = load_results(out)
    rows = table(results)
    write_atomically(out / "table.csv", to_csv(rows, TableRow).encode())
    write_atomically(out / "paired.csv", to_csv(paired(results), PairedRow).encode())
    if spectra := spectrum_rows(results):
        write_atomically(out / "spectra.csv", to_csv(spectra, SpectrumRow).encode())
    write_atomically(out / "table.md", markdown(results, rows).encode())
    if figures:
        from flowzoo_bench.report.figures import draw_figures

        problems = draw_figures(results, rows)
        if problems:
            results.problems += problems
            write_atomically(out / "table.md", markdown(results, rows).encode())
    return results
