"""Densities over the plane: what is kept of them, and what the picture shows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowzoo.interfaces import (
    EXACT,
    LOWER_BOUND,
    Evaluation,
    Likelihood,
    Measure,
    Mixture,
    Splits,
    Task,
    Trained,
)
from flowzoo_bench.figure_arrays import kept_parts, stored
from flowzoo_bench.records import ARRAYS, find_record, run_folder
from flowzoo_bench.report.build import write_report
from flowzoo_bench.report.plane_density import plane_figure
from flowzoo_bench.runspec import PackSpec, Part, RunSpec
from flowzoo_bench.tasks.standardize import Standardizer
from flowzoo_bench.worker import PackRun
from written import density, put
from written import spec as run_of

STD = torch.tensor([3.0, 0.5], dtype=torch.float64)


class Ellipse(Task):
    """Normal rows of standard deviations 3 and 1/2."""

    def __init__(self, features: int = 2, *, oracle: Evaluation | None = None) -> None:
        super().__init__(features)
        self.oracle = oracle
        self.standardize = True

    def splits(self, seed: int) -> Splits:
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(1500, self.features, dtype=torch.float64, generator=generator)
        return Splits(*(draw[:, :2] * STD if self.features == 2 else draw).split(500))

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.distributions.Normal(0.0, STD).log_prob(x).sum(dim=1)


class Unit(Mixture):
    """A standard normal in its own coordinates, however it is asked for."""

    def __init__(self, features: int, **evaluations: Evaluation) -> None:
        super().__init__(features)
        self.evaluations = evaluations or {"full": Evaluation()}
        self.asked: list[tuple[str, int | None]] = []
        self.rows = 0
        self.first: list[float] = []

    def stages(self) -> Any:
        return ()

    def _log_prob(
        self,
        x: Tensor,
        evaluation: str,
        num_samples: int | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        assert generator is not None and not torch.is_grad_enabled()
        self.asked.append((evaluation, num_samples))
        self.rows += len(x)
        self.first.append(float(torch.rand((), generator=generator)))
        return torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(dim=1)

    def _sample(self, *_: Any) -> Tensor:
        raise AssertionError("nothing is drawn for this")


def trained(task: Task, model: Mixture) -> Trained:
    splits = task.splits(0)
    scaling = Standardizer.fit(splits.train)

    def log_prob(x: Tensor, evaluation: str | None) -> Tensor:
        found = model.log_prob(
            scaling.encode(x), evaluation=evaluation, generator=torch.Generator()
        )
        return found + scaling.log_abs_det(x)

    return Trained(
        task=task,
        splits=splits,
        model=model,
        log_prob=log_prob,
        sample=lambda num, seed, **_: torch.zeros(num, task.features),
        seed=5,
        inside=scaling.encode,
    )


def spec(**changes: Any) -> RunSpec:
    given = {"task": Part(name="t"), "method": Part(name="m"), "keep": ("plane",)}
    return RunSpec(**{**given, "num_samples": 40, **changes})


def made(run: Trained) -> dict[str, Tensor]:
    return kept_parts(run, spec())["plane"]()


# -- what is kept ---------------------------------------------------------------------------------


def test_the_density_is_in_original_units_over_all_test_rows_and_a_margin() -> None:
    task = Ellipse(oracle=Evaluation())
    run = trained(task, Unit(2))
    got = made(run)
    first, second = got["plane/first"], got["plane/second"]
    assert got["plane/model"].shape == got["plane/true"].shape == (len(second), len(first))
    test = run.splits.test  # more rows than pictures of samples have
    for axis, column in ((first, test[:, 0]), (second, test[:, 1])):
        half, wide = float(axis[1] - axis[0]) / 2, float(column.max() - column.min())
        assert float(axis[0]) - half == pytest.approx(float(column.min()) - 0.15 * wide)
        assert float(axis[-1]) + half == pytest.approx(float(column.max()) + 0.15 * wide)
        assert 80 <= len(axis) <= 120
    area = float((first[1] - first[0]) * (second[1] - second[0]))
    for name in ("plane/model", "plane/true"):  # cells fill the box: it holds all mass
        assert float(got[name].exp().sum()) * area == pytest.approx(1.0, abs=0.01)
    at = torch.stack([first[70], second[20]])[None]
    assert float(got["plane/true"][20, 70]) == pytest.approx(float(task.log_prob(at)))
    with torch.no_grad():
        assert float(got["plane/model"][20, 70]) == pytest.approx(float(run.log_prob(at, None)))
    assert float(got["plane/model"][20, 70]) == pytest.approx(float(task.log_prob(at)), abs=0.3)
    assert "plane/draws" not in got


def test_the_grid_is_the_tasks_whatever_the_method() -> None:
    one = made(trained(Ellipse(), Unit(2)))
    other = made(trained(Ellipse(), Unit(2, full=Evaluation(LOWER_BOUND))))
    for name in ("plane/first", "plane/second"):
        assert torch.equal(one[name], other[name])


@pytest.mark.parametrize(
    ("likelihood", "draws"),
    [(Likelihood("estimate", 1000), 64), (Likelihood("estimate", 7), 7), (LOWER_BOUND, 64)],
)
def test_what_is_drawn_is_drawn_few_times_and_in_the_same_units(
    likelihood: Likelihood, draws: int
) -> None:
    exact = made(trained(Ellipse(), Unit(2)))
    model = Unit(2, importance=Evaluation(likelihood), exact=Evaluation())
    got = made(trained(Ellipse(), model))
    assert set(model.asked) == {("importance", draws)} and model.rows == 100 * 100
    assert int(got["plane/draws"]) == draws
    assert torch.allclose(got["plane/model"], exact["plane/model"])
    assert len(model.first) > 1 and len(set(model.first)) == len(model.first)


def test_only_in_the_plane_and_of_densities_on_it() -> None:
    assert "plane" not in kept_parts(trained(Ellipse(3), Unit(3)), spec())
    assert kept_parts(trained(Ellipse(), Unit(2)), spec(keep=("density",))) == {}
    curve = Evaluation(measure=Measure("surface", dim=1, learned=True))
    smooth = Evaluation(measure=Measure("smoothed", sigma=0.1))
    assert kept_parts(trained(Ellipse(), Unit(2, manifold=curve, smooth=smooth)), spec()) == {}
    model = Unit(2, manifold=curve, full=Evaluation())
    made(trained(Ellipse(), model))
    assert {name for name, _ in model.asked} == {"full"}


@pytest.mark.parametrize(
    "oracle", [None, Evaluation(EXACT, Measure("surface", dim=1)), Evaluation(LOWER_BOUND)]
)
def test_no_truth_but_an_exact_density_on_the_plane(oracle: Evaluation | None) -> None:
    assert "plane/true" not in made(trained(Ellipse(oracle=oracle), Unit(2)))


def test_a_run_keeps_it(faulty: Path, tmp_path: Path) -> None:
    item = RunSpec(
        task=Part(name="blob"),
        method=Part(name="shift", options={"epochs": 1}),
        metrics=(Part(name="log-likelihood"),),
        num_samples=10,
        keep=("plane",),
    )
    pack = PackSpec.of([item])
    (tmp_path / "packs" / pack.pack_id).mkdir(parents=True)
    assert PackRun(tmp_path / "packs" / pack.pack_id, pack).run() == 0
    found = find_record(tmp_path, item.run_id)
    assert found is not None and (found.status, found.reason) == ("ok", "")
    held = load_file(run_folder(tmp_path, item.run_id) / ARRAYS)
    assert held["plane/model"].shape == held["plane/true"].shape == (100, 100)
    # unit normals, one of them shifted by the mean that was learned: a parabola's difference
    difference = (held["plane/model"] - held["plane/true"]).double()
    assert difference.diff(n=2, dim=0).abs().max() < 1e-4
    assert difference.std() > 0.01


# -- the picture ----------------------------------------------------------------------------------


def held_of(log_prob: Any, truth: Any = None, seed: int = 0, **more: Any) -> dict[str, Any]:
    """Arrays of a run as they lie on the disk, float32."""
    axis = torch.linspace(-4.95, 4.95, 100)
    x = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).reshape(-1, 2)
    data = torch.randn(600, 2, generator=torch.Generator().manual_seed(seed))
    arrays = {"data": data, "samples": data.clone(), "plane/first": axis, "plane/second": axis}
    arrays["plane/model"] = log_prob(x).reshape(100, 100)
    if truth is not None:
        arrays["plane/true"] = truth(x).reshape(100, 100)
    return {name: stored(value).numpy() for name, value in {**arrays, **more}.items()}


def normal(std: float) -> Any:
    return lambda x: torch.distributions.Normal(0.0, std).log_prob(x).sum(dim=1)


def panels(figure: Any) -> dict[str, Any]:
    return {axes.get_title().split("\n")[0]: axes for axes in figure.axes if axes.get_title()}


def test_a_panel_a_method_beside_data_and_truth_in_one_scale() -> None:
    held = {"wide": held_of(normal(2.0), normal(1.0)), "spike": held_of(normal(0.2), normal(1.0))}
    found = panels(plane_figure("blob", held, {"wide": "-2.5 ± 0.1", "oracle": "-2.1"}))
    assert list(found) == ["data", "the true density", "wide", "spike"]
    assert found["wide"].get_title() == "wide\n-2.5 ± 0.1 nats"
    assert found["the true density"].get_title().endswith("\n-2.1 nats")
    assert found["spike"].get_title() == "spike"
    (dots,) = found["data"].collections
    assert 200 <= len(dots.get_offsets()) <= 500 and dots.get_alpha() < 1
    drawn = {name: axes.images[0] for name, axes in found.items() if axes.images}
    assert len({image.get_clim() for image in drawn.values()}) == 1
    low, high = drawn["wide"].get_clim()
    peak = 1 / (2 * math.pi)
    # of a plane's normal density, a hundredth of the mass lies above 99 % of the peak
    assert low == 0 and high == pytest.approx(0.99 * peak, rel=0.02)
    seen = np.asarray(drawn["wide"].get_array())
    assert np.allclose(seen, np.exp(held["wide"]["plane/model"].astype(float)))
    assert np.allclose(drawn["wide"].get_extent(), [-5, 5, -5, 5], atol=1e-5)
    assert drawn["wide"].origin == "lower"
    assert np.allclose(found["data"].get_xlim(), (-5, 5), atol=1e-5)


@pytest.mark.parametrize(("share", "seen"), [(0.005, False), (0.02, True)])
def test_the_scale_ends_with_a_hundredth_of_the_mass_above(share: float, seen: bool) -> None:
    level = (1 - share) / 9999

    def spiked(x: Tensor) -> Tensor:
        value = torch.full((len(x),), math.log(level))
        value[5050] = math.log(share)
        return value

    image = panels(plane_figure("blob", {"A": held_of(normal(1.0), spiked)}, {}))["A"].images[0]
    assert image.get_clim()[1] == pytest.approx(share if seen else level, rel=1e-5)


def test_without_the_truth_no_single_method_sets_the_scale() -> None:
    held = {f"m{k}": held_of(normal(std)) for k, std in enumerate((1.0, 1.05, 0.12))}
    found = panels(plane_figure("blob", held, {}))
    assert list(found) == ["data", "m0", "m1", "m2"]
    _, high = found["m0"].images[0].get_clim()
    assert high == pytest.approx(0.99 / (2 * math.pi), rel=0.02)


def test_what_is_no_number_is_said_and_seen_and_spoils_no_scale() -> None:
    def broken(x: Tensor) -> Tensor:
        value = normal(1.0)(x)
        value[:100] = math.nan
        value[100:200] = math.inf
        value[5000:] = -math.inf  # no mass there, which is a number
        return value

    empty = held_of(lambda x: torch.full((len(x),), -math.inf))
    held = {"broken": held_of(broken), "fine": held_of(normal(1.0)), "empty": empty}
    found = panels(plane_figure("blob", held, {}))
    assert "2.0% not finite" in found["broken"].get_title()
    assert found["fine"].get_title() == "fine" and found["empty"].get_title() == "empty"
    seen = np.ma.filled(found["broken"].images[0].get_array(), np.nan)
    assert np.isnan(seen).sum() == 200 and (seen[50:] == 0).all()
    _, high = found["fine"].images[0].get_clim()
    assert high == pytest.approx(0.99 / (2 * math.pi), rel=0.02)
    alone = panels(plane_figure("blob", {"empty": empty}, {}))
    assert alone["empty"].images[0].get_clim() == (0, 1)
    lost = held_of(lambda x: torch.full((len(x),), math.nan))
    assert "100.0% not finite" in panels(plane_figure("b", {"l": lost}, {}))["l"].get_title()
    huge = held_of(lambda x: torch.full((len(x),), 1e4))  # more than a float64 can be
    image = panels(plane_figure("b", {"h": huge}, {}))["h"].images[0]
    assert image.get_clim() == (0, pytest.approx(math.exp(700)))


def test_the_title_says_how_many_draws_an_estimate_has() -> None:
    few = held_of(normal(1.0), None, 0, **{"plane/draws": torch.tensor([64])})
    assert "64 draws" in panels(plane_figure("blob", {"few": few}, {}))["few"].get_title()


def test_it_is_drawn_where_a_run_has_kept_it(tmp_path: Path) -> None:
    for method in ("A", "B"):
        run = run_of(method, 0)
        put(tmp_path, run, density(-1.25, likelihood="lower_bound"))
        held = held_of(normal(1.0), normal(1.0))
        if method == "B":
            held = {name: held[name] for name in ("data", "samples")}
        arrays = {name: torch.as_tensor(value) for name, value in held.items()}
        save_file(arrays, run_folder(tmp_path, run.run_id) / ARRAYS)
    assert write_report(tmp_path).problems == []
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {"blob-samples.png", "blob-plane.png"}
    assert plane_figure("blob", {"B": held}, {}) is None


def test_the_titles_are_the_tables_numbers(tmp_path: Path, monkeypatch: Any) -> None:
    from flowzoo_bench.report import figures

    seen: dict[str, str] = {}
    monkeypatch.setattr(figures, "plane_figure", lambda task, held, scores: seen.update(scores))
    for replicate in (0, 1):
        run = run_of("A", replicate)
        put(tmp_path, run, density(-1.25, likelihood="lower_bound"))
        surface = density(9.0, measure="surface(dim=1)")
        put(tmp_path, run_of("S", replicate), surface)
        held = {n: torch.as_tensor(v) for n, v in held_of(normal(1.0)).items()}
        save_file(held, run_folder(tmp_path, run.run_id) / ARRAYS)
    write_report(tmp_path)
    assert seen == {"A": "≥ -1.250 ± 0"}
