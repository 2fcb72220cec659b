"""``flowzoo report``: tables and figures from records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="A folder that flowzoo bench made.")],
    figures: Annotated[bool, typer.Option(help="Draw figures too.")] = True,
) -> None:
    """Rebuild the tables and figures of a benchmark folder from its records.

    Works on a folder that is still being filled.
    """
    from flowzoo_bench.report.build import write_report

    try:
        results = write_report(folder, figures=figures)
    except (ValueError, OSError) as error:
        print(f"flowzoo report: error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    for problem in results.problems:
        print(f"flowzoo report: {problem}", file=sys.stderr)
    ok = sum(run.status == "ok" for run in results.runs)
    print(f"{ok} of {len(results.runs)} runs ok; {folder / 'table.md'}")
