"""Finding, verifying and fetching data files; a server of our own stands in for the network."""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pooch
import pytest

from data_server import Server
from flowzoo_bench.cache import CACHE_VARIABLE
from flowzoo_bench.data import fetch
from flowzoo_bench.data.fetch import DataNotFoundError, read
from flowzoo_bench.data.files import KNOWN, MNIST, DataSet, File
from flowzoo_bench.data.idx import format_idx, parse_idx

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
CONTENT = bytes([0, 0, 8, 3]) + struct.pack(">3I", *PIXELS.shape) + PIXELS.tobytes()
NAME = "images-idx3-ubyte.gz"


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the machine's own cache, or FLOWZOO_DATA."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    monkeypatch.delenv(fetch.DATA_VARIABLE, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return folder / "data"


def data_set(*urls: str, sha256: str | None = None, packaged: tuple[str, ...] = ()) -> DataSet:
    digest = sha256 or hashlib.sha256(CONTENT).hexdigest()
    return DataSet("tiny", (File(NAME, urls, digest),), packaged)


def test_a_download_happens_once(server: Server, cache: Path) -> None:
    server.pages["/good"] = gzip.compress(CONTENT)
    data = data_set(f"{server.url}/good")
    for _ in range(2):
        np.testing.assert_array_equal(parse_idx(read(data, NAME, download=True)), PIXELS)
    read(data, NAME)  # and is found without being asked for
    assert server.asked == ["/good"]
    assert [path.name for path in (cache / "tiny").iterdir()] == [NAME]


@pytest.mark.parametrize("page", ["good", "missing"])
def test_a_download_is_quiet_and_leaves_the_logger_as_it_was(server: Server, page: str) -> None:
    """What it would say, to keep the hash of the file, has been done."""
    server.pages["/good"] = gzip.compress(CONTENT)
    logger, said = pooch.get_logger(), []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[method-assign]
    logger.addHandler(handler)
    level = logger.level
    try:
        read(data_set(f"{server.url}/{page}"), NAME, download=True)
    except DataNotFoundError:
        assert page == "missing"
    finally:
        logger.removeHandler(handler)
    assert said == [] and logger.level == level


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize(
    "content",
    [b"", gzip.compress(CONTENT)[:-9], gzip.compress(b"other")],
    ids=["empty", "cut off", "another"],  # not the bytes: these hold the time
)
def test_a_damaged_file_in_the_cache_is_replaced_or_named(
    server: Server, cache: Path, download: bool, content: bytes
) -> None:
    server.pages["/good"] = gzip.compress(CONTENT)
    data = data_set(f"{server.url}/good")
    place = cache / "tiny" / NAME
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    if not download:
        with pytest.raises(ValueError, match=re.escape(str(place))):
            read(data, NAME)
        assert place.read_bytes() == content
        return
    assert read(data, NAME, download=True) == CONTENT
    assert read(data, NAME) == CONTENT and server.asked == ["/good"]
    assert gzip.decompress(place.read_bytes()) == CONTENT


def test_a_good_file_behind_a_damaged_one_is_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NAME).write_bytes(gzip.compress(CONTENT)[:-9])
    package = tmp_path / "package"
    package.mkdir()
    (package / NAME).write_bytes(gzip.compress(CONTENT))
    assert read(data_set(packaged=(str(package),)), NAME, root=tmp_path) == CONTENT
    assert str(tmp_path / NAME) in caplog.text and "whole gzip file" in caplog.text


def test_a_damaged_file_is_named_where_a_download_fails(server: Server, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"text")
    with pytest.raises(ValueError, match="could not be downloaded") as caught:
        read(data_set(f"{server.url}/missing"), NAME, root=tmp_path, download=True)
    assert str(tmp_path / NAME) in str(caught.value)


def test_nothing_is_downloaded_unasked(server: Server) -> None:
    server.pages["/good"] = gzip.compress(CONTENT)
    with pytest.raises(DataNotFoundError) as caught:
        read(data_set(f"{server.url}/good"), NAME)
    assert server.asked == []
    for part in ("tiny", NAME, "FLOWZOO_DATA", "download=True", f"{server.url}/good"):
        assert part in str(caught.value)


@pytest.mark.parametrize("bad", ["missing", "wrong", "cut"])
def test_the_next_mirror_is_tried(server: Server, cache: Path, bad: str) -> None:
    server.pages["/wrong"] = gzip.compress(CONTENT[:-1] + b"?")
    server.pages["/cut"] = gzip.compress(CONTENT)[:30]
    server.pages["/good"] = gzip.compress(CONTENT, compresslevel=1)  # compressed anew
    data = data_set(f"{server.url}/{bad}", f"{server.url}/good")
    assert read(data, NAME, download=True) == CONTENT
    assert server.asked[-1] == "/good"
    assert [path.name for path in (cache / "tiny").iterdir()] == [NAME]


@pytest.mark.parametrize("bad", ["missing", "wrong", "cut"])
def test_a_bad_download_leaves_nothing(server: Server, cache: Path, bad: str) -> None:
    server.pages["/wrong"] = gzip.compress(CONTENT[:-1] + b"?")
    server.pages["/cut"] = gzip.compress(CONTENT)[:30]
    with pytest.raises(DataNotFoundError, match="could not be downloaded"):
        read(data_set(f"{server.url}/{bad}"), NAME, download=True)
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("how", ["root", "variable", "package"])
def test_files_in_place_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, nested: bool, compressed: bool
) -> None:
    place = tmp_path / "place"
    folder = place / "tiny" if nested or how == "package" else place
    folder.mkdir(parents=True)
    if compressed:
        (folder / NAME).write_bytes(gzip.compress(CONTENT))
    else:
        (folder / NAME.removesuffix(".gz")).write_bytes(CONTENT)
    if how == "variable":
        monkeypatch.setenv(fetch.DATA_VARIABLE, str(place))
    data = data_set(packaged=(str(folder),) if how == "package" else ())
    assert read(data, NAME, root=place if how == "root" else None) == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1], b"", b"text"])
def test_a_damaged_file_is_said_to_be(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match="expected content of sha256"):
        read(data_set(), NAME, root=tmp_path, download=True)


def test_files_of_another_known_set_are_passed_by(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sets have files of the same names; one of them lies in the folder itself."""
    other = CONTENT[:-1] + b"?"
    known = DataSet("other", (File(NAME, (), hashlib.sha256(other).hexdigest()),))
    monkeypatch.setattr(fetch, "KNOWN", (known,))
    (tmp_path / NAME).write_bytes(gzip.compress(other))
    server.pages["/good"] = gzip.compress(CONTENT)
    assert read(known, NAME, root=tmp_path) == other
    with pytest.raises(DataNotFoundError, match="is not on this machine"):
        read(data_set(), NAME, root=tmp_path)
    data = data_set(f"{server.url}/good")
    assert read(data, NAME, root=tmp_path, download=True) == CONTENT


def test_unverified_files_come_from_the_folder_that_is_named(tmp_path: Path, cache: Path) -> None:
    (cache / "tiny").mkdir(parents=True)
    (cache / "tiny" / NAME).write_bytes(gzip.compress(CONTENT))
    for root in ("", None):
        with pytest.raises(ValueError, match="root: expected a folder"):
            read(data_set(), NAME, root=root, verify=False)
    place = tmp_path / "place"
    with pytest.raises(DataNotFoundError, match="root: expected a folder with"):
        read(data_set(), NAME, root=place, verify=False)
    place.mkdir()
    (place / NAME).write_bytes(b"anything")
    assert read(data_set(), NAME, root=place, verify=False) == b"anything"


@pytest.mark.parametrize("cut", [slice(None, -9), slice(10), slice(2)])
def test_a_gzip_file_that_is_not_whole_is_said_to_be(tmp_path: Path, cut: slice) -> None:
    whole = gzip.compress(CONTENT)
    (tmp_path / NAME).write_bytes(whole[cut])
    with pytest.raises(ValueError, match="expected a whole gzip file"):
        read(data_set(), NAME, root=tmp_path)
    (tmp_path / NAME).write_bytes(whole[:12] + b"\xff\xff\xff" + whole[15:])
    with pytest.raises(ValueError, match="expected a whole gzip file"):
        read(data_set(), NAME, root=tmp_path)


def test_unknown_files_are_refused() -> None:
    with pytest.raises(ValueError, match="file: expected one of"):
        read(MNIST, "nope")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"\x01\x00\x08\x01", b"\x00\x00\x09\x01\x00\x00\x00\x01a", CONTENT[:-1],
     CONTENT + b"x", CONTENT[:7]],
)  # fmt: skip
def test_what_is_no_idx_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="idx: expected"):
        parse_idx(content)


@pytest.mark.parametrize(
    "sizes, values",
    [
        ((2**32 - 1,) * 3, 5),
        ((2**31, 2**31, 4), 0),  # 2^64 is 0 to 64 bits
        ((0, 2**32 - 1, 2**32 - 1), 0),
        ((1,) * 100, 1),
    ],
)
def test_sizes_beyond_all_arrays_are_refused(sizes: tuple[int, ...], values: int) -> None:
    header = struct.pack(f">4B{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)
    with pytest.raises(ValueError, match=r"t10k\.gz: expected .*, got"):
        parse_idx(header + bytes(values), "t10k.gz")


def test_idx_of_any_shape() -> None:
    np.testing.assert_array_equal(parse_idx(CONTENT), PIXELS)
    assert parse_idx(bytes([0, 0, 8, 2, 0, 0, 0, 0, 0, 0, 0, 5])).shape == (0, 5)


@pytest.mark.parametrize("shape", [(3,), (2, 0), (2, 3, 4)])
def test_idx_is_written_as_it_is_read(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    content = format_idx(array)
    assert len(content) == 4 + 4 * len(shape) + array.size
    np.testing.assert_array_equal(parse_idx(content), array)
    assert format_idx(PIXELS) == CONTENT


def test_every_known_file_says_where_it_comes_from() -> None:
    for data in KNOWN:
        assert len({file.sha256 for file in data.files}) == len(data.files) == 4
        for file in data.files:
            assert len(file.sha256) == 64 and file.urls
            assert all(url.endswith(f"/{file.name}") for url in file.urls)
