"""Image tasks: levels, half-open bins, splits, labels; the real sets where they are."""

from __future__ import annotations

import gzip
import hashlib
import sys

import numpy as np
import pytest
import torch

from flowzoo_bench.data.fetch import DataNotFoundError
from flowzoo_bench.tasks import MNIST, Digits, FashionMNIST, ImageTask, Patches
from flowzoo_bench.tasks import mnist as mnist_module
from flowzoo_bench.tasks.images import dequantize, quantize
from flowzoo_bench.tasks.mnist import example_options
from flowzoo_bench.tasks.photos import PHOTOS, photo
from real_data import needs_fashion_mnist, needs_mnist

SMALL = {"num_train": 60, "num_valid": 20, "num_test": 30}


class Greys(ImageTask):
    """Every level, 40 times each; the label of an image is its first pixel's level."""

    def __init__(self, bits: int, logit: float | None = 0.05) -> None:
        super().__init__((1, 2, 3), levels=2**bits, bits=bits, logit=logit)
        values = np.repeat(np.arange(256, dtype=np.uint8), 40)
        images = np.stack([np.roll(values, 7 * column) for column in range(6)], axis=1)
        self.held = quantize(images, self.levels)

    def images(self):
        return self.held, self.held[:, 0].astype(np.int64)

    def choose(self, rng, labels):
        order = rng.permutation(len(labels))
        return order[:9000], order[9000:9500], order[9500:]


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_are_the_pixels_divided_down(bits):
    pixels = np.arange(256, dtype=np.uint8)
    levels = quantize(pixels, 2**bits)
    assert levels.tolist() == [int(pixel // 2 ** (8 - bits)) for pixel in range(256)]
    assert np.bincount(levels).tolist() == [2 ** (8 - bits)] * 2**bits


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_every_row_is_its_image_plus_uniform_noise_and_keeps_its_label(bits):
    task = Greys(bits)
    splits, labels = task.splits(4), task.labels(4)
    x = torch.cat(splits)
    levels = x.floor()
    assert sorted(map(tuple, levels.int().tolist())) == sorted(map(tuple, task.held.tolist()))
    assert torch.equal(levels[:, 0].long(), torch.cat(labels))
    assert [len(y) for y in labels] == [len(rows) for rows in splits] == [9000, 500, 740]
    assert all(y.dtype == torch.int64 for y in labels)
    noise = (x - levels).flatten().sort().values
    even = torch.linspace(0, 1, len(noise), dtype=torch.float64)
    assert float((noise - even).abs().max()) < 1.95 / len(noise) ** 0.5  # Kolmogorov-Smirnov, 0.1 %
    assert not torch.equal(x.floor(), torch.cat(task.splits(5)).floor())
    assert (task.levels, task.bits, task.bin_width, task.shape) == (2**bits, bits, 1.0, (1, 2, 3))


class AlmostOne:
    """A generator whose every draw is the largest below 1."""

    def random(self, out):
        out.fill(np.nextafter(1.0, 0.0))


def test_bins_stay_half_open_where_the_sum_rounds_up():
    levels = np.arange(256, dtype=np.uint8)[:, None]
    assert 200 + np.nextafter(1.0, 0.0) == 201
    x = dequantize(levels, np.arange(256), AlmostOne())
    assert x.floor().flatten().tolist() == list(range(256))


def test_a_large_set_is_drawn_in_parts_as_at_once(monkeypatch):
    task = Greys(8)
    whole = task.splits(0)
    monkeypatch.setattr("flowzoo_bench.tasks.images._CHUNK", 50)
    assert all(torch.equal(a, b) for a, b in zip(whole, task.splits(0), strict=True))


def test_models_see_the_logit_or_scaled_data():
    assert (Greys(8).logit, Greys(8).standardize) == (0.05, False)
    for none in (None, 0, 0.0):
        assert (Greys(8, none).logit, Greys(8, none).standardize) == (None, True)
    for wrong in (0.5, -0.1, float("nan"), "0.05", True, False):
        with pytest.raises(ValueError, match="logit: expected 0, None or a number in"):
            Greys(8, wrong)


# --- digits ---------------------------------------------------------------------------------------


def test_digits_are_those_of_earlier_versions():
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(3)
    levels = rng.permutation(load_digits().data)
    expected = np.minimum(levels + rng.random(levels.shape), np.nextafter(levels + 1, 0))
    assert np.array_equal(torch.cat(Digits().splits(3)).numpy(), expected)
    assert (Digits().levels, Digits().bits, Digits().logit) == (17, None, None)
    assert Digits().standardize and Digits().shape == (1, 8, 8)


@pytest.mark.parametrize("bits", [1, 3, 4, 8])
def test_digits_of_fewer_levels_and_their_labels(bits):
    from sklearn.datasets import load_digits

    found = load_digits()
    task = Digits(bits=bits, logit=0.05)
    levels = torch.cat(task.splits(1)).floor().numpy()
    wanted = np.floor(found.data * 2**bits / 17)
    assert sorted(map(tuple, levels)) == sorted(map(tuple, wanted))
    assert levels.max() == 16 * 2**bits // 17 < task.levels == 2**bits
    # label and image of one row belong together
    rows = {(*image, label) for image, label in zip(wanted.astype(int), found.target, strict=True)}
    labels = torch.cat(task.labels(1)).tolist()
    assert {
        (*image.astype(int), label) for image, label in zip(levels, labels, strict=True)
    } <= rows


@pytest.mark.parametrize("bits", [0, 9, 2.0, True])
@pytest.mark.parametrize("cls", [Digits, MNIST, FashionMNIST, Patches])
def test_bits_out_of_range_are_refused(cls, bits):
    with pytest.raises((ValueError, TypeError), match="bits: expected"):
        cls(bits=bits)


# --- mnist's format -------------------------------------------------------------------------------


def test_a_set_in_the_same_format(tmp_path):
    options = example_options(tmp_path)
    task = FashionMNIST(bits=3, **options)
    splits, labels = task.splits(0), task.labels(0)
    assert [tuple(x.shape) for x in splits] == [(120, 784), (40, 784), (40, 784)]
    place = {}
    for part in ("train", "t10k"):  # by hand: headers of 16 and 8 bytes
        images = (tmp_path / f"{part}-images-idx3-ubyte").read_bytes()[16:]
        known = (tmp_path / f"{part}-labels-idx1-ubyte").read_bytes()[8:]
        for index, label in enumerate(known):
            pixels = images[784 * index : 784 * (index + 1)]
            place[bytes(pixel // 32 for pixel in pixels)] = label
    assert len(place) == 200
    for x, y in zip(splits, labels, strict=True):
        assert [place[row.tobytes()] for row in x.floor().numpy().astype(np.uint8)] == y.tolist()
    with pytest.raises(ValueError, match="expected at most 200, got 201"):
        FashionMNIST(**{**options, "num_test": 41}).splits(0)


def test_other_files_are_other_data(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FLOWZOO_DATA", raising=False)
    options = example_options(tmp_path)
    first = MNIST(**options).fingerprint()
    assert first == MNIST(**options).fingerprint() != ""
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0b")
    assert MNIST(**options).fingerprint() != first
    path.rename(tmp_path / "kept")
    (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress((tmp_path / "kept").read_bytes()[:-1]))
    with pytest.raises(ValueError, match=r"^mnist: train-labels-idx1-ubyte\.gz: expected \(150,\)"):
        MNIST(**options).splits(0)
    (tmp_path / f"{path.name}.gz").unlink()
    with pytest.raises(DataNotFoundError, match=f"root: expected a folder with {path.name}"):
        MNIST(**options).splits(0)
    with pytest.raises(ValueError, match="root: expected a folder"):
        MNIST(verify=False)
    del options["verify"]
    (tmp_path / "kept").rename(path)
    with pytest.raises(ValueError, match="expected content of sha256"):
        MNIST(**options).splits(0)


def test_without_the_files_an_error_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWZOO_CACHE", str(tmp_path))
    monkeypatch.delenv("FLOWZOO_DATA", raising=False)
    mnist_module._verified.cache_clear()
    task = MNIST()  # needs no files
    assert (task.features, task.fingerprint()) == (784, "")
    with pytest.raises(DataNotFoundError) as caught:
        task.splits(0)
    for part in ("train-images-idx3-ubyte.gz", "download=True", "https://", "FLOWZOO_DATA"):
        assert part in str(caught.value)


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


@needs_fashion_mnist
def test_fashion_mnist_is_the_real_one():
    task = FashionMNIST(**SMALL)
    images, labels = task.images()
    assert images.shape == (70_000, 784) and np.bincount(labels).tolist() == [7000] * 10
    assert labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert labels[60_000:60_005].tolist() == [9, 2, 1, 1, 6]
    assert (
        digest(images[:10]) == "76572dc31d5577d6"
        and digest(images[60_000:60_010]) == "c9665db176243f9f"
    )
    x = task.splits(0)
    assert (
        digest(x.train.floor().numpy().astype(np.uint8)) == "249503cb5425833b"
    )  # of this seed, for ever
    assert [len(part) for part in x] == [60, 20, 30]
    three = FashionMNIST(bits=3, **SMALL)
    assert torch.equal(three.splits(0).test.floor(), (x.test / 32).floor())
    assert FashionMNIST().sizes == (42_000, 14_000, 14_000)


@needs_mnist
def test_mnist_is_the_real_one():
    images, labels = MNIST(**SMALL).images()
    assert images.shape == (70_000, 784)
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert labels[60_000:60_005].tolist() == [7, 2, 1, 0, 4]
    assert digest(images[:10]) == "28957a21a15ec1e7"


# --- patches --------------------------------------------------------------------------------------


def test_patches_are_cut_from_photos_and_no_photo_is_in_two_splits():
    from skimage import data

    task = Patches(bits=8, size=16, stride=40, **SMALL)
    assert task.shape == (3, 16, 16) and task.features == 768
    splits, labels = task.splits(2), task.labels(2)
    photos = {
        name: getattr(data, {"hubble": "hubble_deep_field"}.get(name, name))() for name in PHOTOS
    }
    corners = {
        photo[i : i + 16, j : j + 16].transpose(2, 0, 1).tobytes(): index
        for index, photo in enumerate(photos.values())
        for i in range(0, photo.shape[0] - 15, 40)
        for j in range(0, photo.shape[1] - 15, 40)
    }
    seen = []
    for x, y in zip(splits, labels, strict=True):
        found = [corners[row.tobytes()] for row in x.floor().numpy().astype(np.uint8)]
        assert found == y.tolist()
        seen.append({PHOTOS[index] for index in found})
    assert seen[1:] == [{"chelsea"}, {"coffee"}] and seen[0] <= {"astronaut", "hubble", "rocket"}
    assert len(seen[0]) == 3
    assert len(task.fingerprint()) == 16 and task.fingerprint() == Patches().fingerprint()


def test_photos_are_split_as_asked():
    task = Patches(
        size=8, stride=64, num_train=40, num_valid=60, num_test=20,
        valid_photos=["rocket", "astronaut"], test_photos=["hubble"],
    )  # fmt: skip
    used = [set(y.tolist()) for y in task.labels(0)]
    assert used == [{1, 2}, {0, 4}, {3}]
    with pytest.raises(ValueError, match="num_test: expected at most 3384, the patches of coffee"):
        Patches(num_test=4000).splits(0)
    for name, options in {
        "valid_photos": {"valid_photos": ["motorcycle"]},
        "test_photos": {"test_photos": ["chelsea"]},
        "test_photos: expected a photo left": {
            "test_photos": ["astronaut", "coffee"], "valid_photos": ["chelsea", "hubble", "rocket"],
        },
        "size": {"size": 400},
        "stride": {"stride": 0},
        "num_train": {"num_train": 0},
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=name):
            Patches(**options)


def test_patches_without_scikit_image_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    photo.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'flowzoo\[image\]'"):
        Patches().splits(0)
