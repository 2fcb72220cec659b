"""Densities on learned surfaces: measured beside the distance to them, ranked with nothing."""

from __future__ import annotations

import csv
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from flowzoo.interfaces import Evaluation, Measure, Mixture, Trained
from flowzoo_bench.metrics import LogLikelihood
from flowzoo_bench.metrics.reconstruction import reconstruction_error
from flowzoo_bench.published.compare import Number, manifold_pairs, published
from flowzoo_bench.records import Record, find_record, write_record, write_spec
from flowzoo_bench.report.build import write_report
from flowzoo_bench.report.load import load_results
from flowzoo_bench.report.sweeps import sweep_figure
from flowzoo_bench.report.table import paired, table, too_good
from flowzoo_bench.runspec import PackSpec, Part, RunSpec
from flowzoo_bench.tasks import Helix, Spherical
from flowzoo_bench.worker import PackRun

LL = "test_log_likelihood"
LEARNED = Measure("surface", dim=2, learned=True)
SMALL = {"num_train": 50, "num_valid": 10, "num_test": 300}


class Known(Mixture):
    def __init__(self, features, evaluations):
        super().__init__(features)
        self.evaluations = evaluations

    def stages(self):
        return ()

    def _log_prob(self, x, evaluation, num_samples, generator):
        raise AssertionError("metrics must score through Trained.log_prob")

    def _sample(self, num, temperature, generator):
        raise AssertionError("metrics must sample through Trained.sample")


def trained(task, evaluations=None, reconstruct=None):
    return Trained(
        task,
        task.splits(0),
        Known(task.features, evaluations or {"exact": Evaluation()}),
        lambda x, evaluation: x.sum(dim=1),
        lambda num, seed: torch.zeros(num, task.features),
        0,
        reconstruct,
    )


def by_name(values):
    return {value.name: value for value in values}


# -- measures and metrics -------------------------------------------------------------------------


def test_a_learned_surface_is_a_measure_of_its_own():
    assert str(LEARNED) == "surface(dim=2, learned)"
    assert Measure("surface", dim=2) != LEARNED
    with pytest.raises(ValueError, match="learned: expected a surface"):
        Measure(learned=True)


def test_reconstruction_error_is_the_rms_distance():
    task = Helix(**SMALL)
    step = torch.tensor([0.3, 0.0, -0.4], dtype=torch.float64)

    def reconstruct(x):
        return x + torch.where(torch.arange(len(x))[:, None] % 2 == 0, 1.0, 3.0) * step

    (value,) = reconstruction_error(trained(task, None, reconstruct))
    assert value.name == "reconstruction_error" and value.direction == "min"
    assert value.value == pytest.approx(0.5 * (0.5 * (1 + 9)) ** 0.5)
    assert value.n == 300 and value.stderr is not None and value.stderr > 0
    assert reconstruction_error(trained(task)) == []
    bad = trained(task, None, lambda x: x * float("nan"))
    assert math.isnan(reconstruction_error(bad)[0].value)
    exact = reconstruction_error(trained(task, None, lambda x: x))[0]
    assert (exact.value, exact.stderr) == (0.0, None)


def test_a_learned_surface_has_no_better_and_no_oracle():
    task = Spherical(**SMALL)
    evaluations = {"full": Evaluation(), "manifold": Evaluation(measure=LEARNED)}
    got = by_name(LogLikelihood().compute(trained(task, evaluations)))
    manifold = got[f"{LL}[manifold]"]
    assert (manifold.direction, manifold.reference) == ("none", None)
    assert "gap_to_oracle[manifold]" not in got  # the sphere's surface is another one
    assert got[LL].direction == "max"


def test_surfaces_are_left_out_on_standardised_data_with_a_warning(caplog):
    task = Helix(**SMALL)
    task.standardize = True
    evaluations = {"full": Evaluation(), "manifold": Evaluation(measure=LEARNED)}
    with caplog.at_level(logging.WARNING):
        got = by_name(LogLikelihood().compute(trained(task, evaluations)))
    assert set(got) == {LL, f"{LL}_median", "test_non_finite_rows", "gap_to_oracle"}
    assert "'manifold' left out" in caplog.text and "learned" in caplog.text


# -- a run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task, method", [("blob", "global"), ("scaled", "global"), ("scaled", "vq")]
)
def test_a_run_holds_the_pair_or_as_much_of_it_as_is_known(faulty, tmp_path, task, method):
    beneath = {"name": "realnvp", "layers": 1, "hidden": [4]}
    options: dict[str, Any] = {
        "base_flow": {
            "name": "cef",
            "init": "pca",
            "base_flow": beneath,
            "reconstruction": {"epochs": 1},
        },
        "training": {"epochs": 1},
    }
    if method == "vq":
        options["partitioner"] = {"name": "kmeans", "num_charts": 2}
    item = RunSpec(
        task=Part(name=task),
        method=Part(name=method, options=options),
        metrics=(Part(name="log-likelihood"),),
        replicate=0,
        num_samples=20,
        task_label=task,
        method_label=method,
    )
    pack = PackSpec.of([item])
    folder = tmp_path / "packs" / pack.pack_id
    folder.mkdir(parents=True)
    assert PackRun(folder, pack).run() == 0
    found = find_record(tmp_path, item.run_id)
    assert found is not None and found.status == "ok", found
    rows = {row.name: row for row in found.metrics}
    assert rows[LL].measure == "lebesgue"
    assert ("test_log_likelihood[manifold]" in rows) == (task == "blob")
    if task == "blob":
        assert rows["test_log_likelihood[manifold]"].measure == "surface(dim=1, learned)"
    elif method == "global":
        # columns of scale 10 and 0.1, alike once standardised: a line loses about half of each
        assert 2.0 < rows["reconstruction_error"].value < 15.0
    if method == "vq":
        assert rows[f"{LL}[truncated]"].measure == "lebesgue"


# -- the report -----------------------------------------------------------------------------------


def spec(method: str, replicate: int = 0) -> RunSpec:
    return RunSpec(
        task=Part(name="blob"),
        method=Part(name=method),
        replicate=replicate,
        task_label="blob",
        method_label=method,
    )


def density(value: float, measure: str, name: str = LL, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "unit": "nats",
        "direction": "none" if "learned" in measure else "max",
        "likelihood": "exact",
        "measure": measure,
        "n": 100,
        "stderr": 0.1,
        **more,
    }


def put(out: Path, run: RunSpec, *metrics: dict[str, Any]) -> None:
    write_spec(out, run)
    given = {"run_id": run.run_id, "status": "ok", "spec": run, "pack_id": "p"}
    write_record(out, Record.model_validate({**given, "metrics": list(metrics)}))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two flows in space, two onto surfaces whose number there is far larger."""
    error = {"name": "reconstruction_error", "direction": "min", "n": 100, "stderr": 0.01}
    for replicate in range(2):
        for method, value in (("A", 1.0), ("B", 2.0)):
            put(tmp_path, spec(method, replicate), density(value, "lebesgue", reference=2.5))
        for method, value, distance in (("S", -1.0, 0.7), ("T", -2.0, 0.1)):
            put(
                tmp_path,
                spec(method, replicate),
                density(value, "lebesgue", reference=2.5),
                density(50.0 * distance, str(LEARNED), f"{LL}[manifold]"),
                {**error, "value": distance},
            )
    return tmp_path


def test_a_surface_number_is_ranked_and_paired_with_nothing(out: Path) -> None:
    write_report(out, figures=False)
    page = (out / "table.md").read_text("utf-8")
    body = page[page.index("## blob") :]
    main, others = body.split("On surfaces the models have learned")
    # the table in space is in order of its own numbers, and holds no surface number
    order = [main.index(f"| {method} |") for method in ("B", "A", "S", "T")]
    assert order == sorted(order) and "35" not in main and "surface" not in main
    # and the surface number is never without its other half
    (line,) = [line for line in others.splitlines() if line.startswith("| S |")]
    _, density, error, measure = (cell.strip() for cell in line.strip("|").split("|"))
    assert (density, measure) == ("35 ± 0", "surface(dim=2, learned)") and float(error.split()[0])
    header = next(line for line in main.splitlines() if line.startswith("| method"))
    assert "reconstruction_error" in header
    rows = paired(load_results(out))
    assert {row.measure for row in rows if row.metric.startswith(LL)} == {"lebesgue"}
    assert not any("[manifold]" in row.metric for row in rows)
    assert {(r.method_a, r.method_b) for r in rows if r.metric == "reconstruction_error"} == {
        ("S", "T")
    }
    surface = [row for row in table(load_results(out)) if row.metric == f"{LL}[manifold]"]
    assert len(surface) == 2
    assert all(row.oracle is None and row.gap is None for row in surface)
    assert too_good(load_results(out)) == []


def test_a_surface_as_the_default_is_listed_apart_in_no_order_of_merit(out: Path) -> None:
    for replicate in range(2):
        put(out, spec("U", replicate), density(3.0, str(LEARNED)))
        put(out, spec("V", replicate), density(99.0, str(LEARNED)))
    write_report(out, figures=False)
    page = (out / "table.md").read_text("utf-8")
    apart = page.index("Densities against surface(dim=2, learned), each model's own: not ranked")
    assert page.index("| B |") < apart < page.index("| U |") < page.index("| V |")
    assert page.index("Densities against lebesgue") < page.index("| B |")
    pairs = {(row.method_a, row.method_b) for row in paired(load_results(out)) if row.metric == LL}
    assert not any({"U", "V"} & {*pair} for pair in pairs)


def test_a_sweep_draws_measures_in_panels_of_their_own(out: Path, monkeypatch) -> None:
    from types import SimpleNamespace

    import flowzoo_bench.report.sweeps as sweeps

    drawn = {}
    monkeypatch.setattr(
        sweeps, "_draw", lambda *given: drawn.update(lines=given[2], levels=given[3])
    )
    put(out, spec("U"), density(90.0, "surface(dim=2)"))
    results = load_results(out)
    point = SimpleNamespace(option="k", value=1, family="family")
    object.__setattr__(results, "sweeps", {"A": point, "U": point})
    sweep_figure(results, table(results), "blob", "k")
    assert set(drawn["lines"]) == {LL, f"{LL}, surface(dim=2)"}
    assert drawn["lines"][LL]["family"].means == [1.0]
    assert "U" not in drawn["levels"][LL]


# -- the paper's table ----------------------------------------------------------------------------


def test_the_papers_embedding_rows_stand_beside_ours_on_the_manifold_only():
    theirs = published("vq_flows")
    for method in ("CEF", "VQ-CEF"):
        assert ("star", method, LL) not in theirs
    assert theirs["star", "VQ-CEF", f"{LL}[manifold]"].mean == 1.32
    ours = {
        ("star", "CEF", LL): Number(-0.07, None),
        ("star", "CEF", f"{LL}[manifold]"): Number(0.44, None),
        ("star", "CEF", "reconstruction_error"): Number(0.404, None),
    }
    head, _, row = manifold_pairs(ours, theirs, LL)
    cells = dict(zip(head.split(" | ")[1:], row.split(" | ")[1:], strict=True))
    assert cells["CEF: manifold"] == "0.44 (paper 1.26 ± 0.11) **≠**"
    assert (cells["CEF: error"], cells["CEF: space"]) == ("0.404", "-0.07")


def test_the_published_page_has_the_pair(out: Path) -> None:
    from flowzoo_bench.published.__main__ import main

    write_report(out, figures=False)
    main(out)
    page = (out / "published.md").read_text("utf-8")
    assert "## Flows onto manifolds" in page
    assert "| blob | – | – | – | – | – | – | 35.00 ± 0.00 | 0.700 | -1.00 ± 0.00 |" in page
    with (out / "table.csv").open(encoding="utf-8") as file:
        assert any(row["measure"] == str(LEARNED) for row in csv.DictReader(file))
    assert json.loads(json.dumps(str(LEARNED))) == str(LEARNED)
