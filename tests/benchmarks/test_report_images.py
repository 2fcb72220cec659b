"""Pictures of image data, of knobs, reconstructions and embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flowzoo_bench.records import ARRAYS, DataInfo, run_folder
from flowzoo_bench.report.build import write_report
from flowzoo_bench.report.embeddings import embeddings_figure
from flowzoo_bench.report.images import NOT_FINITE, Pixels, sheet
from flowzoo_bench.report.knob_samples import knob_samples_figure
from flowzoo_bench.report.rows_drawn import reconstructions_figure
from flowzoo_bench.report.view import View
from written import density, put, spec


def info(features: int, **changes: Any) -> DataInfo:
    return DataInfo(features=features, train=1, valid=1, test=1, **changes)


def pixels(data: np.ndarray, **changes: Any) -> Pixels:
    found = Pixels.of(info(data.shape[1], **changes), data)
    assert found is not None
    return found


def test_a_column_is_the_pixel_that_the_task_says() -> None:
    channels, height, width = 3, 2, 5
    x = np.zeros((1, 30))
    c, h, w = 2, 1, 3
    x[0, (c * height + h) * width + w] = 7.5
    (image,) = pixels(x, shape=(channels, height, width), levels=8).images(x)
    expected = np.zeros((height, width, channels))
    expected[h, w, c] = 1.0
    assert np.array_equal(image, expected)


def test_dequantisation_noise_is_not_shown_and_levels_span_black_to_white() -> None:
    levels = np.arange(4.0)[None]
    known = pixels(levels, shape=(1, 2, 2), levels=4)
    grey = known.images(levels + 0.99)
    assert np.allclose(grey[0, :, :, 0].ravel(), [0, 1 / 3, 2 / 3, 1])
    assert np.array_equal(grey[..., 0], grey[..., 2])
    # a dark sheet stays dark beside a bright one: the scale is not its own
    assert known.images(np.full((1, 4), 1.5)).max() == pytest.approx(1 / 3)
    outside = known.images(np.array([[-3.0, 0.0, 9.0, 3.2]]))[0, :, :, 0].ravel()
    assert np.array_equal(outside, [0, 0, 1, 1])


def test_pixels_that_are_no_numbers_are_seen() -> None:
    x = np.zeros((1, 12))
    x[0, 5], x[0, 1] = np.nan, np.inf
    (image,) = pixels(x, shape=(3, 2, 2), levels=4).images(x)
    bad = (image == NOT_FINITE).all(axis=-1)
    assert np.array_equal(bad, [[False, True], [False, False]])
    (grey,) = pixels(x, shape=(1, 3, 4), levels=4).images(x)
    assert (grey == NOT_FINITE).all(axis=-1).sum() == 2


def test_records_without_a_shape_mean_squares_on_the_scale_of_the_data() -> None:
    data = np.linspace(0, 10, 160).reshape(10, 16)
    old = pixels(data, bin_width=1.0)
    assert old.shape == (1, 4, 4) and (old.low, old.high) == pytest.approx((0.1, 9.9))
    assert Pixels.of(info(16), data) is None  # not integers
    assert Pixels.of(info(15, bin_width=1.0), data[:, :15]) is None
    assert Pixels.of(info(16, shape=(1, 5, 5), bin_width=1.0), data) is None
    assert Pixels.of(None, data) is None


def test_a_sheet_is_filled_line_by_line() -> None:
    images = np.zeros((3, 2, 4, 3)) + np.array([0.1, 0.2, 0.3])[:, None, None, None]
    page = sheet(images, 2)
    assert page.shape == (5, 9, 3)
    assert np.allclose(page[:2, :4], 0.1) and np.allclose(page[:2, 5:], 0.2)
    assert np.allclose(page[3:, :4], 0.3) and np.allclose(page[3:, 5:], 1.0)
    assert np.allclose(page[2], 1.0) and np.allclose(page[:, 4], 1.0)


def shown(axes: Any) -> Any:
    return axes.images[0].get_array()


def labels(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_yticklabels()]


def test_images_of_a_knob_stand_in_lines_in_its_order() -> None:
    data = np.zeros((6, 4))
    held = {
        "plain": {"data": data, "temperature/2.0": data + 2},
        "nif": {
            "data": data,
            "temperature/10.0": data + 3,
            "temperature/0.5": data,
            "temperature/2.0": data + 1,
            "noise_scale/0.0": data,
        },
    }
    view = View(data, info(4, shape=(1, 2, 2), levels=4))
    figure = knob_samples_figure("t", held, view, "temperature")
    plain, nif = figure.axes
    assert labels(plain) == ["t = 2"] and labels(nif) == ["t = 0.5", "t = 2", "t = 10"]
    assert shown(plain).shape == (2, 17, 3) and shown(nif).shape == (8, 17, 3)
    assert np.allclose(shown(nif)[[0, 3, 6], 0, 0], [0, 1 / 3, 1])
    (only,) = knob_samples_figure("t", held, view, "noise_scale").axes
    assert only.get_title() == "nif" and labels(only) == ["s = 0"]
    assert knob_samples_figure("t", {"plain": {"data": data}}, view, "noise_scale") is None


def test_points_of_a_knob_have_a_panel_a_value() -> None:
    data = np.random.default_rng(0).normal(size=(9, 3))
    held = {"a": {"noise_scale/0.0": data, "noise_scale/1.0": data}, "b": {"noise_scale/1.0": data}}
    figure = knob_samples_figure("t", held, View(data, info(3)), "noise_scale")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["a, s = 0", "a, s = 1", "b, s = 0", "b, s = 1"]
    assert [len(axes.collections) for axes in figure.axes] == [1, 1, 0, 1]


def test_reconstructions_stand_below_their_rows() -> None:
    data = np.repeat(np.arange(4.0), 8).reshape(32, 1) % 4 + np.zeros((32, 4))
    model = 3.0 - np.floor(data[:30])
    view = View(data, info(4, shape=(1, 2, 2), levels=4))
    figure = reconstructions_figure("t", {"m": {"data": data, "reconstructions": model}}, view)
    (axes,) = figure.axes
    assert labels(axes) == ["data", "model"] * 2  # 24 of 30, in whole lines of 12
    page = shown(axes)[..., 0]
    assert np.allclose(page[0, ::3] + page[3, ::3], 1) and np.allclose(
        page[6, ::3], 1 - page[9, ::3]
    )
    assert np.allclose(page[0, ::3], np.repeat([0, 1 / 3], [8, 4]))
    assert np.allclose(page[6, ::3], np.repeat([1 / 3, 2 / 3], [4, 8]))
    points = reconstructions_figure(
        "t", {"m": {"data": data, "reconstructions": model}}, View(data, info(4))
    )
    assert [axes.get_title() for axes in points.axes] == ["held-out data", "m"]


def test_embeddings_are_coloured_by_class() -> None:
    plane = np.arange(12.0).reshape(6, 2)
    plane[5] = np.nan
    arrays = {
        "embeddings/plane": plane,
        "embeddings/data_plane": np.zeros((6, 2)),
        "embeddings/classes": np.array([0, 0, 1, 1, 3, 3]),
    }
    figure = embeddings_figure("t", {"m": arrays, "other": {"data": plane}})
    raw, mine = figure.axes
    assert (raw.get_title(), mine.get_title()) == ("the data themselves", "m")
    clouds = {cloud.get_label(): cloud.get_offsets() for cloud in mine.collections}
    assert {name: len(points) for name, points in clouds.items()} == {"0": 2, "1": 2, "3": 1}
    assert np.array_equal(clouds["1"], plane[2:4])
    assert "16.7% not finite" in [text.get_text() for text in mine.texts]
    assert len({tuple(cloud.get_facecolor()[0]) for cloud in mine.collections}) == 3
    assert embeddings_figure("t", {"other": {"data": plane}}) is None


@pytest.mark.parametrize("classes", [[0, 10, 20], list(range(5, 19))])
def test_classes_have_colours_of_their_own_whatever_their_numbers(classes: list[int]) -> None:
    """The same in every panel, though the last shows fewer classes."""
    many = np.repeat(classes, 2)
    plane = np.arange(2.0 * len(many)).reshape(-1, 2)
    names = ("embeddings/plane", "embeddings/data_plane")
    all_of_them = {**dict.fromkeys(names, plane), "embeddings/classes": many}
    some = {**dict.fromkeys(names, plane[2:]), "embeddings/classes": many[2:]}
    colours = [
        {cloud.get_label(): tuple(cloud.get_facecolor()[0]) for cloud in axes.collections}
        for axes in embeddings_figure("t", {"a": all_of_them, "b": some}).axes
    ]
    assert len(set(colours[0].values())) == len(classes)
    assert all(colours[0][label] == colour for label, colour in colours[2].items())
    assert len(colours[2]) == len(classes) - 1


@pytest.mark.parametrize("shape", [(3, 4, 4), None])
def test_a_report_draws_all_that_is_kept(tmp_path: Path, shape: tuple[int, ...] | None) -> None:
    run = spec("A", 0)
    levels = 8 if shape else None
    data = {"features": 48, "train": 9, "valid": 9, "test": 9, "levels": levels, "shape": shape}
    put(tmp_path, run, density(1.0), data=data)
    x = torch.rand(30, 48) * 8
    arrays = {
        "data": x,
        "samples": x.clone(),
        "temperature/2.0": x[:24].clone(),
        "noise_scale/0.0": x[:24].clone(),
        "manifold_temperature/2.0": x[:24].clone(),
        "reconstructions": x[:24].clone(),
        "embeddings/plane": x[:, :2].contiguous(),
        "embeddings/data_plane": x[:, :2].contiguous(),
        "embeddings/classes": torch.zeros(30, dtype=torch.int32),
    }
    save_file(arrays, run_folder(tmp_path, run.run_id) / ARRAYS)
    assert write_report(tmp_path).problems == []
    kinds = ("samples", "temperature", "manifold-temperature", "noise-scale")
    kinds += ("reconstructions", "embeddings")
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {f"blob-{kind}.png" for kind in kinds}
