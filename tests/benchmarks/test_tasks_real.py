"""Digits, breast cancer, airports, and data of one's own."""

import numpy as np
import pytest
import torch

from flowzoo_bench.tasks import Airports, ArrayTask, BreastCancer, Digits, FileTask


@pytest.mark.parametrize(
    ("task", "sizes", "features"),
    [
        (Digits(), [1079, 359, 359], 64),
        (BreastCancer(), [341, 114, 114], 30),
        (Airports(), [10000, 2500, 2500], 3),
    ],
    ids=["digits", "breast-cancer", "airports"],
)
def test_splits_are_disjoint_seeded_and_without_a_known_truth(task, sizes, features):
    first, again, other = task.splits(0), task.splits(0), task.splits(1)
    assert [len(x) for x in first] == sizes
    assert all(x.shape[1] == features == task.features for x in first)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not torch.equal(first.train, other.train)
    rows = torch.cat(first)
    assert rows.dtype == torch.float64 and torch.isfinite(rows).all()
    assert len(rows.unique(dim=0)) == len(rows)
    assert task.oracle is None
    with pytest.raises(TypeError, match="density"):
        task.log_prob(first.test)
    with pytest.raises(TypeError, match="support"):
        task.distance(first.test)


def test_digits_dequantise_every_image_once_and_are_undone_by_floor():
    from sklearn.datasets import load_digits

    levels = load_digits().data
    draws = [torch.cat(Digits().splits(seed)).numpy() for seed in (0, 1)]
    for x in draws:
        assert x.min() >= 0 and x.max() < 17
        assert sorted(map(tuple, np.floor(x))) == sorted(map(tuple, levels))
        fraction = x - np.floor(x)
        assert fraction.mean() == pytest.approx(0.5, abs=0.005)
        assert fraction.std() == pytest.approx(12**-0.5, abs=0.005)
    assert not np.array_equal(np.sort(draws[0], axis=0), np.sort(draws[1], axis=0))
    assert Digits.bin_width == 1.0 and Digits.standardize


def test_breast_cancer_holds_the_original_rows():
    from sklearn.datasets import load_breast_cancer

    x = torch.cat(BreastCancer().splits(4)).numpy()
    assert sorted(map(tuple, x)) == sorted(map(tuple, load_breast_cancer().data))
    assert BreastCancer.standardize and BreastCancer.bin_width is None


def test_airports_lie_near_the_sphere_where_airports_are():
    places = Airports.places()
    assert len(places) > 25000
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), 1, rtol=0, atol=1e-12)
    assert len(np.unique(places, axis=0)) == len(places)
    paris = np.radians([49.01, 2.55])  # Charles de Gaulle
    paris = [
        np.cos(paris[0]) * np.cos(paris[1]),
        np.cos(paris[0]) * np.sin(paris[1]),
        np.sin(paris[0]),
    ]
    assert np.linalg.norm(places - paris, axis=1).min() < 1e-3
    radius = torch.cat(Airports(noise=0.02).splits(0)).norm(dim=1)
    assert float((radius - 1).std()) == pytest.approx(0.02, rel=0.03)
    assert Airports.standardize is True


def test_airports_refuse_more_rows_than_there_are_and_no_noise():
    with pytest.raises(ValueError, match="at most"):
        Airports(num_train=1_000_000).splits(0)
    with pytest.raises(ValueError, match="noise: expected > 0"):
        Airports(noise=0)
    with pytest.raises(ValueError, match="num_test"):
        Airports(num_test=0)


@pytest.mark.parametrize("cls", [Digits, BreastCancer])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"valid_fraction": 0.0}, "valid_fraction"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"test_fraction": float("nan")}, "test_fraction"),
        ({"valid_fraction": 0.6, "test_fraction": 0.6}, "each split"),
    ],
)
def test_bad_fractions_are_named(cls, options, match):
    with pytest.raises(ValueError, match=match):
        cls(**options)


def test_array_task_gives_back_copies_of_what_it_got():
    train = np.arange(6).reshape(3, 2)
    task = ArrayTask(train, torch.ones(1, 2), [[5.0, 6.0]], standardize=False, bin_width=2.0)
    splits = task.splits(0)
    assert splits.train.dtype == torch.float64
    np.testing.assert_array_equal(splits.train.numpy(), train)
    splits.train.zero_()
    np.testing.assert_array_equal(task.splits(7).train.numpy(), train)
    assert (task.features, task.standardize, task.bin_width) == (2, False, 2.0)
    assert ArrayTask(train, train, train).standardize is True


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        (([[1.0]], [[1.0]], [[1.0, 2.0]]), "test: expected 1 columns"),
        (([1.0], [[1.0]], [[1.0]]), "train: expected shape"),
        ((np.zeros((0, 2)), [[1.0]], [[1.0]]), "train: expected shape"),
        (([[1.0]], [[float("nan")]], [[1.0]]), "valid: expected finite"),
        (([["a"]], [[1.0]], [[1.0]]), "train: expected an array"),
        (([[1.0 + 2.0j]], [[1.0]], [[1.0]]), "train: .* got complex ones"),
        ((torch.ones(1, 1, dtype=torch.complex64), [[1.0]], [[1.0]]), "train: .* got complex ones"),
    ],
)
def test_array_task_names_bad_arrays(arrays, match):
    with pytest.raises(ValueError, match=match):
        ArrayTask(*arrays)


def test_file_task_splits_the_rows_of_a_file(tmp_path):
    x = np.random.default_rng(0).integers(0, 9, (50, 4))
    np.save(tmp_path / "x.npy", x)
    path = str(tmp_path / "x.npy")
    splits = FileTask(path=path).splits(0)
    assert [len(part) for part in splits] == [30, 10, 10]
    assert sorted(map(tuple, torch.cat(splits).numpy())) == sorted(map(tuple, x))
    assert not torch.equal(FileTask(path=path).splits(1).train, splits.train)
    task = FileTask(path=path, dequantize=True, standardize=False)
    values = torch.cat(task.splits(0)).numpy()
    assert sorted(map(tuple, np.floor(values))) == sorted(map(tuple, x))
    assert task.bin_width == 1.0 and task.standardize is False
    noisy = torch.cat(FileTask(path=path, noise=0.1).splits(0))
    assert 0 < float((noisy - noisy.round()).abs().mean()) < 0.2


def test_file_task_names_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        FileTask(path=str(tmp_path / "absent.npy"))
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="path"):
        FileTask(path=str(tmp_path / "objects.npy"))
    np.savez(tmp_path / "many.npz", a=np.zeros((4, 2)))
    with pytest.raises(ValueError, match="archive"):
        FileTask(path=str(tmp_path / "many.npz"))
    np.save(tmp_path / "x.npy", np.full((50, 2), 0.5))
    with pytest.raises(ValueError, match="dequantize"):
        FileTask(path=str(tmp_path / "x.npy"), dequantize=True)
    np.save(tmp_path / "two.npy", np.zeros((2, 2)))
    with pytest.raises(ValueError, match="each split"):
        FileTask(path=str(tmp_path / "two.npy"))
