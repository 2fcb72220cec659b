"""Files of a tar archive that is known by its md5: found, verified, taken out, fetched."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_server import Server
from flowzoo_bench.cache import CACHE_VARIABLE
from flowzoo_bench.data import archive as module
from flowzoo_bench.data import fetch
from flowzoo_bench.data.archive import below, members, unpacked
from flowzoo_bench.data.fetch import DataNotFoundError
from flowzoo_bench.data.files import MAF_TABLES, Archive

FILES = {"a/one.npy": b"first", "a/two.csv": b"second", "b/other.bin": b"not wanted"}
NOISE = np.random.default_rng(0).bytes(99_999)
WANTED = ("a/one.npy", "a/two.csv")


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the machine's own cache, or FLOWZOO_DATA."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(fetch.DATA_VARIABLE, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "data" / "tiny"


def packed(*entries: tuple[str, bytes | str]) -> bytes:
    """A .tar.gz of files (bytes) and symbolic links (texts), in this order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            else:
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
    return out.getvalue()


GOOD = packed(("data", b""), *((f"data/{name}", content) for name, content in FILES.items()))


def archive(content: bytes = GOOD, *urls: str) -> Archive:
    md5 = hashlib.md5(content).hexdigest()
    return Archive("tiny", "data.tar.gz", urls, md5, top="data", size="small")


def written(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def sealed(*names: str) -> list[str]:
    """Files below the archive's md5, each with its hash beside it."""
    return sorted(f"{archive().md5}/{name}{end}" for name in names for end in ("", ".sha256"))


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("how", ["root", "variable"])
def test_an_archive_in_place_is_verified_and_only_what_is_wanted_taken_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, how: str, nested: bool
) -> None:
    place = tmp_path / "place"
    folder = place / "tiny" if nested else place
    folder.mkdir(parents=True)
    (folder / "data.tar.gz").write_bytes(GOOD)
    if how == "variable":
        monkeypatch.setenv(fetch.DATA_VARIABLE, str(place))
    root = place if how == "root" else None
    found = members(archive(), WANTED, root=root)
    assert [path.read_bytes() for path in found] == [b"first", b"second"]
    assert written(cache) == sealed(*WANTED)
    assert written(place) == [str((folder / "data.tar.gz").relative_to(place))]  # as it was
    monkeypatch.setattr(module, "_unpacked", None)  # once is enough, with the archive and without
    assert members(archive(), WANTED, root=root) == found
    (folder / "data.tar.gz").unlink()
    assert members(archive(), WANTED, root=root) == found


@pytest.mark.parametrize("top", ["", "data", "tiny", "tiny/data"])
def test_files_that_lie_unpacked_come_first(tmp_path: Path, cache: Path, top: str) -> None:
    (tmp_path / "data.tar.gz").write_bytes(b"not looked at")
    for name in WANTED:
        path = tmp_path / top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    for found in (
        members(archive(), WANTED, root=tmp_path),
        unpacked(archive(), WANTED, tmp_path),
        below(archive(), WANTED, tmp_path),
    ):
        assert found == tuple(tmp_path / top / name for name in WANTED)
    assert not cache.exists()
    found[1].unlink()  # all of them from one place or none
    assert unpacked(archive(), WANTED, tmp_path) == below(archive(), WANTED, tmp_path) == ()
    with pytest.raises(ValueError, match="expected md5"):
        members(archive(), WANTED, root=tmp_path)


def test_only_root_is_looked_into_for_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fetch.DATA_VARIABLE, str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one.npy").write_bytes(b"mine")
    assert below(archive(), WANTED[:1], tmp_path / "elsewhere") == ()
    assert unpacked(archive(), WANTED[:1], None) == (tmp_path / "a/one.npy",)


def test_a_download_happens_once_and_serves_other_files(server: Server, cache: Path) -> None:
    server.pages["/good/data.tar.gz"] = GOOD
    data = archive(GOOD, f"{server.url}/good/data.tar.gz")
    for names in (WANTED, WANTED, ("b/other.bin",)):
        found = members(data, names, download=True)
        assert [path.read_bytes() for path in found] == [FILES[name] for name in names]
    assert len(server.asked) == 1
    assert set(written(cache)) == {*sealed(*FILES), "data.tar.gz"}


@pytest.mark.parametrize("damage", [b"", b"firs", b"fir5t", b"first and more"])
def test_what_was_unpacked_and_has_changed_is_unpacked_anew(
    tmp_path: Path, cache: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    packed_file = tmp_path / "data.tar.gz"
    packed_file.write_bytes(GOOD)
    path, other = members(archive(), WANTED, root=tmp_path)
    path.write_bytes(damage)
    assert members(archive(), WANTED, root=tmp_path) == (path, other)
    assert path.read_bytes() == b"first" and f"{path}: changed" in caplog.text
    assert written(cache) == sealed(*WANTED)
    path.write_bytes(damage)
    packed_file.unlink()
    with pytest.raises(DataNotFoundError):  # no archive to take it from, and none of it is used
        members(archive(), WANTED, root=tmp_path)
    assert members(archive(), WANTED[1:], root=tmp_path) == (other,)


def test_a_file_without_its_hash_is_unpacked_anew(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "data.tar.gz").write_bytes(GOOD)
    (path,) = members(archive(), WANTED[:1], root=tmp_path)
    (cache / sealed(WANTED[0])[1]).unlink()
    path.write_bytes(b"whose?")
    assert members(archive(), WANTED[:1], root=tmp_path)[0].read_bytes() == b"first"


def test_a_folder_that_may_not_be_searched_is_passed_by(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # simulated: whoever runs the tests as root may search every folder
    (tmp_path / "data.tar.gz").write_bytes(GOOD)
    first = members(archive(), WANTED, root=tmp_path)
    secret, usual = tmp_path / "secret", Path.is_file

    def is_file(path: Path) -> bool:
        if path.is_relative_to(secret):
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    assert members(archive(), WANTED, root=secret) == first
    assert "Permission denied" in caplog.text


def test_what_cannot_be_unpacked_says_so_and_the_download_stays(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["/good"] = GOOD
    data = archive(GOOD, f"{server.url}/good", f"{server.url}/good")
    copy = module.shutil.copyfileobj
    monkeypatch.setattr(module.shutil, "copyfileobj", _full)
    with pytest.raises(OSError, match="no space left"):
        members(data, WANTED, download=True)
    assert written(cache) == ["data.tar.gz"] and len(server.asked) == 1
    monkeypatch.setattr(module.shutil, "copyfileobj", copy)
    assert members(data, WANTED, download=True)[0].read_bytes() == b"first"
    assert len(server.asked) == 1


def _full(*given: object) -> None:
    raise OSError("no space left")


def test_a_download_that_is_broken_off_leaves_nothing(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    server.pages["/good"] = GOOD
    monkeypatch.setattr(module, "_verify", stop)
    with pytest.raises(KeyboardInterrupt):
        members(archive(GOOD, f"{server.url}/good"), WANTED, download=True)
    assert written(cache) == []


def test_a_cache_that_is_no_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.tar.gz").write_bytes(GOOD)
    (tmp_path / "file").write_bytes(b"no folder")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(NotADirectoryError, match=re.escape(str(tmp_path / "file"))):
        members(archive(), WANTED, root=tmp_path)


@pytest.mark.parametrize("bad", ["missing", "wrong", "cut"])
def test_a_bad_download_leaves_nothing_and_the_next_mirror_is_tried(
    server: Server, cache: Path, bad: str
) -> None:
    server.pages["/wrong"] = GOOD + b"\0"
    server.pages["/cut"] = GOOD[:30]
    data = archive(GOOD, f"{server.url}/{bad}")
    with pytest.raises(DataNotFoundError, match="could not be downloaded") as caught:
        members(data, WANTED, download=True)
    assert written(cache) == []
    if bad == "wrong":
        assert data.md5 in str(caught.value)
    server.pages["/good"] = GOOD
    data = archive(GOOD, *data.urls, f"{server.url}/good")
    assert members(data, WANTED, download=True)[0].read_bytes() == b"first"


def test_a_wrong_archive_is_named_and_one_further_on_found(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = tmp_path / "data.tar.gz"
    wrong.write_bytes(GOOD[:-1])
    with pytest.raises(ValueError, match=f"{re.escape(str(wrong))}: expected md5 .* damaged"):
        members(archive(), WANTED, root=tmp_path)
    assert written(cache) == [] and wrong.read_bytes() == GOOD[:-1]
    cache.mkdir(parents=True)
    (cache / "data.tar.gz").write_bytes(GOOD)
    assert members(archive(), WANTED, root=tmp_path)[1].read_bytes() == b"second"
    assert str(wrong) in caplog.text


def test_nothing_is_downloaded_unasked_and_the_error_says_what_to_do(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fetch.DATA_VARIABLE, str(tmp_path / "data"))
    url = f"{server.url}/good"
    with pytest.raises(DataNotFoundError) as caught:
        members(archive(GOOD, url), WANTED, root=tmp_path / "root")
    assert server.asked == []
    for part in (
        *WANTED, "data.tar.gz", url, "download=True", "FLOWZOO_DATA", "tiny/", "small",
        str(tmp_path / "root"), str(tmp_path / "data" / "tiny"),
    ):  # fmt: skip
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../evil", "data/../../evil", "/tmp/evil", "data/a/../../../a/one.npy"]
)
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, cache: Path, name: str) -> None:
    content = packed((name, b"evil"), *((f"data/{wanted}", b"good") for wanted in WANTED))
    place = tmp_path / "place"
    place.mkdir()
    (place / "data.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match=f"expected names below a folder, got {name!r}"):
        members(archive(content), WANTED, root=place)
    assert written(tmp_path) == ["place/data.tar.gz"]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
)
def test_what_is_no_file_is_refused(tmp_path: Path, cache: Path, kind: bytes) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        entry = tarfile.TarInfo("data/a/one.npy")
        entry.type, entry.linkname = kind, str(secret)
        tar.addfile(entry)
    (tmp_path / "data.tar.gz").write_bytes(out.getvalue())
    with pytest.raises(ValueError, match=r"expected a file 'data/a/one\.npy'"):
        members(archive(out.getvalue()), WANTED[:1], root=tmp_path)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (packed(("data/a/one.npy", b"alone")), "expected .*two.csv.* in it, got no such files"),
        (gzip.compress(b"no tar" * 200), "expected a whole .tar.gz archive"),
        (b"no gzip", "expected a whole .tar.gz archive"),
        (
            packed(("data/a/one.npy", np.random.default_rng(0).bytes(99_999)))[:60_000],
            "expected a whole .tar.gz archive",
        ),
    ],
    ids=["a file less", "no tar", "no gzip", "cut off"],
)
def test_other_archives_of_the_right_md5_are_refused(
    tmp_path: Path, content: bytes, match: str
) -> None:
    (tmp_path / "data.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match=match):
        members(archive(content), (*WANTED, "b/other.bin"), root=tmp_path)


def test_names_may_begin_with_a_dot(tmp_path: Path) -> None:
    content = packed(*((f"./data/{name}", content) for name, content in FILES.items()))
    (tmp_path / "data.tar.gz").write_bytes(content)
    assert members(archive(content), WANTED, root=tmp_path)[0].read_bytes() == b"first"


def test_a_file_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.tar.gz").write_bytes(GOOD)
    monkeypatch.setattr(module.shutil, "copyfileobj", _full)
    with pytest.raises(OSError, match="no space left"):
        members(archive(), WANTED, root=tmp_path)
    assert written(cache) == []


def test_a_large_archive_is_never_in_memory(server: Server, tmp_path: Path) -> None:
    large = np.random.default_rng(0).bytes(24 * 2**20)
    content = packed(("data/a/one.npy", large))
    (tmp_path / "data.tar.gz").write_bytes(content)
    data = archive(content)
    del content
    tracemalloc.start()
    try:
        (path,) = members(data, WANTED[:1], root=tmp_path)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.read_bytes() == large and most < 8 * 2**20


def test_the_archive_of_the_maf_tables() -> None:
    assert MAF_TABLES.md5 == "9b9c9b0375315ad270eba4ce80c093ab"
    assert all("zenodo.org" in url and "1161203" in url for url in MAF_TABLES.urls)
