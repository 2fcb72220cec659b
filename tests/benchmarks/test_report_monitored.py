"""What stages monitor and warn of: in the record, on the page, in a picture and while it runs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from flowzoo_bench.display import Display
from flowzoo_bench.member import Member
from flowzoo_bench.records import RECORD, Record, find_record, run_folder
from flowzoo_bench.report.build import write_report
from flowzoo_bench.report.load import load_results
from flowzoo_bench.report.monitored import monitored_figure
from flowzoo_bench.runspec import Part, RunSpec
from written import density, put, spec

FLOOR = "the objective is below its floor"


def curve(shift: float, *warnings: str, stage: str = "flow") -> dict[str, object]:
    points = [
        {
            "epoch": epoch,
            "step": 5 * epoch,
            "train": 1.0,
            "valid": shift - epoch,
            "seconds": 0.1,
            "monitored": {"entropy": shift + epoch, "floor": None if epoch == 2 else 0.5},
        }
        for epoch in (1, 2, 3)
    ]
    best = {"epochs": 3, "best_epoch": 3, "best_valid": shift - 3}
    return {"stage": stage, **best, "points": points, "warnings": warnings}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    put(tmp_path, spec("A", 0), density(1.0), curves=[curve(0.0, FLOOR), curve(9.0, stage="two")])
    put(tmp_path, spec("A", 1), density(1.0), curves=[curve(1.0, FLOOR)])
    put(tmp_path, spec("B", 0), density(1.0), curves=[curve(2.0)])
    put(tmp_path, spec("C", 0), density(1.0))
    return tmp_path


def test_the_page_says_who_warned_before_any_number(out: Path) -> None:
    write_report(out, figures=False)
    page = (out / "table.md").read_text("utf-8")
    assert f"| blob | A | 0, 1 | flow | {FLOOR} |" in page and page.count(FLOOR) == 1
    assert page.index(FLOOR) < page.index("## blob")


def test_the_picture_holds_every_number_once(out: Path) -> None:
    figure = monitored_figure(load_results(out), "blob")
    assert [axes.get_title() for axes in figure.axes] == ["A, flow", "A, two", "B, flow"]
    lines = figure.axes[0].get_lines()
    drawn = sorted((list(line.get_xdata()), list(line.get_ydata())) for line in lines)
    epochs = [1, 2, 3]
    expected = [([1, 3], [0.5, 0.5])] * 2
    expected += [(epochs, [s - e for e in epochs]) for s in (0.0, 1.0)]
    expected += [(epochs, [s + e for e in epochs]) for s in (0.0, 1.0)]
    assert drawn == sorted(expected)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["validation objective", "entropy", "floor"]


def test_it_is_drawn_where_there_is_something_to_draw(out: Path, tmp_path: Path) -> None:
    write_report(out)
    assert (out / "figures" / "blob-monitored.png").read_bytes().startswith(b"\x89PNG")
    put(out, spec("C", 0, "other"), density(1.0))
    assert monitored_figure(load_results(out), "other") is None


def test_a_bench_shows_warnings_with_the_run(out: Path) -> None:
    from rich.console import Console

    text = io.StringIO()
    display = Display(Console(file=text, width=200))
    for item in (spec("A", 0), spec("B", 0)):
        record = find_record(out, item.run_id)
        assert record is not None
        display.ended(record)
    ended, warned, other = text.getvalue().splitlines()
    assert "| A |" in ended and warned == f"  warning: stage 'flow': {FLOOR}" and "| B |" in other


def test_records_of_before_are_read(out: Path) -> None:
    path = run_folder(out, spec("B", 0).run_id) / RECORD
    data = json.loads(path.read_text("utf-8"))
    for item in data["curves"]:
        del item["warnings"]
        for point in item["points"]:
            del point["monitored"]
    (old,) = Record.model_validate(data).curves
    assert old.warnings == () and old.points[0].monitored == {}


def test_a_run_keeps_what_its_stage_monitored(faulty: Path, tmp_path: Path) -> None:
    from flowzoo.training import TrainingData, TrainingWarning, train_pack

    method = Part(name="shift", options={"fault": "watch", "epochs": 2})
    item = RunSpec(
        task=Part(name="blob"),
        method=method,
        replicate=0,
        precision="float64",
        task_label="blob",
        method_label="shift",
    )
    member = Member(item)
    rows = TrainingData(member.train, member.valid)
    with pytest.warns(TrainingWarning):
        (fit,) = train_pack([member.model], [rows], [0])
    (found,) = member.about(fit)["curves"]
    last = found["points"][-1]["monitored"]
    assert last["endless"] is None
    distance = (member.valid - member.model.mean).norm(dim=1).mean()
    best = found["points"][found["best_epoch"] - 1]["monitored"]["distance"]
    assert best == pytest.approx(float(distance.detach()), rel=1e-12)
    (message,) = found["warnings"]
    assert message == f"a distance of {found['points'][0]['monitored']['distance']:.6f}"
    put(tmp_path, item, curves=[found])
    read = find_record(tmp_path, item.run_id)
    assert read is not None and read.curves[0].points[-1].monitored == last


def test_the_objective_is_seen_over_what_it_equals(out: Path) -> None:
    lines = monitored_figure(load_results(out), "blob").axes[0].get_lines()
    objective = [line for line in lines if line.get_color() == "black"]
    others = [line for line in lines if line not in objective]
    assert len(objective) == 2 and {line.get_linestyle() for line in objective} == {"--"}
    assert {line.get_linestyle() for line in others} == {"-"}
    assert min(line.get_zorder() for line in objective) > max(o.get_zorder() for o in others)
    assert len({line.get_color() for line in others}) == 2
