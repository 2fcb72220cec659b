"""Write ``published.md`` into a benchmark folder: our numbers beside the VQ-Flows paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowzoo_bench.published.compare import (
    Key,
    Number,
    differences,
    manifold_pairs,
    measured,
    published,
    side_by_side,
    wins,
)

SCORE = "test_log_likelihood"
PAIRS = (
    ("VQ-RealNVP", "RealNVP"),
    ("VQ-MAF", "MAF"),
    ("VQ-CEF", "CEF"),
    ("VQ-CEF (thickened)", "VQ-CEF"),
    ("VQ-NSF", "NSF"),
    ("Framed NSF", "Framed VQ"),
)
FRAMED = ("Framed VQ", "Framed NSF", "VQ-CEF (thickened)")


def main(folder: Annotated[Path, typer.Argument(help="Folder of a vq_tables bench.")]) -> None:
    """Compare a ``vq_tables`` folder with the paper and with what the experiment should show."""
    try:
        ours, theirs = measured(folder), published("vq_flows")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    finite = [
        task
        for task in dict.fromkeys(task for task, _, _ in ours)
        if any(n.oracle is not None for (t, _, m), n in ours.items() if t == task and m == SCORE)
    ]
    lines = [
        "# Ours beside the VQ-Flows paper",
        "",
        "Sidheekh et al. (2022), tables 1 and 2 and supplement table 1; mean ± half width of the "
        "95 % t-interval over replicates. **≠** marks a difference above 0.5 nat.",
        "",
        "## Test log-likelihood (nats)",
        "",
        *side_by_side(ours, theirs, SCORE),
        "",
        "## Flows onto manifolds (nats; error in the data's units)",
        "",
        "The paper's rows of CEF are densities on the manifold: of the point a row is projected "
        "to, whatever the distance, so they say nothing without the error beside them and are not "
        "comparable with densities in space. The thickened density in space is; the paper has no "
        "such number. The oracle is of densities in space.",
        "",
        *manifold_pairs(ours, theirs, SCORE),
        "",
        "## Log-likelihood of samples under a KDE of the training data, bandwidth 0.1 (nats)",
        "",
        "Samples of CEF and VQ-CEF are drawn from their thickened density in space.",
        "",
        *side_by_side(ours, theirs, "sample_kde_paper"),
        "",
        "## Differences above 0.5 nat in test log-likelihood",
        "",
        *[
            f"- {t}, {m}{where}: ours {d:+.2f}"
            for metric, where in ((SCORE, ""), (f"{SCORE}[manifold]", " on the manifold"))
            for t, m, d in differences(ours, theirs, metric)
        ],
        "",
        "## Claims",
        "",
        *_claims(folder, ours, finite),
    ]
    text = "\n".join(lines) + "\n"
    (folder / "published.md").write_text(text, "utf-8")
    print(text)


def _claims(folder: Path, ours: dict[Key, Number], finite: list[str]) -> list[str]:
    lines = []
    methods = {method for _, method, _ in ours}
    for local, plain in PAIRS:
        if not {local, plain} <= methods:
            continue
        won = wins(folder, local, plain, finite)
        rest = [task for task in finite if task not in won]
        lines.append(
            f"- {local} above {plain} by the paired interval on {len(won)} of {len(finite)} sets"
            + (f"; not on {', '.join(rest)}" if rest else "")
        )
    for method in FRAMED:
        lines += _against_baselines(folder, method, ours, finite)
    return lines


def _against_baselines(
    folder: Path, method: str, ours: dict[Key, Number], finite: list[str]
) -> list[str]:
    """How near the truth a method comes, and how often it is above or below the baselines."""
    gaps = {
        task: mine.oracle - mine.mean
        for task in finite
        if (mine := ours.get((task, method, SCORE))) is not None and mine.oracle is not None
    }
    if not gaps:
        return []
    worst = max(gaps, key=lambda task: gaps[task])
    beside = [
        f"above {name} on {len(wins(folder, method, name, finite))}, below it on "
        f"{len(wins(folder, name, method, finite))}"
        for name in ("KDE", "GMM")
    ]
    return [
        f"- {method}: gap to the oracle {min(gaps.values()):.3f} to {gaps[worst]:.3f} nat (worst "
        f"on {worst}); by the paired interval {' and '.join(beside)} of {len(gaps)} sets"
    ]


if __name__ == "__main__":
    typer.run(main)
