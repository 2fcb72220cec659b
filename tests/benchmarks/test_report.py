"""Tables and figures follow from records alone."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowzoo_bench.records import ARRAYS, run_folder, write_spec
from flowzoo_bench.report import figures
from flowzoo_bench.report.build import write_report
from flowzoo_bench.report.load import load_results
from flowzoo_bench.report.sweeps import sweep_figure
from flowzoo_bench.report.table import paired, table, too_good
from flowzoo_bench.runspec import RunSpec
from written import LL, density, put, spec


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Three replicates of two methods, one of which fails once, and one that never ends."""
    folder = tmp_path / "results"
    for replicate, (a, b) in enumerate([(1.0, 0.5), (2.0, 1.0), (3.0, 2.5)]):
        put(folder, spec("A", replicate), density(a, a + 0.25))
        put(folder, spec("B", replicate), density(b, a + 0.25))
    put(folder, spec("C", 0), density(None), status="non_finite", reason="not finite")
    put(folder, spec("C", 1), status="crashed", reason="killed by | SIGKILL")
    write_spec(folder, spec("C", 2))
    return folder


def rows_of(out: Path, name: str = "table.csv") -> list[dict[str, str]]:
    with (out / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_means_intervals_and_gaps(out: Path) -> None:
    write_report(out, figures=False)
    rows = {(row["method"], row["metric"]): row for row in rows_of(out)}
    a = rows["A", LL]
    assert float(a["mean"]) == pytest.approx(2.0)
    assert float(a["ci95"]) == pytest.approx(4.302652729911275 / math.sqrt(3))  # t(2), s = 1
    assert (a["n"], a["ok"], a["failed"]) == ("3", "3", "0")
    assert (a["likelihood"], a["measure"]) == ("exact", "lebesgue")
    assert float(a["oracle"]) == pytest.approx(2.25)
    assert float(a["gap"]) == pytest.approx(0.25)
    assert float(rows["oracle", LL]["mean"]) == pytest.approx(2.25)
    assert float(rows["oracle", LL]["gap"]) == 0.0
    c = rows["C", LL]
    assert (c["mean"], c["n"], c["ok"], c["failed"]) == ("", "0", "0", "2")


def test_paired_differences_use_common_replicates_of_one_measure(out: Path) -> None:
    put(out, spec("D", 1), density(5.0))
    put(out, spec("E", 1), density(9.0, measure="surface(dim=2)"))
    found = {(row.method_a, row.method_b): row for row in paired(load_results(out))}
    ab = found["A", "B"]
    assert (ab.mean_diff, ab.n) == (pytest.approx(2 / 3), 3)
    assert ab.ci95 == pytest.approx(4.302652729911275 * math.sqrt(1 / 12) / math.sqrt(3))
    assert (found["A", "D"].mean_diff, found["A", "D"].n) == (-3.0, 1)
    assert found["A", "D"].ci95 is None
    assert not any("E" in key for key in found)


def test_the_page_shows_failures_first_and_the_oracle_on_top(out: Path) -> None:
    write_report(out, figures=False)
    page = (out / "table.md").read_text("utf-8")
    assert page.index("## Failures") < page.index("## blob")
    assert "killed by \\| SIGKILL" in page
    assert "9 runs: 1 crashed, 1 non_finite, 6 ok, 1 pending." in page
    body = page[page.index("## blob") :]
    assert (
        body.index("**oracle**") < body.index("| A |") < body.index("| B |") < body.index("| C |")
    )


def test_the_page_has_the_median_beside_the_mean(out: Path) -> None:
    median = density(4.7, name=f"{LL}_median")
    put(out, spec("M", 0), density(-2e8, 1.0), median, density(1.0, name=f"{LL}[bound]"))
    write_report(out, figures=False)
    page = (out / "table.md").read_text("utf-8")
    lines = page[page.index(f"| method | {LL} |") :].splitlines()
    head, row = lines[0], next(line for line in lines if line.startswith("| M |"))
    cells = dict(zip(head.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))
    assert cells[f"{LL}_median"].startswith("4.7")
    assert LL in cells and f"{LL}[bound]" not in cells


def test_measures_are_never_ranked_together(out: Path) -> None:
    put(out, spec("S", 0), density(100.0, measure="surface(dim=2)"))
    write_report(out, figures=False)
    page = (out / "table.md").read_text("utf-8")
    first = page.index("Densities against lebesgue")
    second = page.index("Densities against surface(dim=2)")
    assert first < page.index("| A |") < second < page.index("| S |")


def test_densities_on_space_rank_nothing_where_the_data_have_none(tmp_path: Path) -> None:
    data = {"features": 3, "train": 9, "valid": 9, "test": 9, "oracle": True}
    for replicate in (0, 1):
        for method, value in (("A", 1.0), ("B", 9.0 + replicate)):
            put(tmp_path, spec(method, replicate), density(value), data=data)
            on_r3 = density(value, 10.0)
            put(tmp_path, spec(method, replicate, "thick"), on_r3, data=data)
            put(tmp_path, spec(method, replicate, "unknown"), density(value))
        surface = density(2.0, 3.0, measure="surface(dim=2)")
        put(tmp_path, spec("S", replicate), surface, data=data)
    write_report(tmp_path, figures=False)
    page = (tmp_path / "table.md").read_text("utf-8")
    assert page.count("not ranked)") == 1  # only where a density of another measure is the truth
    blob, thick = page.index("## blob"), page.index("## thick")
    assert blob < page.index("not ranked)") < thick
    for start, ends, order in ((blob, thick, "AB"), (thick, len(page), "BA")):
        found = page[start:ends]
        first, second = (found.index(f"| {method} |") for method in order)
        assert first < second
    pairs = {(row.task, row.method_a, row.method_b) for row in paired(load_results(tmp_path))}
    assert pairs == {("thick", "A", "B"), ("unknown", "A", "B")}


def test_a_run_without_pictures_has_not_failed(out: Path) -> None:
    reason = "no density: ValueError: rows"
    for replicate in range(3):
        put(out, spec("A", replicate), density(1.0, 1.25), reason=reason)
    write_report(out, figures=False)
    page = (out / "table.md").read_text("utf-8")
    pictures = page.index("## Pictures not made")
    assert "killed by" in page[page.index("## Failures") : pictures]
    assert page.count(reason) == 1 and page.index(f"| blob | A | {reason} |") > pictures
    assert pictures < page.index("## blob")


def test_bounds_and_estimates_are_marked(out: Path) -> None:
    put(out, spec("L", 0), density(7.0, likelihood="lower_bound"))
    put(out, spec("M", 0), density(8.0, likelihood="estimate(64)"))
    write_report(out, figures=False)
    page = (out / "table.md").read_text("utf-8")
    assert "| L | ≥ 7 |" in page
    assert "| M | ~ 8 |" in page


def test_real_data_stands_beside_scores_of_samples(out: Path) -> None:
    score = {"name": "sample_kde_cv", "value": 1.5, "unit": "nats", "reference": 2.5}
    put(out, spec("A", 0), density(1.0, 1.25), score)
    rows = {(row.method, row.metric): row for row in table(load_results(out))}
    assert rows["real data", "sample_kde_cv"].mean == 2.5
    assert rows["A", "sample_kde_cv"].gap is None
    write_report(out, figures=False)
    assert "*real data*" in (out / "table.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("gap", "likelihood", "bug"),
    [
        (-0.5, "exact", True),
        (-0.2, "exact", False),
        (-0.5, "lower_bound", False),
        (0.5, "exact", False),
    ],
)
def test_an_exact_density_above_the_oracle_is_a_bug(
    tmp_path: Path, gap: float, likelihood: str, bug: bool
) -> None:
    row = {
        "name": "gap_to_oracle",
        "value": gap,
        "stderr": 0.1,
        "direction": "min",
        "likelihood": likelihood,
        "measure": "lebesgue",
    }
    put(tmp_path, spec("A", 0), density(1.0, 1.0), row)
    assert bool(too_good(load_results(tmp_path))) is bug


def test_what_a_pack_shares_has_no_interval_and_is_not_paired(tmp_path: Path) -> None:
    for method in ("A", "B"):
        for replicate in (0, 1):
            clocks = {"train_s": 2.0, "members": 2, "amortised": True}
            memory = {"peak_rss": 2**20, "shared": True}
            run = spec(method, replicate)
            put(tmp_path, run, density(1.0 * replicate), clocks=clocks, memory=memory)
    write_report(tmp_path, figures=False)
    shared = [
        row for row in rows_of(tmp_path) if row["metric"].endswith(("_amortised", "_of_pack"))
    ]
    assert len(shared) == 4
    assert all(row["ci95"] == "" and row["n"] == "2" for row in shared)
    assert {row["metric"] for row in rows_of(tmp_path, "paired.csv")} == {LL}


def test_pairs_say_what_they_compare(tmp_path: Path) -> None:
    curve = {"stage": "flow", "epochs": 1, "best_epoch": 1, "best_valid": 1.0}
    points = [{"epoch": 1, "step": 1, "train": 1.0, "valid": 1.0, "seconds": 0.1}]
    for replicate in (0, 1):
        curves = [{**curve, "points": points}]
        put(tmp_path, spec("A", replicate), density(2.0), curves=curves)
        bound = density(1.0, likelihood="lower_bound")
        put(tmp_path, spec("B", replicate), bound, curves=curves)
    write_report(tmp_path, figures=False)
    (row,) = rows_of(tmp_path, "paired.csv")  # and objectives of two methods are not compared
    assert (row["likelihood_a"], row["likelihood_b"]) == ("exact", "lower_bound")
    assert (row["measure"], row["mean_diff"]) == ("lebesgue", "1.0")


def test_other_draws_of_the_data_are_not_paired(tmp_path: Path) -> None:
    put(tmp_path, spec("A", 0), density(2.0))
    put(tmp_path, spec("B", 0).model_copy(update={"root": 1}), density(1.0))
    write_report(tmp_path, figures=False)
    assert rows_of(tmp_path, "paired.csv") == []


@pytest.mark.parametrize("status", ["error", "non_finite"])
def test_one_bad_metric_leaves_the_others_in_the_table(tmp_path: Path, status: str) -> None:
    bad = {"name": "mine", "value": None}
    put(tmp_path, spec("A", 0), density(2.0), bad, status=status, reason="metric 'mine': no")
    put(tmp_path, spec("A", 1), density(4.0), {"name": "mine", "value": 1.0})
    write_report(tmp_path, figures=False)
    rows = {row["metric"]: row for row in rows_of(tmp_path)}
    assert (rows[LL]["mean"], rows[LL]["n"]) == ("3.0", "2")
    assert (rows[LL]["ok"], rows[LL]["failed"]) == ("1", "1")
    assert (rows["mine"]["mean"], rows["mine"]["n"]) == ("1.0", "1")
    assert "metric 'mine': no" in (tmp_path / "table.md").read_text("utf-8")


def test_amortised_times_have_a_name_of_their_own(tmp_path: Path) -> None:
    put(tmp_path, spec("A", 0), clocks={"train_s": 2.0, "members": 5, "amortised": True})
    put(tmp_path, spec("B", 0), clocks={"train_s": 3.0})
    put(tmp_path, spec("P", 0), memory={"peak_rss": 2**20, "shared": True})
    put(tmp_path, spec("Q", 0), memory={"peak_rss": 2**20})
    names = {(row.method, row.metric) for row in table(load_results(tmp_path))}
    assert ("A", "train_seconds_amortised") in names and ("A", "train_seconds") not in names
    assert ("B", "train_seconds") in names
    assert ("P", "peak_memory_of_pack") in names and ("Q", "peak_memory") in names


def test_derived_files_can_be_deleted_and_come_back_equal(out: Path) -> None:
    write_report(out)
    derived = {path: path.read_bytes() for path in out.glob("*.*")}
    assert {path.name for path in derived} == {"table.csv", "table.md", "paired.csv"}
    for path in derived:
        path.unlink()
    shutil.rmtree(out / "figures", ignore_errors=True)
    write_report(out)
    assert {path: path.read_bytes() for path in derived} == derived


def test_damaged_records_are_listed_not_fatal(out: Path) -> None:
    (run_folder(out, spec("B", 1).run_id) / "record.json").write_text("{", "utf-8")
    (out / "records" / "stray").mkdir()
    write_report(out, figures=False)
    page = (out / "table.md").read_text("utf-8")
    assert "unreadable" in page and "records/stray" in page
    (b,) = [row for row in rows_of(out) if row["method"] == "B"]
    assert (b["n"], b["ok"], b["failed"]) == ("2", "2", "1")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a folder that flowzoo bench made"):
        write_report(tmp_path)


def put_with_arrays(folder: Path, features: int) -> None:
    """A run with everything a figure is drawn from, stray and non-finite samples included."""
    run = spec("A", 0)
    points = [
        {"epoch": e, "step": e, "train": 1.0, "valid": 1.0 / e, "seconds": 0.1} for e in (1, 2)
    ]
    curve = {"stage": "flow", "epochs": 2, "best_epoch": 2, "best_valid": 1.0, "points": points}
    data = {
        "features": features,
        "train": 9,
        "valid": 9,
        "test": 9,
        "bin_width": 1.0 if features == 64 else None,
    }
    put(folder, run, density(1.0), curves=[curve], data=data)
    x, samples = torch.randn(50, features), torch.randn(50, features)
    samples[3] = float("nan")
    samples[4] = 1e6
    charts = torch.arange(50, dtype=torch.int32) % 30
    arrays = {"data": x, "samples": samples, "data_charts": charts}
    layers = {"layers/00": x.clone(), "layers/01": samples.clone()}
    save_file({**arrays, **layers}, run_folder(folder, run.run_id) / ARRAYS)


FIGURES = {f"blob-{kind}.png" for kind in ("samples", "charts", "curves", "layers-a")}


@pytest.mark.parametrize("features", [1, 2, 3, 30, 64])
def test_figures_for_every_width(tmp_path: Path, features: int) -> None:
    put_with_arrays(tmp_path, features)
    write_report(tmp_path)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == FIGURES
    for path in (tmp_path / "figures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("values", [[2, 4, 64], ["a", "b"], [1, 2], [-1.5, 0.0]])
def test_a_sweep_is_drawn_in_its_order(tmp_path: Path, values: list[Any]) -> None:
    methods = [{"label": "kmeans", "sweep": {"partitioner.num": values}}, {"label": "flow"}]
    for number, value in enumerate(values):
        for replicate in (0, 1):
            run = spec(f"kmeans num={value}", replicate)
            more = [
                {"name": "sample_kde_cv", "value": -1e3 * number, "unit": "nats"},
                {"name": "bandwidth", "value": 1.0},
                {"name": "bad_rows", "value": 0.0, "unit": "rows", "direction": "min"},
            ]
            put(tmp_path, run, density(number + replicate, 9.0), *more)
    put(tmp_path, spec("flow", 0), density(0.5, 9.0))
    experiment = {"name": "sweep", "tasks": [{"name": "blob", "label": ""}], "methods": methods}
    (tmp_path / "experiment.json").write_text(json.dumps(experiment), "utf-8")
    write_report(tmp_path)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "blob-sweep-partitioner-num.png"
    }
    results = load_results(tmp_path)
    assert results.methods == [f"kmeans num={value}" for value in values] + ["flow"]
    figure = sweep_figure(results, table(results), "blob", "partitioner.num")
    assert figure is not None
    axes, second = figure.axes
    assert second.get_title().startswith("sample_kde_cv") and second.get_yscale() == "symlog"
    (bars,) = axes.containers
    drawn = bars.lines[0]
    assert list(drawn.get_xdata()) == values
    assert list(drawn.get_ydata()) == [n + 0.5 for n in range(len(values))]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "oracle",
        "flow",
        "kmeans",
    ]


def test_a_picture_that_cannot_be_drawn_costs_no_other(tmp_path: Path) -> None:
    put_with_arrays(tmp_path, 3)
    folder = run_folder(tmp_path, spec("A", 0).run_id)
    arrays = load_file(folder / ARRAYS)
    save_file({**arrays, "data_charts": torch.zeros(50, 7, dtype=torch.int32)}, folder / ARRAYS)
    results = write_report(tmp_path)
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"blob-samples.png", "blob-curves.png"} <= drawn
    assert "blob-charts.png" not in drawn
    assert any(p.startswith("figures/blob-charts.png not drawn: ") for p in results.problems)
    assert "figures/blob-charts.png not drawn" in (tmp_path / "table.md").read_text("utf-8")


def put_arrays(folder: Path, run: RunSpec, mark: float) -> Path:
    """Arrays that say in the first entry whose they are."""
    x = torch.randn(9, 2)
    x[0] = mark
    path = run_folder(folder, run.run_id) / ARRAYS
    save_file({"data": x, "samples": x.clone()}, path)
    return path


def drawn_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, float], list[str]]:
    """Which replicate of each method is in the picture of samples; what the report complains of."""
    seen: dict[str, float] = {}

    def look(task: str, held: Any, view: Any) -> None:
        seen.update({method: float(arrays["samples"][0, 0]) for method, arrays in held.items()})

    monkeypatch.setattr(figures, "samples_figure", look)
    return seen, write_report(folder).problems


@pytest.mark.parametrize("status", ["non_finite", "error"])
def test_a_run_one_of_whose_metrics_failed_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    for replicate in (0, 1):
        for method in ("A", "B"):
            run, good = spec(method, replicate), (method, replicate) == ("B", 1)
            put(tmp_path, run, density(1.0), status="ok" if good else status)
            put_arrays(tmp_path, run, float(replicate))
    lost = spec("C", 0)
    put(tmp_path, lost, status="diverged")  # has no samples worth a look
    put_arrays(tmp_path, lost, 0.0)
    assert drawn_from(tmp_path, monkeypatch) == ({"A": 0.0, "B": 1.0}, [])


def test_samples_without_a_number_are_drawn(tmp_path: Path) -> None:
    run = spec("A", 0)
    put(tmp_path, run, density(1.0), status="non_finite")
    arrays = {"data": torch.randn(9, 2), "samples": torch.full((9, 2), float("nan"))}
    save_file(arrays, run_folder(tmp_path, run.run_id) / ARRAYS)
    assert write_report(tmp_path).problems == []
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"blob-samples.png"}


@pytest.mark.parametrize(
    "harm, said",
    [
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "not drawn from: damaged: "),
        (lambda path: save_file({"data": torch.ones(2, 2)}, path), "expected data and samples"),
        (Path.unlink, "not there, nothing is drawn from it"),
    ],
)
def test_the_next_replicate_is_drawn_where_arrays_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Any, said: str
) -> None:
    for replicate in (0, 1):
        put(tmp_path, spec("A", replicate), density(1.0))
        put_arrays(tmp_path, spec("A", replicate), float(replicate))
    harm(run_folder(tmp_path, spec("A", 0).run_id) / ARRAYS)
    seen, problems = drawn_from(tmp_path, monkeypatch)
    assert seen == {"A": 1.0}
    (line,) = problems
    assert line.startswith(f"records/{spec('A', 0).run_id}/{ARRAYS}: ") and said in line
    assert line in (tmp_path / "table.md").read_text("utf-8")


def test_records_without_arrays_are_said_to_be_so_once(tmp_path: Path) -> None:
    for replicate in (0, 1):
        put(tmp_path, spec("A", replicate), density(1.0))
    assert write_report(tmp_path).problems == [f"no pictures of data: no run has its {ARRAYS}"]
    put(tmp_path, spec("A", 0), density(1.0), reason="no pictures: ValueError: assign")
    put(tmp_path, spec("B", 0), status="error", reason="OSError: the disk is gone")
    put_arrays(tmp_path, spec("A", 1), 1.0)
    assert write_report(tmp_path).problems == []  # the records say why


@pytest.mark.parametrize("rows", [1, 2])
def test_wide_data_of_few_rows_are_drawn(tmp_path: Path, rows: int) -> None:
    run = spec("a $x^$ b", 0)
    put(tmp_path, run, density(1.0))
    x = torch.randn(rows, 5)
    save_file({"data": x, "samples": x.clone()}, run_folder(tmp_path, run.run_id) / ARRAYS)
    results = write_report(tmp_path)
    assert results.problems == []
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"blob-samples.png"}


@pytest.mark.filterwarnings("ignore:Glyph")
def test_labels_of_one_slug_have_pictures_of_their_own(tmp_path: Path) -> None:
    x = torch.randn(9, 2)
    for task in ("日本", "中国", "Blob", "blob"):
        run = spec("A", 0, task)
        put(tmp_path, run, density(1.0))
        save_file({"data": x, "samples": x.clone()}, run_folder(tmp_path, run.run_id) / ARRAYS)
    assert len(list(tmp_path.glob("records/*"))) == 4
    write_report(tmp_path)
    assert len(list((tmp_path / "figures").glob("*-samples.png"))) == 4


def test_drawing_leaves_pyplot_alone(tmp_path: Path) -> None:
    put_with_arrays(tmp_path, 3)
    code = (
        "import sys; from pathlib import Path; from flowzoo_bench.report.build import write_report;"
        f"write_report(Path({str(tmp_path)!r})); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == FIGURES
