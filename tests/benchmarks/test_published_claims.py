"""What the page says of a method and the baselines: by the paired interval, not by the means."""

from __future__ import annotations

from pathlib import Path

from flowzoo_bench.published.__main__ import _against_baselines
from flowzoo_bench.published.compare import Number


def test_a_larger_mean_is_no_claim(tmp_path: Path) -> None:
    score = "test_log_likelihood"
    rows = ["task,metric,method_a,method_b,mean_diff,ci95"]
    for task, difference in (("clear", 0.3), ("open", 0.1), ("lost", -0.3)):
        rows.append(f"{task},{score},GMM,Ours,{-difference},0.2")  # either order
        rows.append(f"{task},{score},Ours,KDE,{difference},0.2")
    (tmp_path / "paired.csv").write_text("\n".join(rows), "utf-8")
    tasks = ["clear", "open", "lost"]
    ours = {(task, "Ours", score): Number(1.0, 0.1, oracle=1.5) for task in tasks}
    for name in ("KDE", "GMM"):
        ours |= {(task, name, score): Number(0.5, 0.1, oracle=1.5) for task in tasks}
    (line,) = _against_baselines(tmp_path, "Ours", ours, tasks)
    assert "above KDE on 1, below it on 1 and above GMM on 1, below it on 1 of 3 sets" in line
    assert _against_baselines(tmp_path, "Absent", ours, tasks) == []
