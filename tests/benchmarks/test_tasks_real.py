"""Digits, breast cancer, wine, diabetes, airports, and data of one's own."""

import io
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import scipy.optimize
import torch

from flowzoo_bench.tasks import Airports, ArrayTask, BreastCancer, Digits, FileTask
from flowzoo_bench.tasks.tabular import Diabetes, Wine


@pytest.mark.parametrize(
    ("task", "sizes", "features"),
    [
        (Digits(), [1079, 359, 359], 64),
        (BreastCancer(), [341, 114, 114], 30),
        (Wine(), [106, 36, 36], 13),
        (Diabetes(), [266, 88, 88], 7),
        (Airports(), [10000, 2500, 2500], 3),
    ],
    ids=["digits", "breast-cancer", "wine", "diabetes", "airports"],
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
    assert Digits().bin_width == 1.0 and Digits().standardize


def test_breast_cancer_holds_the_original_rows():
    from sklearn.datasets import load_breast_cancer

    x = torch.cat(BreastCancer().splits(4)).numpy()
    assert sorted(map(tuple, x)) == sorted(map(tuple, load_breast_cancer().data))
    assert BreastCancer.standardize and BreastCancer.bin_width is None


@pytest.mark.parametrize("cls", [Wine, Diabetes])
def test_rounded_tables_hold_the_original_rows_and_noise_of_their_rounding(cls):
    from sklearn.datasets import load_wine

    original = load_wine().data if cls is Wine else _diabetes()
    widths = np.array(cls.widths)
    seen = []
    for seed in (0, 1):
        x = torch.cat(cls().splits(seed)).numpy()
        noise = (x[:, None] - original) / widths
        whose = ((noise > -1e-6) & (noise < 1 + 1e-6)).all(axis=2)
        assert whose.sum(axis=0).min() >= 1 and whose.trace() < cls.total  # found, and shuffled
        _, rows = scipy.optimize.linear_sum_assignment(~whose.T)
        drawn = noise[rows, np.arange(cls.total)]
        assert drawn.min() > -1e-6 and drawn.max() < 1 + 1e-6
        assert drawn.mean() == pytest.approx(0.5, abs=0.02)
        assert drawn.std() == pytest.approx(12**-0.5, abs=0.02)
        assert all(len(set(column)) == cls.total for column in x.T)  # no value twice
        seen.append(drawn)
    assert not np.allclose(*seen) and cls.standardize and cls.bin_width is None


def _diabetes():
    """Without the sex and what is computed from others."""
    from sklearn.datasets import load_diabetes

    x = load_diabetes(scaled=False).data[:, [0, 2, 3, 4, 6, 8, 9]]
    x[:, 5] = np.round(np.exp(x[:, 5]))
    return x


def test_columns_of_diabetes_that_are_left_out_follow_from_those_that_are_kept():
    from sklearn.datasets import load_diabetes

    total, hdl, triglycerides = Diabetes().rounded()[:, 3:6].T
    published = load_diabetes(scaled=False).data
    np.testing.assert_allclose(np.log(triglycerides), published[:, 8], rtol=0, atol=1e-4)
    exact = np.abs(published[:, 5] - (total - hdl - triglycerides / 5)) < 0.01
    assert exact.mean() > 0.99
    assert np.abs(published[:, 7] - total / hdl).max() < 0.66


@pytest.mark.parametrize("cls", [Wine, Diabetes])
def test_the_noise_of_rounded_tables_is_as_wide_as_the_rounding(cls):
    """Of no column are most values multiples of a step five or ten times the noise's."""
    steps = np.round(cls().rounded() / np.array(cls.widths), 6)
    for factor, most in ((2, 0.75), (5, 0.4), (10, 0.3)):
        assert (steps % factor == 0).mean(axis=0).max() < most
    # nor is the noise wider than the rounding: half of the values at least are its multiples
    assert (steps % 1 == 0).mean(axis=0).min() > 0.5


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


@pytest.mark.parametrize("cls", [Digits, BreastCancer, Wine, Diabetes])
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
        (([["1.5"]], [[1.0]], [[1.0]]), "train: expected an array .* of numbers, got text"),
        (([[1.0]], [[b"1"]], [[1.0]]), "valid: expected an array .* of numbers, got text"),
        ((np.array([["1", 2]], dtype=object), [[1.0]], [[1.0]]), "train: .* got str objects"),
        (([[None]], [[1.0]], [[1.0]]), "train: .* got NoneType objects"),
        ((np.zeros((2, 1), "M8[s]"), [[1.0]], [[1.0]]), "train: .* got dates or times"),
        ((np.zeros((2, 1), "m8[s]"), [[1.0]], [[1.0]]), "train: .* got dates or times"),
        ((np.zeros((2, 1), [("a", "f8")]), [[1.0]], [[1.0]]), "train: .* got records"),
        (([[1.0], [1.0, 2.0]], [[1.0]], [[1.0]]), "train: expected an array"),
        (([[1.0 + 2.0j]], [[1.0]], [[1.0]]), "train: .* got complex ones"),
        ((torch.ones(1, 1, dtype=torch.complex64), [[1.0]], [[1.0]]), "train: .* got complex ones"),
    ],
)
def test_array_task_names_bad_arrays(arrays, match):
    with pytest.raises(ValueError, match=match):
        ArrayTask(*arrays)


def test_array_task_takes_numbers_of_any_kind():
    for train in (
        [[True], [False]],
        np.ones((2, 1), np.float16),
        np.ones((2, 1), np.uint8),
        [[Fraction(1, 2)], [Decimal("0.5")]],
        [torch.ones(1), torch.ones(1)],
        torch.ones(2, 1, requires_grad=True),
    ):
        assert ArrayTask(train, [[0.5]], [[0.5]]).splits(0).train.shape == (2, 1)


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


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz():
    file = io.BytesIO()
    np.savez(file, a=np.zeros((4, 2)))
    return file.getvalue()


GOOD = npy(np.zeros((50, 2)))


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("empty.npy", b"", "expected a .npy array of numbers"),
        ("cut.npy", GOOD[:-8], "expected a .npy array of numbers"),
        ("header.npy", GOOD[:9], "expected a .npy array of numbers"),
        ("garbled.npy", GOOD.replace(b"{'descr'", b"{('desc"), "expected a .npy array of numbers"),
        ("huge.npy", GOOD.replace(b"(50, 2), }     ", b"(50, 2*9**9), }"), "expected a .npy array"),
        ("text.npy", b"1,2\n3,4\n", "expected a .npy array of numbers"),
        ("zip.npy", b"PK\x03\x04 and no more", "expected a .npy array of numbers"),
        (
            "objects.npy",
            npy(np.array([{"a": 1}], dtype=object), allow_pickle=True),
            "expected a .n",
        ),
        ("many.npz", npz(), "expected one .npy array, got an archive"),
        (
            "rows.csv",
            b"1,2\n3,4\n",
            r"convert it once: np.save\('rows.npy', np.loadtxt\('rows.csv'",
        ),
        ("line.npy", npy(np.zeros(5)), r"expected shape \(N, D\)"),
        ("nan.npy", npy(np.full((50, 2), np.nan)), "expected finite"),
        ("words.npy", npy(np.full((50, 2), "1.5")), "numbers, got text"),
        ("dates.npy", npy(np.zeros((50, 2), "M8[s]")), "numbers, got dates or times"),
        ("complex.npy", npy(np.zeros((50, 2), complex)), "numbers, got complex ones"),
    ],
)
def test_file_task_names_the_argument_and_the_file(tmp_path, name, data, match):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=match) as caught:
        FileTask(path=str(tmp_path / name))
    text = str(caught.value)
    assert text.startswith("path: ") and repr(str(tmp_path / name)) in text
    assert len(text.splitlines()) == 1 and text.count(name) <= (3 if name == "rows.csv" else 1)


def test_file_task_names_places_that_hold_no_file(tmp_path):
    absent = str(tmp_path / "absent.npy")
    with pytest.raises(FileNotFoundError, match=f"path: .* got '{absent}': No such file"):
        FileTask(path=absent)
    with pytest.raises(IsADirectoryError, match=f"path: .* got '{tmp_path}': Is a directory"):
        FileTask(path=str(tmp_path))
    with pytest.raises(ValueError, match=r"path: expected the name of a \.npy file, got ''"):
        FileTask(path="")
    with pytest.raises(ValueError, match=r"path: expected the name of a \.npy file, got 3"):
        FileTask(path=3)
    with pytest.raises(ValueError, match=r"path: expected .*, got '~nobody-here/x.npy'"):
        FileTask(path="~nobody-here/x.npy")
    with pytest.raises(ValueError, match=r"path: expected .*, got 'a\\x00b'"):
        FileTask(path="a\0b")


def test_file_task_refuses_what_its_options_cannot_do(tmp_path):
    path = str(tmp_path / "x.npy")
    np.save(path, np.full((50, 2), 0.5))
    with pytest.raises(ValueError, match=f"dequantize: expected integer values in '{path}'"):
        FileTask(path=path, dequantize=True)
    np.save(path, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="each split"):
        FileTask(path=path)
