"""How much the validation objective moves from epoch to epoch: in the table and as a picture."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowzoo_bench.records import Curve
from flowzoo_bench.report.build import write_report
from flowzoo_bench.report.load import load_results
from flowzoo_bench.report.stability import late_change, stability_figure
from written import density, put, spec

NAME = "validation_change"


def curve(valid: Sequence[float | None], stage: str = "flow") -> dict[str, Any]:
    points = [
        {"epoch": e + 1, "step": 5 * e, "train": 1.0, "valid": v, "seconds": 0.1}
        for e, v in enumerate(valid)
    ]
    best = {"epochs": len(points), "best_epoch": 1, "best_valid": 0.0}
    return {"stage": stage, **best, "points": points}


def zigzag(epochs: int, size: float, late: float | None = None) -> list[float]:
    """Up and down by ``size``, and by ``late`` in the last quarter of the epochs."""
    steps = [late if late is not None and e > 0.75 * epochs else size for e in range(2, epochs + 1)]
    return np.cumsum([1.0, *(step * (-1) ** k for k, step in enumerate(steps))]).tolist()


def of(valid: Sequence[float | None]) -> float | None:
    return late_change(Curve.model_validate(curve(valid)))


def table(out: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (out / "table.csv").open(encoding="utf-8") as file:
        return {(r["task"], r["method"]): r for r in csv.DictReader(file) if r["metric"] == NAME}


@pytest.mark.parametrize("epochs", [20, 37, 400])
def test_the_number_is_the_median_change_of_the_last_quarter(epochs: int) -> None:
    assert of(zigzag(epochs, 5.0, 0.25)) == pytest.approx(0.25)
    assert of(zigzag(epochs, 0.25, 5.0)) == pytest.approx(5.0)
    once = zigzag(epochs, 0.25)
    once[-2] += 9.0  # one epoch that jumps and comes back is not what is typical
    assert of(once) == pytest.approx(0.25)


def test_the_last_quarter_of_forty_epochs_is_ten() -> None:
    ramp = np.cumsum(np.arange(1.0, 41.0) ** 2).tolist()  # the change of epoch e is e^2
    assert of(ramp) == pytest.approx((35**2 + 36**2) / 2)


def test_a_short_curve_says_nothing() -> None:
    assert of(zigzag(19, 1.0)) is None and of(zigzag(20, 1.0)) == pytest.approx(1.0)


def test_an_epoch_without_a_number_is_a_change_without_bound() -> None:
    some: list[float | None] = [*zigzag(40, 0.5)]
    some[-1] = None
    assert of(some) == pytest.approx(0.5)
    assert of([*zigzag(30, 0.5), *[None] * 10]) == math.inf


def test_the_table_has_it_of_the_last_stage_that_was_trained(tmp_path: Path) -> None:
    for replicate, size in enumerate((0.25, 0.75)):
        first = curve(zigzag(40, 9.0), "autoencoder")
        main, closed = curve(zigzag(40, size)), curve([], "weights")
        put(tmp_path, spec("A", replicate), density(1.0), curves=[first, main, closed])
    put(tmp_path, spec("B", 0), density(1.0), curves=[first, curve(zigzag(9, 1.0))])
    put(tmp_path, spec("C", 0), density(1.0))
    put(tmp_path, spec("D", 0), density(1.0), curves=[curve([*zigzag(30, 1.0), *[None] * 10])])
    put(tmp_path, spec("A", 0, "short"), density(1.0), curves=[curve(zigzag(9, 1.0))])
    write_report(tmp_path, figures=False)
    rows = table(tmp_path)
    assert set(rows) == {("blob", "A"), ("blob", "D")}
    assert float(rows["blob", "A"]["mean"]) == pytest.approx(0.5)
    assert (rows["blob", "A"]["n"], rows["blob", "A"]["unit"]) == ("2", "nats")
    assert rows["blob", "D"]["mean"] == ""  # measured, and not finite
    page = (tmp_path / "table.md").read_text("utf-8")
    assert page.count(f"`{NAME}` is the median") == 1
    blob, short = page.index("## blob"), page.index("## short")
    assert NAME in page[blob:short] and NAME not in page[short:]
    with (tmp_path / "paired.csv").open(encoding="utf-8") as file:
        assert NAME not in {row["metric"] for row in csv.DictReader(file)}


def test_a_page_without_the_number_does_not_explain_it(tmp_path: Path) -> None:
    put(tmp_path, spec("A", 0), density(1.0), curves=[curve(zigzag(9, 1.0))])
    write_report(tmp_path, figures=False)
    assert NAME not in (tmp_path / "table.md").read_text("utf-8")


def lines_of(out: Path) -> dict[str, list[tuple[list[float], list[float]]]]:
    figure = stability_figure(load_results(out), "blob")
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    colours = list(dict.fromkeys(line.get_color() for line in axes.get_lines()))
    found: dict[str, list[Any]] = {name: [] for name in names}
    for line in axes.get_lines():
        own = found[names[colours.index(line.get_color())]]
        own.append((list(line.get_xdata()), list(line.get_ydata())))
    return found


def test_the_picture_is_the_running_median_a_line_a_replicate(tmp_path: Path) -> None:
    jump = zigzag(100, 0.25)
    jump[40] += 50.0  # two changes of five: the window is longer
    put(tmp_path, spec("A", 0), density(1.0), curves=[curve([3.0] * 50, "first"), curve(jump)])
    put(tmp_path, spec("A", 1), density(1.0), curves=[curve(zigzag(60, 0.5))])
    put(tmp_path, spec("B", 0), density(1.0), curves=[curve(zigzag(20, 2.0))])
    put(tmp_path, spec("C", 0), density(1.0), curves=[curve(zigzag(19, 1.0))])
    found = lines_of(tmp_path)
    assert list(found) == ["A", "B"]
    (epochs, changes), (_, other) = found["A"]
    assert epochs == list(range(2, 101)) and np.allclose(changes, 0.25)
    assert len(other) == 59 and np.allclose(other, 0.5)
    ((epochs, changes),) = found["B"]
    assert epochs == list(range(2, 21)) and np.allclose(changes, 2.0)


def test_a_window_is_a_twentieth_of_the_epochs(tmp_path: Path) -> None:
    ramp = np.cumsum(np.arange(1.0, 201.0) ** 2).tolist()  # the change of epoch e is e^2
    put(tmp_path, spec("A", 0), density(1.0), curves=[curve(ramp)])
    bumped = np.cumsum([1.0] + [9.0 if 95 <= e < 101 else 1.0 for e in range(2, 201)]).tolist()
    put(tmp_path, spec("B", 0), density(1.0), curves=[curve(bumped)])
    longer = np.cumsum([1.0] + [9.0 if 95 <= e < 100 else 1.0 for e in range(2, 201)]).tolist()
    put(tmp_path, spec("C", 0), density(1.0), curves=[curve(longer)])
    found = lines_of(tmp_path)
    ((epochs, changes),) = found["A"]
    # centred: monotone changes are their own running median, but at the ends
    assert np.allclose(changes[5:-5], np.square(epochs[5:-5]))
    assert changes[0] == np.median(np.square(epochs[:6]))
    # of eleven epochs six are a majority, five are none
    assert max(found["B"][0][1]) == 9.0 and max(found["C"][0][1]) == 1.0


def test_what_is_no_number_or_no_change_is_a_gap_in_the_line(tmp_path: Path) -> None:
    some: list[float | None] = [*zigzag(30, 1.0)]
    some[10:13] = [None] * 3
    put(tmp_path, spec("A", 0), density(1.0), curves=[curve(some)])
    put(tmp_path, spec("B", 0), density(1.0), curves=[curve([2.0] * 30)])
    found = lines_of(tmp_path)
    ((epochs, changes),) = found["A"]
    gaps = [e for e, change in zip(epochs, changes, strict=True) if math.isnan(change)]
    assert gaps == [11, 12, 13, 14]
    assert np.isnan(found["B"][0][1]).all()
    write_report(tmp_path)
    assert (tmp_path / "figures" / "blob-stability.png").read_bytes().startswith(b"\x89PNG")


def test_it_takes_two_methods_to_compare(tmp_path: Path) -> None:
    put(tmp_path, spec("A", 0), density(1.0), curves=[curve(zigzag(30, 1.0))])
    put(tmp_path, spec("A", 1), density(1.0), curves=[curve(zigzag(30, 1.0))])
    put(tmp_path, spec("B", 0), density(1.0), curves=[curve(zigzag(19, 1.0))])
    assert stability_figure(load_results(tmp_path), "blob") is None
    write_report(tmp_path)
    assert not (tmp_path / "figures" / "blob-stability.png").exists()
