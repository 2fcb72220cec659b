"""Pictures of latent spaces and manifolds: what is kept for them, and what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from flowzoo.interfaces import EXACT, Evaluation, Measure, Mixture, Splits, Task, Trained
from flowzoo_bench.figure_arrays import kept_parts, main_arrays, stored
from flowzoo_bench.records import ARRAYS, DataInfo, run_folder
from flowzoo_bench.report.build import write_report
from flowzoo_bench.report.latent import latent_figure
from flowzoo_bench.report.manifold_density import manifold_density_figure
from flowzoo_bench.report.representations import representations_figure, sorted_images_figure
from flowzoo_bench.report.spectra import spectra_figure
from flowzoo_bench.report.view import View
from flowzoo_bench.runspec import Part, RunSpec
from written import density, put
from written import spec as run_of

PARTS = ("spectrum", "codes", "representations", "density")
STDS = (1.0, 9.0, 0.1, 5.0, 0.2)


class Flat(Task):
    """Normal rows in the plane of the second and fourth of five columns."""

    dimension = 2
    oracle = Evaluation(EXACT, Measure("surface", dim=2))

    def __init__(self, features: int = 5, standardize: bool = False) -> None:
        super().__init__(features)
        self.standardize = standardize

    def splits(self, seed: int) -> Splits:
        x = torch.randn(300, self.features, generator=torch.Generator().manual_seed(seed)).double()
        return Splits(*x.split(100))

    def log_prob(self, x: Tensor) -> Tensor:
        return -x.square().sum(dim=1)


class Linear(Mixture):
    """z = -x, ten times the data's in its own coordinates, over a prior with a std a column."""

    evaluations: ClassVar = {
        "full": Evaluation(),
        "manifold": Evaluation(EXACT, Measure("surface", dim=2, learned=True)),
    }
    capabilities = frozenset({"spectrum", "codes", "intrinsic_dimension"})

    def stages(self) -> Any:
        return ()

    def _log_prob(self, *_: Any) -> Tensor:
        raise AssertionError("scored through the run, in original units")

    def _sample(self, *_: Any) -> Tensor:
        raise AssertionError("drawn through the run, in original units")

    def spectrum(self) -> Tensor:
        return torch.tensor([9.0, 4.0, 0.5, 0.0, 0.0][: self.features])

    def intrinsic_dimension(self) -> Tensor:
        return torch.tensor(2)

    def codes(self, x: Tensor) -> Tensor:
        return -x

    def sample_codes(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        assert generator is not None
        return torch.randn(num, self.features, generator=generator) * torch.tensor(
            STDS[: self.features]
        )


class Plain(Linear):
    evaluations: ClassVar = {"full": Evaluation()}
    capabilities = frozenset()


def trained(task: Task, model: Mixture, embed: Any = lambda x: x[:, 1:]) -> Trained:
    return Trained(
        task=task,
        splits=task.splits(0),
        model=model,
        log_prob=lambda x, evaluation: x[:, 0] if evaluation == "manifold" else x[:, 1],
        sample=lambda num, seed, **_: torch.zeros(num, task.features),
        seed=5,
        embed=embed,
        inside=lambda x: (10 * x).float(),
    )


def spec(**changes: Any) -> RunSpec:
    given = {"task": Part(name="flat"), "method": Part(name="linear"), "keep": PARTS}
    return RunSpec(**{**given, "num_samples": 40, **changes})


def made(run: Trained) -> dict[str, Tensor]:
    arrays = main_arrays(run, spec())
    for make in kept_parts(run, spec()).values():
        arrays |= make()
    return arrays


# -- what is kept ---------------------------------------------------------------------------------


def test_only_what_is_asked_for_and_the_run_has() -> None:
    assert set(kept_parts(trained(Flat(), Linear(5)), spec())) == set(PARTS)
    assert set(kept_parts(trained(Flat(), Linear(5)), spec(keep=["codes"]))) == {"codes"}
    assert kept_parts(trained(Flat(), Plain(5), None), spec()) == {}
    standardised = trained(Flat(standardize=True), Linear(5))
    assert "density" not in kept_parts(standardised, spec())
    unknown = Flat()
    unknown.oracle = None
    assert "density" not in kept_parts(trained(unknown, Linear(5)), spec())


def test_codes_of_few_columns_are_whole_and_in_the_models_coordinates() -> None:
    got = made(trained(Flat(3), Linear(3)))
    assert torch.equal(got["codes/data"], -(10 * got["data"]).float().double())
    generator = torch.Generator().manual_seed(5)
    expected = torch.randn(40, 3, generator=generator) * torch.tensor(STDS[:3])
    assert torch.equal(got["codes/prior"], expected.double())


def test_codes_of_many_columns_are_seen_along_the_priors_axes() -> None:
    got = made(trained(Flat(), Linear(5)))
    assert got["codes/data"].shape == got["codes/prior"].shape == (40, 3)
    # stds 9, 5, 1: columns 1, 3, 0 up to their sign and sampling error
    codes = -10 * got["data"]
    for axis, column in enumerate((1, 3, 0)):
        pair = torch.stack([got["codes/data"][:, axis], codes[:, column]])
        assert abs(float(torch.corrcoef(pair)[0, 1])) > 0.9
    spread = got["codes/prior"].std(dim=0)
    assert (spread[:-1] > spread[1:]).all()


def test_spectra_come_with_what_was_found_and_what_is_true() -> None:
    got = made(trained(Flat(), Linear(5)))
    assert torch.equal(got["spectrum/values"], torch.tensor([[9.0, 4.0, 0.5, 0.0, 0.0]]))
    assert got["spectrum/found"].tolist() == [2] and got["spectrum/true"].tolist() == [2]
    union = Flat()
    union.dimension, union.dimensions = None, (1, 2)
    assert made(trained(union, Linear(5)))["spectrum/true"].tolist() == [1, 2]
    assert stored(got["spectrum/true"]).dtype == torch.int32


def test_representations_are_two_columns_or_one() -> None:
    data = Flat().splits(0).test[:40]
    assert torch.equal(made(trained(Flat(), Linear(5)))["representations"], data[:, 1:3])
    one = trained(Flat(), Linear(5), lambda x: x[:, :1])
    assert torch.equal(made(one)["representations"], data[:, :1])
    with pytest.raises(ValueError, match="embed: expected at least one column"):
        made(trained(Flat(), Linear(5), lambda x: x[:, :0]))


def test_densities_are_against_the_surface_the_truth_is_against() -> None:
    got = made(trained(Flat(), Linear(5)))
    assert torch.equal(got["density/model"], got["data"][:, 0])
    assert torch.equal(got["density/true"], -got["data"].square().sum(dim=1))
    other = Flat()
    other.oracle = Evaluation(EXACT, Measure("surface", dim=1))
    with pytest.raises(ValueError, match=r"expected one against surface\(dim=1\), as the truth is"):
        made(trained(other, Linear(5)))


# -- what is drawn --------------------------------------------------------------------------------


def info(features: int, **changes: Any) -> DataInfo:
    return DataInfo(features=features, train=1, valid=1, test=1, **changes)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def points(axes: Any, index: int = 0) -> np.ndarray:
    return np.asarray(axes.collections[index].get_offsets())


def lines(axes: Any, marker: str) -> list[Any]:
    return [line for line in axes.lines if line.get_marker() == marker]


def test_what_counts_as_a_dimension_is_filled_and_the_noise_is_at_one() -> None:
    held = {
        "one": {"spectrum/values": np.array([[50.0, 7.0, 0.0]]), "spectrum/found": np.array([2])},
        "two": {
            "spectrum/values": np.array([[5.0, 0.1, 0.1], [4.0, 3.0, 2.0]]),
            "spectrum/found": np.array([1, 3]),
            "spectrum/true": np.array([1, 2]),
        },
        "none": {"data": normal(3, 3)},
    }
    figure = spectra_figure("t", held)
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    whole = [np.asarray(line.get_ydata()) for line in lines(axes, "o")[::2]]
    filled = [len(line.get_xdata()) for line in lines(axes, "o")[1::2]]
    assert filled == [2, 1, 3] and len(whole) == 3
    assert np.allclose(whole[0], [50.0, 7.0, 1e-4])  # a log scale has no 0
    level = [line for line in axes.lines if line.get_label() == "noise"]
    assert list(level[0].get_ydata()) == [1.0, 1.0]
    true = [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]
    assert true == [1.5, 2.5]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["one: 2", "two: 1, 3", "noise", "true: 1, 2"]
    assert spectra_figure("t", {"none": held["none"]}) is None


def test_of_many_values_those_around_the_dimensions_are_drawn() -> None:
    many = np.geomspace(1e4, 1e-4, 100)[None]
    for found, count in ((2, 20), (30, 61), (80, 100)):
        held = {"m": {"spectrum/values": many, "spectrum/found": np.array([found])}}
        figure = spectra_figure("t", held)
        assert figure is not None and len(figure.axes[0].lines[0].get_xdata()) == count


def test_a_prior_without_width_in_a_direction_looks_it() -> None:
    flat = normal(200, 2) * [3.0, 1e-3]
    held = {"flat": {"codes/data": flat, "codes/prior": flat}, "none": {"data": flat}}
    figure = latent_figure("t", held)
    assert figure is not None
    (axes,) = figure.axes
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert right - left == pytest.approx(high - low) and axes.get_aspect() == 1.0
    assert right - left > 6
    bad = flat.copy()
    bad[0] = np.nan
    space = {"codes/data": normal(50, 3), "codes/prior": normal(50, 3)}
    single = {"codes/data": flat[:, :1], "codes/prior": bad[:, :1]}
    figure = latent_figure("t", {"space": space, "line": single})
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == ["space: data", "space: prior", "line"]
    assert np.array_equal(figure.axes[0].get_zlim(), figure.axes[1].get_zlim())
    assert latent_figure("t", {"none": held["none"]}) is None


def test_a_row_has_one_colour_in_all_panels() -> None:
    data = normal(60, 3) * [0.1, 5.0, 0.1]
    held = {
        "plane": {"data": data, "representations": -data[:, :2]},
        "line": {"data": data, "representations": 2 * data[:, 1:2]},
    }
    figure = representations_figure("t", held, View(data, info(3)))
    assert figure is not None
    first, plane, line = figure.axes
    colours = [np.asarray(axes.collections[0].get_array()) for axes in (first, plane, line)]
    assert np.array_equal(colours[0], colours[1]) and np.array_equal(colours[1], colours[2])
    assert abs(np.corrcoef(colours[0], data[:, 1])[0, 1]) > 0.999
    assert np.allclose(points(plane), -data[:, :2])
    assert np.allclose(points(line), np.stack([2 * data[:, 1], colours[0]], axis=1))
    held["plane"]["representations"][0] = np.nan
    figure = representations_figure("t", held, View(data, info(3)))
    assert figure is not None and figure.axes[1].get_title() == "plane (1.7% not finite)"
    assert representations_figure("t", {"none": {"data": data}}, View(data, info(3))) is None


def test_images_are_sorted_along_an_embedding_of_one_column() -> None:
    grey = np.random.default_rng(0).permutation(240) / 239
    data = np.repeat(grey[:, None], 16, axis=1)
    view = View(data, info(16, shape=(1, 4, 4)))
    embedding = -3.0 * grey[:, None]
    embedding[grey == 1.0] = np.nan  # left out
    held = {
        "line": {"data": data, "representations": embedding},
        "plane": {"data": data, "representations": data[:, :2]},
    }
    figure = sorted_images_figure("t", held, view)
    assert figure is not None
    (axes,) = figure.axes
    page = np.asarray(axes.images[0].get_array())[..., 0]
    shade = page[[0, 5], :][:, 5 * np.arange(12)].ravel()
    assert axes.get_title() == "line" and (np.diff(shade) < 0).all()
    assert shade[0] > 0.9 and shade[-1] < 0.05  # from end to end
    assert sorted_images_figure("t", held, View(data, None)) is None
    assert sorted_images_figure("t", {"plane": held["plane"]}, view) is None


def test_true_and_learned_density_have_one_scale_of_colours() -> None:
    data, true = normal(80, 2), np.linspace(-3, -1, 80)
    held = {"model": {"data": data, "density/true": true, "density/model": true + 4}}
    figure = manifold_density_figure("t", held, View(data, info(2)))
    assert figure is not None
    first, second = figure.axes[:2]
    assert [axes.get_title() for axes in (first, second)] == ["the true density", "model"]
    assert np.allclose(first.collections[0].get_array(), true)
    assert np.allclose(second.collections[0].get_array(), true + 4)
    limits = [axes.collections[0].get_clim() for axes in (first, second)]
    assert limits[0] == limits[1] and limits[0] == pytest.approx((-3, 3), abs=0.1)
    wide = np.concatenate([data, data], axis=1)
    high = {"model": {**held["model"], "data": wide}}
    high["model"]["density/model"] = np.where(np.arange(80) == 3, np.nan, true)
    figure = manifold_density_figure("t", high, View(wide, info(4)))
    assert figure is not None
    (axes,) = figure.axes
    assert np.allclose(points(axes), np.delete(np.stack([true, true], axis=1), 3, axis=0))
    assert axes.get_title() == "model (1.2% not finite)"
    assert manifold_density_figure("t", {"none": {"data": data}}, View(data, info(2))) is None


def test_a_report_draws_them_from_what_a_run_kept(tmp_path: Path) -> None:
    run = run_of("linear", 0)
    put(tmp_path, run, density(-1.0), data=info(3).model_dump())
    arrays = made(trained(Flat(3), Linear(3), lambda x: x[:, :1]))
    held = {name: stored(value) for name, value in arrays.items()}
    save_file(held, run_folder(tmp_path, run.run_id) / ARRAYS)
    results = write_report(tmp_path)
    assert results.problems == []
    drawn = {path.stem.removeprefix("blob-") for path in (tmp_path / "figures").iterdir()}
    assert {"spectrum", "codes", "representations", "density"} <= drawn
    assert "sorted-images" not in drawn
    header, line = (tmp_path / "spectra.csv").read_text("utf-8").splitlines()
    assert header == "task,method,replicate,part,found,directions,ratios"
    assert line == "blob,linear,0,0,2.0,3,9 4 0.5"


def test_spectra_of_every_run_and_part_are_tabled(tmp_path: Path) -> None:
    values = torch.tensor([[5.0, 0.1234567], [4.0, float("nan")]])
    pair = {"data": torch.zeros(2, 2), "samples": torch.zeros(2, 2)}
    for replicate, held in enumerate(
        (
            {"spectrum/values": values, "spectrum/found": torch.tensor([1.0])},
            {"spectrum/values": torch.arange(99.0, 0.0, -1.0)[None]},
            {},
        )
    ):
        run = run_of("m", replicate)
        put(tmp_path, run, density(-1.0))
        save_file({**pair, **held}, run_folder(tmp_path, run.run_id) / ARRAYS)
    asked = run_of("m", 3).model_copy(update={"keep": ("spectrum",)})
    for damaged in (asked, run_of("m", 4)):  # the other had none to lose
        put(tmp_path, damaged, density(-1.0))
        (run_folder(tmp_path, damaged.run_id) / ARRAYS).write_bytes(b"no arrays")
    put(tmp_path, run_of("m", 5), density(-1.0))  # without arrays
    results = write_report(tmp_path, figures=False)
    _, *lines = (tmp_path / "spectra.csv").read_text("utf-8").splitlines()
    assert lines[:2] == ["blob,m,0,0,1.0,2,5 0.1235", "blob,m,0,1,,2,4 nan"]
    assert lines[2].startswith("blob,m,1,0,,99,99 98 ") and lines[2].endswith(" 61 60")
    assert len(lines) == 3
    assert len(results.problems) == 1 and "no spectrum read: damaged" in results.problems[0]
