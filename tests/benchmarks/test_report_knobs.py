"""Scores against sampling knobs, and what the page says of image data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowzoo_bench.metrics.knobs import knob_name
from flowzoo_bench.report.build import write_report
from flowzoo_bench.report.knob_curves import knob_curves_figure
from flowzoo_bench.report.knobs import by_setting, knob_scores
from flowzoo_bench.report.load import load_results
from flowzoo_bench.report.table import is_main, table
from written import LL, density, put, spec

FD = "frechet_distance[classifier-a1b2]"


def score(value: float | None, reference: float | None = 0.5, **knobs: float) -> dict[str, Any]:
    name = knob_name(FD, **knobs)
    return {"name": name, "value": value, "direction": "min", "reference": reference}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A method with both knobs, one with the temperature, one with none."""
    data = {"features": 784, "train": 9, "valid": 9, "test": 9, "bits": 3, "levels": 8}
    bits = {"name": "test_bits_per_dim", "value": 2.5, "unit": "bits/dim at 3 bits"}
    for replicate in (0, 1):
        nif = [
            score(9.0 + replicate),
            score(5.0 + replicate, noise_scale=0.2),
            score(4.0 + replicate, noise_scale=0.0),
            score(30.0, temperature=2.0),
            score(20.0, noise_scale=0.2, temperature=2.0),
            bits,
        ]
        put(
            tmp_path,
            spec("NIF", replicate),
            density(-9.0),
            *nif,
            data={**data, "shape": (1, 28, 28)},
        )
        put(tmp_path, spec("NF", replicate), density(-8.0), score(7.0), score(8.0, temperature=2.0))
        put(tmp_path, spec("Gaussian", replicate), density(-7.0), score(12.0))
    return tmp_path


def test_scores_are_sorted_by_knob_and_those_without_it_are_levels(out: Path) -> None:
    by_s, by_s_warm, by_t = knob_scores(table(load_results(out)), "blob")
    assert (by_s.metric, by_s.symbol, by_s.fixed) == (FD, "s", "")
    assert {v: row.mean for v, row in by_s.lines["NIF"].items()} == {0.0: 4.5, 0.2: 5.5, 1.0: 9.5}
    assert by_s.values == [0.0, 0.2, 1.0]
    assert {m: row.mean for m, row in by_s.levels.items()} == {
        "real data": 0.5,
        "NF": 7.0,
        "Gaussian": 12.0,
    }
    assert (by_s_warm.symbol, by_s_warm.fixed) == ("s", "t = 2")
    assert {v: row.mean for v, row in by_s_warm.lines["NIF"].items()} == {0.2: 20.0, 1.0: 30.0}
    assert by_s_warm.levels["NF"].mean == 8.0 and "Gaussian" not in by_s_warm.levels
    assert by_t.knob == "temperature" and set(by_t.lines) == {"NIF", "NF"}
    assert {v: row.mean for v, row in by_t.lines["NF"].items()} == {1.0: 7.0, 2.0: 8.0}


def test_a_line_is_drawn_with_its_intervals_among_the_levels(out: Path) -> None:
    by_s = knob_scores(table(load_results(out)), "blob")[0]
    (axes,) = knob_curves_figure("blob", [by_s]).axes
    (bars,) = axes.containers
    assert list(bars.lines[0].get_xdata()) == [0.0, 0.2, 1.0]
    assert list(bars.lines[0].get_ydata()) == [4.5, 5.5, 9.5]
    (segments,) = [line.get_segments() for line in bars.lines[2]]
    half = 12.706204736432095 * 0.5  # t(1), standard error 0.5
    assert segments[0][:, 1] == pytest.approx([4.5 - half, 4.5 + half])
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {
        "NIF",
        "NF",
        "Gaussian",
        "real data",
    }
    flat = [line for line in axes.lines if len(set(line.get_ydata())) == 1]
    assert {line.get_ydata()[0] for line in flat} >= {0.5, 7.0, 12.0}


def test_a_floor_that_moves_with_the_knob_is_a_line(tmp_path: Path) -> None:
    put(tmp_path, spec("A", 0), score(2.0, 0.5), score(1.0, 0.75, noise_scale=0.0))
    (scores,) = knob_scores(table(load_results(tmp_path)), "blob")
    assert {v: row.mean for v, row in scores.lines["real data"].items()} == {0.0: 0.75, 1.0: 0.5}


def test_scores_that_are_no_numbers_leave_gaps(tmp_path: Path) -> None:
    put(tmp_path, spec("A", 0), score(None), score(1.0, noise_scale=0.0), status="non_finite")
    put(tmp_path, spec("B", 0), score(None, noise_scale=0.0), status="non_finite")
    (scores,) = knob_scores(table(load_results(tmp_path)), "blob")
    (axes,) = knob_curves_figure("blob", [scores]).axes
    assert [list(bars.lines[0].get_xdata()) for bars in axes.containers] == [[0.0]]
    put(tmp_path / "none", spec("B", 0), score(None, noise_scale=0.0), status="non_finite")
    (scores,) = knob_scores(table(load_results(tmp_path / "none")), "blob")
    assert knob_curves_figure("blob", [scores]) is None


def test_a_method_has_one_colour_in_all_panels(tmp_path: Path) -> None:
    other = {"name": knob_name("coverage", noise_scale=0.0), "value": 1.0}
    put(tmp_path, spec("A", 0), score(1.0, noise_scale=0.0))
    put(tmp_path, spec("B", 0), score(2.0, noise_scale=0.0), other)
    (together,) = by_setting(knob_scores(table(load_results(tmp_path)), "blob"))
    distance, coverage = knob_curves_figure("blob", together).axes
    assert (distance.get_title(), coverage.get_title()) == (FD, "coverage")
    a, b = (bars.lines[0].get_color() for bars in distance.containers)
    assert a != b and [bars.lines[0].get_color() for bars in coverage.containers] == [b]


def test_the_page_has_knobs_in_tables_of_their_own(out: Path) -> None:
    write_report(out)
    page = (out / "table.md").read_text("utf-8")
    main, *small = page[page.index("## blob") :].split("Against the ")
    header = next(line for line in main.splitlines() if line.startswith("| method"))
    assert FD in header and "s=0.2" not in page and "t=2" not in page
    assert "test_bits_per_dim (bits/dim at 3 bits)" in header
    assert "Images of 1 x 28 x 28 (C, H, W) with 8 levels (3 bits)." in main
    real = next(line for line in main.splitlines() if line.startswith("| *real data*"))
    cells = dict(zip(header.split(" | "), real.split(" | "), strict=True))
    assert cells[FD].startswith("0.500")
    assert [text.partition(":")[0] for text in small] == [
        "noise scale s",
        "noise scale s at t = 2",
        "temperature t",
    ]
    assert "| metric | method | s = 0 | s = 0.2 | s = 1 | any s |" in small[0]
    assert f"| {FD} | NF |  |  |  | 7 ± 0 |" in small[0]
    (nif,) = [line for line in small[0].splitlines() if "| NIF |" in line]
    assert [cell.split(" ")[0] for cell in nif.split(" | ")[2:5]] == ["4.500", "5.500", "9.500"]
    text = (out / "table.csv").read_text("utf-8")
    assert f"blob,NIF,{FD}[s=0.2],5.5," in text and ",bits/dim at 3 bits\n" in text
    assert {path.name for path in (out / "figures").iterdir()} == {
        "blob-scores-vs-noise-scale.png",
        "blob-scores-vs-noise-scale-t-2.png",
        "blob-scores-vs-temperature.png",
    }


@pytest.mark.parametrize(
    ("metric", "main"),
    [
        (LL, True),
        (f"{LL}[elbo]", False),
        ("test_bits_per_dim[elbo]", False),
        ("test_non_finite_rows[elbo]", False),
        (FD, True),
        (f"{FD}[s=0]", False),
        (f"{FD}[s=0.2][t=2]", False),
        ("embedding_knn_accuracy", True),
    ],
)
def test_what_stands_in_the_main_table(metric: str, main: bool) -> None:
    assert is_main(metric) is main
