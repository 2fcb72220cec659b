"""Squares of photos as rows of a table: what they hold, and that splits share no pixel."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from flowzoo_bench.tasks import photo_pixels as module
from flowzoo_bench.tasks.photo_pixels import PhotoPixels
from flowzoo_bench.tasks.photos import PHOTOS, photo

SMALL = {"num_train": 400, "num_valid": 60, "num_test": 100}


@pytest.fixture
def telling(monkeypatch):
    """Photos whose every pixel says which photo, row and column it is."""

    def made(name):
        which = PHOTOS.index(name)
        rows, columns = 100 + 30 * which, 250 - 20 * which
        grid = np.meshgrid([which], np.arange(rows), np.arange(columns), indexing="ij")
        return np.stack(grid, axis=-1)[0].astype(np.uint8)

    monkeypatch.setattr(module, "photo", made)


@pytest.mark.parametrize("side", [1, 2, 5])
@pytest.mark.parametrize("stride", [None, 1, 3])
def test_colours_are_squares_of_pixels_and_no_pixel_is_in_two_splits(telling, side, stride):
    task = PhotoPixels(side=side, grey=False, stride=stride, **SMALL)
    assert task.features == 3 * side**2 and task.bin_width == 1 / 256
    used = []
    tiles = []
    for x in task.splits(3):
        scaled = x * 256
        assert bool((scaled >= 0).all()) and bool((scaled < 256).all())
        pixels = scaled.floor().long().reshape(len(x), side, side, 3)
        first = pixels[:, :1, :1]
        offset = torch.zeros(side, side, 3, dtype=torch.long)
        offset[..., 1], offset[..., 2] = torch.arange(side)[:, None], torch.arange(side)
        assert torch.equal(pixels, first + offset)  # neighbours, in the order of reading
        corners = [tuple(row) for row in first.reshape(-1, 3).tolist()]
        assert len(set(corners)) == len(corners)
        assert all((r % 32) % task.stride == (c % 32) % task.stride == 0 for _, r, c in corners)
        used.append({tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()})
        tiles.append({(which, r // 32, c // 32) for which, r, c in used[-1]})
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not used[a] & used[b] and not tiles[a] & tiles[b]
    assert {which for which, _, _ in tiles[0]} == set(range(5))


def test_the_noise_is_uniform_and_drawn_anew(telling):
    draws = [torch.cat(PhotoPixels(side=2, grey=False, **SMALL).splits(seed)) for seed in (0, 1)]
    for x in draws:
        noise = (256 * x - (256 * x).floor()).flatten().sort().values
        even = torch.linspace(0, 1, len(noise), dtype=torch.float64)
        assert float((noise - even).abs().max()) < 1.95 / len(noise) ** 0.5  # K.-S., 0.1 %
    assert not torch.equal(*draws)


@pytest.mark.parametrize("side", [2, 8])
def test_grey_squares_are_made_as_those_of_bsds300(side):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    task = PhotoPixels(side=side, **SMALL)
    assert task.features == side**2 - 1 and task.bin_width is None
    corners = np.array([[0, 10, 20], [4, 200, 7], [1, 0, 0]])
    x = task._rows(np.random.default_rng(8), corners)
    noise = np.random.default_rng(8).random((3, side**2))
    for row, (which, top, left), own in zip(x.tolist(), corners, noise, strict=True):
        values = []
        for r in range(side):
            for c in range(side):
                red, green, blue = photo(PHOTOS[which])[top + r, left + c].tolist()
                level = int(0.299 * red + 0.587 * green + 0.114 * blue + 0.5)
                values.append((level + own[r * side + c]) / 256)
        mean = sum(values) / len(values)
        assert row == pytest.approx([value - mean for value in values[:-1]], abs=1e-12)


def test_the_real_photos_give_the_promised_tables():
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    for options, columns in (
        ({}, 63), ({"side": 5}, 24), ({"side": 3}, 8), ({"side": 1, "grey": False}, 3),
        ({"side": 2, "grey": False}, 12),
    ):  # fmt: skip
        task = PhotoPixels(**options)
        splits = task.splits(0)
        assert [tuple(x.shape) for x in splits] == [(n, columns) for n in (20_000, 2_500, 5_000)]
        rows = torch.cat(splits)
        assert rows.dtype == torch.float64 and len(rows.unique(dim=0)) == len(rows)
        assert all(map(torch.equal, splits, PhotoPixels(**options).splits(0)))
        assert not torch.equal(splits.train, task.splits(1).train)
        # much the same law in each: tiles of all photos are in all splits
        spread = splits.train.std(dim=0)
        for other in splits[1:]:
            assert float((other.std(dim=0) / spread - 1).abs().max()) < 0.25
    assert PhotoPixels().standardize and len(PhotoPixels().fingerprint()) == 16
    with pytest.raises(ValueError, match=r"num_valid: expected at most \d+, got 50000"):
        PhotoPixels(num_valid=50_000).splits(0)


def test_options_are_checked():
    for match, options in {
        "side: expected a positive integer": {"side": 0},
        "side: expected at most 32, got 33": {"side": 33},
        "side: expected at least 2": {"side": 1},
        "grey: expected true or false": {"grey": 1},
        "stride: expected a positive integer": {"stride": 0},
        "num_test: expected a positive integer": {"num_test": 0},
    }.items():
        with pytest.raises(ValueError, match=match):
            PhotoPixels(**options)
    assert [PhotoPixels(side=n).stride for n in (2, 3, 8)] == [1, 1, 4]


def test_without_scikit_image_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    photo.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'flowzoo\[image\]'"):
        PhotoPixels().splits(0)
