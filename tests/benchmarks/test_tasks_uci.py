"""The UCI tables of the MAF paper: its preprocessing step by step, its split, its quirks."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import old_pandas
from flowzoo_bench.cache import CACHE_VARIABLE
from flowzoo_bench.data import fetch
from flowzoo_bench.data.fetch import DataNotFoundError
from flowzoo_bench.data.files import Archive
from flowzoo_bench.tasks.uci import examples, prepared, table
from flowzoo_bench.tasks.uci.gas import Gas, uncorrelated
from flowzoo_bench.tasks.uci.hepmass import Hepmass
from flowzoo_bench.tasks.uci.miniboone import Miniboone
from flowzoo_bench.tasks.uci.power import Power
from flowzoo_bench.tasks.uci.table import MafTable, in_order, load_array, recurring

TASKS = {task.name: task for task in (Power, Gas, Hepmass, Miniboone)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the machine's own cache, or FLOWZOO_DATA."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(fetch.DATA_VARIABLE, raising=False)
    return tmp_path / "cache" / "data" / "maf"


def small(name: str, folder: Path) -> dict[str, object]:
    """Options of a task on small files, which are written to ``folder``."""
    folder.mkdir(exist_ok=True)
    return getattr(examples, name)(folder)


def same(task: MafTable, *parts: np.ndarray) -> None:
    """The splits are these rows, to the last bit of single precision."""
    splits = task.splits(0)
    for x, expected in zip(splits, parts, strict=True):
        assert x.dtype == torch.float64
        np.testing.assert_array_equal(x.numpy(), expected.astype(np.float32).astype(np.float64))


def rows_by_rows(x: list[list[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rule of the split, on lists."""
    num_test = int(len(x) * 0.1)
    rest, test = x[:-num_test], x[-num_test:]
    num_valid = int(len(rest) * 0.1)
    return np.array(rest[:-num_valid]), np.array(rest[-num_valid:]), np.array(test)


# --- the published sizes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "total"), [(Power, 2_049_280), (Gas, 1_052_065), (Miniboone, 36_488)]
)
def test_published_sizes_follow_from_the_number_of_rows(task: type[MafTable], total: int) -> None:
    assert tuple(len(x) for x in in_order(np.empty((total, 0)))) == task.published
    num_test = total // 10
    num_valid = (total - num_test) // 10
    assert task.published == (total - num_test - num_valid, num_valid, num_test)


def test_the_published_sizes_of_hepmass() -> None:
    train, valid, test = Hepmass.published
    assert train + valid == 350_136 and valid == 350_136 // 10 and test == 174_987


def test_what_the_tasks_say_without_their_files() -> None:
    dims = {"power": 6, "gas": 8, "hepmass": 21, "miniboone": 43}
    for name, kind in TASKS.items():
        task = kind()
        assert task.features == dims[name] and not task.standardize and task.oracle is None
        assert task.fingerprint() == "" and task.bin_width is None
        with pytest.raises(DataNotFoundError) as caught:
            task.splits(0)
        parts = ("zenodo.org", "1161203", "FLOWZOO_DATA", "download=True", "maf", *kind.files)
        for part in parts:
            assert part in str(caught.value)


# --- preprocessing, step by step ------------------------------------------------------------------


def test_power_is_shuffled_dequantised_and_scaled(tmp_path: Path) -> None:
    options = small("power", tmp_path / "files")
    x = np.load(tmp_path / "files/power/data.npy")
    rng = np.random.RandomState(42)
    rng.shuffle(x)
    noise_voltage = rng.rand(300) * 0.01
    noise_active = rng.rand(300) * 0.001
    noise_meters = rng.rand(300, 3)
    columns = [
        x[:, 0] + noise_active,
        x[:, 2] + noise_voltage,
        *(x[:, 4 + meter] + noise_meters[:, meter] for meter in range(3)),
        x[:, 7],
    ]
    scaled = []
    for column in columns:
        seen = column[:270]
        scaled.append((column - np.mean(seen)) / np.sqrt(np.mean((seen - np.mean(seen)) ** 2)))
    expected = rows_by_rows(np.stack(scaled, axis=1).tolist())
    for got, wanted in zip(Power(**options).splits(0), expected, strict=True):
        np.testing.assert_allclose(got.numpy(), wanted, rtol=3e-7, atol=3e-7)
    assert [len(part) for part in expected] == [243, 27, 30]


def test_miniboone_is_scaled_by_training_and_validation_rows(tmp_path: Path) -> None:
    options = small("miniboone", tmp_path / "files")
    x = np.load(tmp_path / "files/miniboone/data.npy")
    seen = x[:270]
    train, valid, test = rows_by_rows(((x - seen.mean(axis=0)) / seen.std(axis=0)).tolist())
    same(Miniboone(**options), train, valid, test)
    both = torch.cat(Miniboone(**options).splits(0)[:2])
    assert float(both.mean(dim=0).abs().max()) < 1e-7
    assert not np.allclose(train.mean(axis=0), 0, atol=1e-4)


def test_gas_loses_sensors_that_follow_another_and_is_scaled_by_all_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    base = rng.standard_normal((200, 8))
    sensors = np.hstack([base, base @ np.diag(range(1, 9)) + 0.05 * rng.standard_normal((200, 8))])
    order = rng.permutation(16)
    names = [f"R{at}" for at in range(16)]
    frame = np.insert(sensors[:, order], [0, 3, 16], rng.standard_normal((200, 3)), axis=1)
    columns = [*names]
    for at, name in ((16, "Eth"), (3, "Time"), (0, "Meth")):
        columns.insert(at, name)
    (tmp_path / "gas").mkdir()
    (tmp_path / "gas/ethylene_CO.pickle").write_bytes(old_pandas.frame(columns, frame))
    kept = {name: frame[:, columns.index(name)] for name in names}
    while True:  # as the paper's program: name by name, correlations anew each time
        followed = [
            name
            for name in kept
            if sum(np.corrcoef(kept[name], other)[0, 1] > 0.98 for other in kept.values()) > 1
        ]
        if not followed:
            break
        del kept[followed[0]]
    assert len(kept) == 8
    x = np.stack([(c - c.mean()) / np.std(c, ddof=1) for c in kept.values()], axis=1)
    task = Gas(root=str(tmp_path), verify=False)
    for got, wanted in zip(task.splits(0), rows_by_rows(x.tolist()), strict=True):
        np.testing.assert_allclose(got.numpy(), wanted, rtol=3e-7, atol=3e-7)
    whole = torch.cat(task.splits(0))  # in the order of the file
    assert float(whole.mean(dim=0).abs().max()) < 1e-7
    assert float((whole.std(dim=0) - 1).abs().max()) < 1e-7
    before = task.fingerprint()
    # the file that one may make by hand holds the same, and is another
    np.save(
        tmp_path / "gas/ethylene_CO.npy", np.stack([frame[:, columns.index(n)] for n in names], 1)
    )
    assert torch.equal(torch.cat(Gas(root=str(tmp_path), verify=False).splits(0)), whole)
    assert Gas(root=str(tmp_path), verify=False).fingerprint() != before


def test_which_sensors_go_depends_on_their_order() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1000))
    chain = np.stack([a, a + 0.15 * b, a + 0.3 * b, b, -a], axis=1)  # 0 ~ 1 ~ 2, not 0 ~ 2
    close = np.corrcoef(chain, rowvar=False) > 0.98
    assert close[0, 1] and close[1, 2] and not close[0, 2] and not close[0, 4]
    assert uncorrelated(chain) == [2, 3, 4]
    assert uncorrelated(chain[:, [1, 0, 2, 3, 4]]) == [1, 2, 3, 4]  # the one in the middle alone


def test_a_pickle_that_is_no_table_is_not_run_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "gas").mkdir()
    mark = tmp_path / "done"
    path = tmp_path / "gas/ethylene_CO.pickle"
    path.write_bytes(
        b"cposix\nmkdir\n(X" + len(str(mark)).to_bytes(4, "little") + str(mark).encode() + b"tR."
    )
    with pytest.raises(ValueError, match=r"posix\.mkdir") as caught:
        Gas(root=str(tmp_path), verify=False).splits(0)
    assert not mark.exists() and str(path) in str(caught.value)
    assert "numpy.save('ethylene_CO.npy'" in str(caught.value) and "pandas < 2" in str(caught.value)
    path.write_bytes(old_pandas.frame(["Time", "Eth", "R1", "R2"], np.zeros((9, 4))))
    with pytest.raises(ValueError, match="expected sensors and Meth, Eth, Time"):
        Gas(root=str(tmp_path), verify=False).splits(0)


def test_hepmass_keeps_class_one_and_drops_by_the_smallest_value(tmp_path: Path) -> None:
    options = small("hepmass", tmp_path / "files")
    tables = {}
    for part, stray in (("train", 0), ("test", 1)):
        lines = (tmp_path / f"files/hepmass/1000_{part}.csv").read_text("utf-8").splitlines()
        assert len(lines[0].split(",")) == 28 + stray
        rows = [[float(cell) for cell in line.split(",")] for line in lines[1:]]
        tables[part] = np.array([row[1 : len(row) - stray] for row in rows if row[0] == 1.0])
    mean, std = tables["train"].mean(axis=0), tables["train"].std(axis=0, ddof=1)
    train, test = ((tables[part] - mean) / std for part in ("train", "test"))
    kept = []
    for at in range(27):
        count = Counter(train[:, at].tolist())
        if count[min(count)] <= 5:
            kept.append(at)
    assert len(kept) == 21 and len(train) == 200
    same(Hepmass(**options), train[:180, kept], train[180:, kept], test[:, kept])


def test_the_quirk_counts_the_smallest_value_and_not_the_most_frequent() -> None:
    often = np.r_[np.zeros(100), -np.ones(5), np.arange(1, 16)]  # 0 a hundred times: stays
    least = np.r_[np.arange(114), -np.ones(6)]  # -1 six times: goes
    just = np.r_[np.arange(115), -np.ones(5)]
    assert recurring(np.stack([often, least, just], axis=1)).tolist() == [False, True, False]
    assert recurring(-np.stack([often, least], axis=1)).tolist() == [False, False]


def test_the_stray_column_of_hepmass_is_not_read(tmp_path: Path) -> None:
    options = small("hepmass", tmp_path / "files")
    before = Hepmass(**options).splits(0)
    path = tmp_path / "files/hepmass/1000_test.csv"
    lines = [line.rpartition(",")[0] + "," for line in path.read_text("utf-8").splitlines()]
    path.write_text("\n".join(lines) + "\n", "utf-8")  # a name and cells that are empty
    assert all(map(torch.equal, Hepmass(**options).splits(0), before))
    path.write_text(path.read_text("utf-8").replace("f3,f4", "f4,f3"), "utf-8")
    with pytest.raises(ValueError, match=r"1000_test\.csv: expected the columns"):
        Hepmass(**options).splits(0)
    path.write_text(lines[0] + "\n" + "1.0,words\n", "utf-8")
    with pytest.raises(ValueError, match=r"1000_test\.csv: expected"):
        Hepmass(**options).splits(0)


# --- files, cache, options ------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_every_seed_gives_the_papers_split_and_draws_what_is_left_out(
    tmp_path: Path, name: str
) -> None:
    options = small(name, tmp_path / "files")
    whole = TASKS[name](**options).splits(0)
    assert all(map(torch.equal, whole, TASKS[name](**options).splits(5)))
    fewer = TASKS[name](num_train=50, num_test=9, **options)
    one, again, other = fewer.splits(0), fewer.splits(0), fewer.splits(1)
    assert [len(x) for x in one] == [50, len(whole.valid), 9]
    assert all(map(torch.equal, one, again)) and torch.equal(one.valid, whole.valid)
    assert not torch.equal(one.train, other.train) and not torch.equal(one.test, other.test)
    for part, rows in zip(one, whole, strict=True):
        known = {tuple(row) for row in rows.tolist()}
        drawn = [tuple(row) for row in part.tolist()]
        assert set(drawn) <= known and len(set(drawn)) == len(drawn)
    alone = TASKS[name](num_train=50, **options).splits(0)
    assert torch.equal(alone.train, one.train) and torch.equal(alone.test, whole.test)
    with pytest.raises(ValueError, match=f"num_valid: expected at most {len(whole.valid)}, got"):
        TASKS[name](num_valid=1000, **options).splits(0)


def test_options_are_checked() -> None:
    for wrong in (0, -1, 2.5, True, "all"):
        with pytest.raises(ValueError, match="num_test: expected a positive integer"):
            Power(num_test=wrong)
    with pytest.raises(ValueError, match="num_train: expected at most 29556, got 29557"):
        Miniboone(num_train=29_557)
    with pytest.raises(ValueError, match="root: expected a folder, for files that are not verif"):
        Power(verify=False)
    with pytest.raises(ValueError, match="seed: expected an integer"):
        Power().splits(-1)
    with pytest.raises(DataNotFoundError, match=r"root: expected a folder with power/data\.npy"):
        Power(root="/nowhere", verify=False).splits(0)


@pytest.mark.parametrize("name", TASKS)
def test_small_files_are_not_the_published_ones(tmp_path: Path, name: str) -> None:
    """The files alone cannot be verified: their numbers of rows are."""
    options = small(name, tmp_path / "files")
    del options["verify"]
    published = " / ".join(map(str, TASKS[name].published))
    with pytest.raises(ValueError, match=f"{name}: expected {published} rows of"):
        TASKS[name](**options).splits(0)


def test_an_archive_serves_all_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    plain = {}
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, kind in TASKS.items():
            options = small(name, tmp_path / "files")
            plain[name] = kind(**options).splits(0)
            if name == "gas":
                columns = ["Time", "Meth", "Eth", *(f"R{at}" for at in range(16))]
                x = np.load(tmp_path / "files/gas/ethylene_CO.npy")
                frame = old_pandas.frame(columns, np.hstack([np.zeros((300, 3)), x]))
                (tmp_path / "files/gas/ethylene_CO.pickle").write_bytes(frame)
            for file in kind.files:
                tar.add(tmp_path / "files" / file, f"data/{file}")
    data = content.getvalue()
    archive = Archive("maf", "data.tar.gz", (), hashlib.md5(data).hexdigest(), "data", "small")
    monkeypatch.setattr(table, "MAF_TABLES", archive)
    place = tmp_path / "place" / "maf"
    place.mkdir(parents=True)
    (place / "data.tar.gz").write_bytes(data)
    monkeypatch.setenv(fetch.DATA_VARIABLE, str(place.parent))
    for name, kind in TASKS.items():
        sizes = tuple(len(x) for x in plain[name])
        monkeypatch.setattr(kind, "published", sizes)
        assert len(kind().fingerprint()) == 16
        assert all(map(torch.equal, kind().splits(0), plain[name]))
    assert [path.name for path in place.iterdir()] == ["data.tar.gz"]
    (place / "data.tar.gz").write_bytes(data[:-1])
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "other"))
    with pytest.raises(ValueError, match="expected md5"):
        Power().splits(0)
    assert Power().fingerprint() == ""  # so that an experiment can be planned


def test_the_work_is_done_once_and_again_for_other_files(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = small("power", tmp_path / "files")
    first, tag = Power(**options).splits(0), Power(**options).fingerprint()
    (kept,) = (cache / "prepared").iterdir()
    assert kept.name == f"power-{prepared.RECIPE}-{tag}.npz"
    work = Power.prepare
    monkeypatch.setattr(Power, "prepare", None)
    assert all(map(torch.equal, Power(**options).splits(0), first))
    monkeypatch.setattr(Power, "prepare", work)
    whole = kept.read_bytes()
    one = io.BytesIO()
    np.save(one, np.zeros(3))
    for damaged in (
        b"",
        whole[: len(whole) // 2],
        whole[:3000] + b"?" + whole[3001:],
        one.getvalue(),
        *(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in _headers(whole)),
    ):
        kept.write_bytes(damaged)
        assert all(map(torch.equal, Power(**options).splits(0), first))
        assert kept.read_bytes() == whole or len(kept.read_bytes()) == len(whole)
    path = tmp_path / "files/power/data.npy"
    np.save(path, np.load(path)[::-1])
    assert Power(**options).fingerprint() != tag
    assert not torch.equal(Power(**options).splits(0).train, first.train)
    assert len(list((cache / "prepared").iterdir())) == 2


def _headers(archive: bytes) -> Iterator[int]:
    """Places of versions, flags and methods of a zip file's entries, and of an array's header."""
    for mark, offsets in ((b"PK\x03\x04", (4, 6, 8)), (b"PK\x01\x02", (4, 6, 8, 10))):
        yield from (archive.index(mark) + offset for offset in offsets)
    start = archive.index(b"\x93NUMPY")
    yield from (start + offset for offset in (6, 8, 11, 20, 40))


def test_several_at_once_do_not_meet_a_half_made_file(tmp_path: Path, cache: Path) -> None:
    options = small("hepmass", tmp_path / "files")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda seed: Hepmass(**options).splits(seed), range(8)))
    assert all(torch.equal(splits.test, found[0].test) for splits in found)
    assert [path.suffix for path in (cache / "prepared").iterdir()] == [".npz"]


@pytest.mark.skipif(os.name == "nt", reason="folders are made read-only the POSIX way")
def test_a_cache_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = small("power", tmp_path / "files")
    (tmp_path / "file").write_bytes(b"no folder")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert len(Power(**options).splits(0).train) == 243
    assert "cannot be kept" in caplog.text


def test_bad_tables_are_named(tmp_path: Path) -> None:
    path = tmp_path / "power/data.npy"
    path.parent.mkdir()
    task = Power(root=str(tmp_path), verify=False)
    for array in (np.zeros((300, 7)), np.zeros(300), np.zeros((300, 8), complex)):
        np.save(path, array)
        with pytest.raises(
            ValueError, match=re.escape(f"{path}: expected numbers of shape (N, 8)")
        ):
            task.splits(0)
    for content in (b"", b"text", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f"{path}: expected a .npy array")):
            load_array(path)
    with path.open("wb") as out:
        np.savez(out, np.zeros((300, 8)))
    with pytest.raises(ValueError, match="got an archive"):
        task.splits(0)
    x = np.random.default_rng(0).random((300, 8))
    x[4, 0] = np.nan
    np.save(path, x)
    with pytest.raises(ValueError, match="power: expected finite numbers"):
        task.splits(0)


def test_tables_of_few_rows_and_damaged_texts_are_named(tmp_path: Path) -> None:
    path = tmp_path / "power/data.npy"
    path.parent.mkdir()
    np.save(path, np.random.default_rng(0).random((5, 8)))
    with pytest.raises(ValueError, match=r"power: expected at least 1 rows .* got \[\(5, 6\), \(0"):
        Power(root=str(tmp_path), verify=False).splits(0)
    options = small("hepmass", tmp_path / "files")
    train, test = (tmp_path / "files" / name for name in Hepmass.files)
    whole = train.read_bytes()
    train.write_bytes(b"\xff" + whole)
    with pytest.raises(ValueError, match=re.escape(f"{train}: expected a text")):
        Hepmass(**options).splits(0)
    train.write_bytes(b"")
    with pytest.raises(ValueError, match=re.escape(f"{train}: expected a line of names")):
        Hepmass(**options).splits(0)
    train.write_bytes(whole)
    lines = test.read_text("utf-8").splitlines()
    lines[1] = ",".join(["1.0", "nan", *lines[1].split(",")[2:]])
    test.write_text("\n".join(lines), "utf-8")
    with pytest.raises(ValueError, match=rf"hepmass: expected finite .*{re.escape(str(test))}"):
        Hepmass(**options).splits(0)


def test_power_has_its_moments_to_the_bit_of_the_authors_program(tmp_path: Path) -> None:
    """They delete one column after the other, which leaves rows together in memory."""
    x = np.random.default_rng(1).normal(3, 2, (200_000, 8))
    path = tmp_path / "power/data.npy"
    path.parent.mkdir()
    np.save(path, x)
    rng = np.random.RandomState(42)
    rng.shuffle(x)
    x = np.delete(x, 3, axis=1)
    x = np.delete(x, 1, axis=1)
    voltage, active = 0.01 * rng.rand(200_000, 1), 0.001 * rng.rand(200_000, 1)
    x = x + np.hstack((active, voltage, rng.rand(200_000, 3), np.zeros((200_000, 1))))
    seen = x[:180_000]
    expected = (x - seen.mean(axis=0)) / seen.std(axis=0)
    same(
        Power(root=str(tmp_path), verify=False),
        expected[:162_000],
        expected[162_000:180_000],
        expected[180_000:],
    )
