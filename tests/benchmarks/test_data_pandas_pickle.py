"""Pickled tables are read, and nothing that a pickle says is ever done."""

from __future__ import annotations

import base64
import builtins
import io
import os
import pickle
import pickletools
import subprocess
import sys
import zlib
from pathlib import Path
from time import process_time

import numpy as np
import pytest

import old_pandas
from flowzoo_bench.data.pandas_pickle import read_frame
from flowzoo_bench.data.pickle_records import Record, read_records

COLUMNS = ["Time", "Meth", "Eth", "R1", "R2"]
VALUES = np.random.default_rng(0).standard_normal((40, 5))

# base64 of zlib of what frame.sample(frac=1.0, random_state=1).to_pickle(path, protocol=...) wrote,
# frame = DataFrame({"a": [0.5, 1.5, -2.0], "b": [1, 2, 3], "c": [4.0, 5.0, 6.5]})
NEWER = {
    "1.5.3, protocol 2": (
        "eNp1k2tT00AUhtMWUOINFQXB+wWLlyqCWBUFEVGIFF1v8dLZ2aQLyZCmfZPNIDN2Bj9Q4F/4M/zuD9PdbaoDaj7k"
        "3cs5m+c9ObuedessrLC44NYiXliKWJWbM0ywWT2CMfwVmQayebvDMAxaXY6Q25Hhh4JHIQviQpWFbJlHsTkd1NyV"
        "hdbMREc7nAa+E/+JN2kS1n13JeDUUQkmOt0wqdbXWudWk0D4LIrYmkkj7tbCWESJK0x0taJMeabexR7L2MBel7q1"
        "Cndjk4dqYKLbzkhiB6bdJTVgwg9HsK+J/QQHNnGQ4FDeylhZK9dET3pkRazVZeZhOyszloo4sr21iaMEvXkrp0+b"
        "wLFSqTT/Uz76ZRkCx51tr9seNdrPj2+T7dF6qt/TlZ6plg6k2juFPk8i9ROcEBhwXEqdxJe+Q0rNOPBdCTNoGVaH"
        "ld3ESYJTSk8TnPE6vS5P+z7rSTPnCM4rMxll5oLX4veLuKj4LxEMSX7vb/LLmrxfxmZS4lyq2VSRV3jDBFcErjre"
        "oC5YZhPXCK4rlgLBjSZuljGS39UUFf6ZxwWHxdykIV+lc2rFxK3/h6URow2MtZqtIrsQt9tGx5XROwRFZTS3gbup"
        "zcUi7imb9wkm2r/pCx7sNDsp8NDZLmMyr/cZptLmeKTVxTQXeOzoz4ay7zFTSpp4QjDr/ZtY9guPfFdCi/GxlPxp"
        "A8/y3m/gOQU8T2ClwM+9oXa5jV1lbpcfC6rcJYJFgReOpyFeEhDexCuC160rKHsUb+zutED6wuKtntMqF0xX7V0Z"
        "tt2pnAoRxXjfwAd9C+hSwJZjfGzgk92ntoOgthrTSlKXzcYEpwFzeBCjvBUnTuEXsGU8+Q=="
    ),
    "1.5.3, protocol 5": (
        "eNptU01v1DAQTbK7fLQVlApKAalHtFyiIhBwQGpFEVIJLBL3leUkziZq4kSOo1KJSnDo0kpzY+jv4afwM7jB2Enb"
        "tKoPnrHjmTfvzeTb6Nd04NgFdyouY177UamEnyheCISbb7nm76z/E598xwMcw5AVM4Ww3n+eSS2U5HntF1zymVA1"
        "wtKbvIx2P7ZnCofVLoLlWVifhyDcZo2ssmg3Fyw0MebximyKar/NTq5QWYSwyBJVFmGTJDbj+GTD6a8/m53zuzV/"
        "u/PyVmsfdvbuFsLI5icb6/3KsAMveYXHRz/wM46DAbivcTKZvP9Hy26BozEMvGAwR3C3UdMzuBE2Wa4zSRRGdZ5F"
        "Jk3gBMPAM1naPV1Mb41P1rrC3M52mjteZzFdAS/r4aerV6C7Bj19YLDTdTp5gXsONMcpNWftYldi8UXUfshr6uUC"
        "k2KP7Zg7qjN9CqNT33Y1pk4j3OvJXjREjivFSaYlpkRUylqrJtImfBmuE5D9aEgf4rYbYls8lXloCX26IOjXS4Ju"
        "EqVjU7NLuBQMboSC7mAozbxNmrnh+QweXUXpbCQWdqR+8bzHJH3ZF9y5JLR7JvhjW2Ur5ocWTJiN5psmgkbfCHL6"
        "G7BCaG4VmlKvudY04AcI11iS85l17/M8L/dqFjcVTQLXguU8FDTdR3UT+v8BvPo2jg=="
    ),
    "2.3.3, protocol 2": (
        "eNp1U2tT00AUTVtAiS9UFATfDyw+qoCPqiiIiEKk6PqKD2Znky4kQ5r2JJvBztgZ/EAL/8Kf4Xd/mO5uUx1w3A85"
        "+7j37jk3Zzeybo2FZRYX3GrECysRq3Bzlgk2p2cwRr8h00A2b3cZhkErqxFyOzL8UPAoZEFcqLCQrfIoNmeCqru2"
        "2F6Z6OqE08B34r/xJk3Cmu+uBZw6KsFEtxsmlVq9QHXhShIIn0URq5s04m41jEWUuMJETzvMlEX1KfZYxib2ujKt"
        "zN3Y5KGamOi1M5KyA9PukRgw4Ydj2NfEfoIDLRwkOJS3MlbWyjXRl5Ysi3pNZh62szJjpYgj21stHCXoz1s5XW0S"
        "x0ql0sIvOfTHMgSOO9terz1hdMbP71Od2UaKP9Kdvuk2DqXYP40BT1IaJDghMOS4lDqJL3WHlJpx4LuSzLBlWF1W"
        "toWTBKcUniY443V7PZ7WfdaTYs4RnFdiMkrMBa/N3y/iouJ/iWBE8vf+ZX5ZMx+UsZmUcS7FbIrIK3qjBFcErjre"
        "sG5YpoVrBNcVlwLBjSZuLmMsv8sVZf6FxwWHxdykIV+n82rHxPj/w9KIiQZutd1WljbE7Y7QO0roXYKiEprbxL1U"
        "5lIR95XMBwSTnd/0FQ93ip0SeORsL2Mqr88ZplNzPNboYoYLPHH0taE0PmZLSRNPCea8cU8yepb3/hB5rojMEyyk"
        "RCxvpNNGY1f7Om3FC9XGRYKSwJLj6eIvCV7xJgjB6/bbkt7DG7s3Fa5fIt7qNa1wwXQ33i3jvd2tFAgRxbAb+KDd"
        "TVcCthrjYwOf7AF1HATV9ZiWk5o0EROcBszhQYzPW3HiFH4D4DQulA=="
    ),
    "2.3.3, protocol 5": (
        "eNptUk1v1DAQTbK7fLWC8qFSOPSIlktEBQgOSK0oQoLAInGvLCdxNlEdJ/KHSiUqwaFLK/nG0N/DT+FncIOxk9K0"
        "wgfPOPH4zXtvvkx+PBkFftmbLRU5VXHWSBYXktYM7NVXVNPXPv8OD7/CAUztmNRzCXZ9eL0SmklBuYprKuicSQV2"
        "+SVvst333RnL7WpfQXiVqrMSsDeIEW2V7XJGUlfjLt8Wpm73Y+Kfx5zJKgO7RArZ1KkpCv/k9ORRMFy/NvvkZxd+"
        "9+eVrS7e7+OdLbATD4Ax1/uto2ej4jkcH32DjzBNRjZ8AbPZ7O0fXH5LAg1pEiWjBdhwGzRes1dSU3FdCeQwUbzK"
        "3DNJkIyTyL3S7eVSeX16stY3FvaxFz2I+gjlLRtVA/xy9T/ooUMv7znsch1PURKeAS1gB91ZO29Lzj4xFadUoZnX"
        "iGB75I37hn2WG3Zymntbc7QaTRrqXhtkR6WkqNMykSxrhNLSZNrVr9jLiOR/OtaHsB2m0HWPfR56Rh/OKfr5gqKb"
        "yOnYNR0iMBbbMAOG3+xYuImbmYUj+rh8iv2Vz4YyBhfkC//J+MBDdxK9615gbsOxRZ9xoh3N0+kmNdPU895BB6nW"
        "OLcHYC+RgtO5T+9Szps9RXLTor9UM8JpynBoj5RJ47/9aiYc"
    ),
}


def refused(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "hostile.pickle"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected a pickled pandas table of numbers") as caught:
        read_frame(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("core", old_pandas.CORES)
def test_a_frame_of_2017_is_read(tmp_path: Path, core: str) -> None:
    path = tmp_path / "old.pickle"
    path.write_bytes(old_pandas.frame(COLUMNS, VALUES, core))
    names, x = read_frame(path)
    assert names == COLUMNS and x.dtype == np.float64
    np.testing.assert_array_equal(x, VALUES)


@pytest.mark.parametrize("kind", NEWER)
def test_frames_of_newer_versions_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "newer.pickle"
    path.write_bytes(zlib.decompress(base64.b64decode(NEWER[kind])))
    names, x = read_frame(path)
    assert names == ["a", "b", "c"]
    np.testing.assert_array_equal(x, [[0.5, 1, 4], [-2, 3, 6.5], [1.5, 2, 5]])


def test_no_pandas_is_needed() -> None:
    code = "import flowzoo_bench.data.pandas_pickle, sys; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Runs:
    """Its pickle calls a function when it is loaded."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call  # type: ignore[return-value]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "function", [os.system, os.mkdir, builtins.eval, builtins.getattr, np.load]
)
def test_a_hostile_pickle_is_refused_and_does_nothing(
    tmp_path: Path, protocol: int, function: object
) -> None:
    mark = tmp_path / "done"
    arguments = {os.system: f"mkdir {mark}", os.mkdir: str(mark)}.get(function, "1")
    content = pickle.dumps(Runs(function, arguments), protocol)
    told = refused(tmp_path, content)
    assert "the name" in told and not mark.exists()
    # inside of an otherwise good file, too
    good = old_pandas.frame(COLUMNS, VALUES)
    call = old_pandas.call(
        old_pandas.name("posix", "mkdir"),
        b"X" + len(str(mark)).to_bytes(4, "little") + str(mark).encode(),
    )
    told = refused(tmp_path, b"\x80\x02" + call + b"0" + good[2:])
    assert "posix.mkdir" in told and not mark.exists()


def test_a_name_is_never_looked_up(tmp_path: Path) -> None:
    vocabulary = {("os", "system"): "run", ("absent.module", "name"): "none"}
    for module, name in vocabulary:
        mark = tmp_path / "done"
        content = old_pandas.call(old_pandas.name(module, name), old_pandas.text(f"mkdir {mark}"))
        found = read_records(io.BytesIO(content + b"."), vocabulary)
        assert found == Record(vocabulary[module, name], (f"mkdir {mark}",)) and not mark.exists()
    told = refused(tmp_path, b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.__new__\x93.")
    assert "ndarray.__new__" in told


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_are_what_they_were(protocol: int) -> None:
    shared = [1, -2, 2**40, 300, True, None]
    value = {
        "a": (shared, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "b": [[], {}, {"c": 0.5, "d": "\u00e4\n"}, shared],
    }
    assert read_records(io.BytesIO(pickle.dumps(value, protocol)), {}) == value


@pytest.mark.parametrize(
    "content",
    [b".", b"t.", b"(a.", b"N(lb.", b"]K\x01K\x02s.", b"R.", b"K\x01)R.", b"h\x05.", b"](K\x01u.",
     b"cos\nsystem\n}(U\x01aK\x01ub.", b"cos\nsystem\nN\x81.", b"(ios\nsystem\n.", b"Pid\n.",
     b"cos\nsystem\n)}\x92.", b"\x8f.", b"NN", b""],
)  # fmt: skip
def test_opcodes_that_do_not_fit_are_errors(content: bytes) -> None:
    with pytest.raises((ValueError, IndexError, KeyError, TypeError)):
        read_records(io.BytesIO(content), {("os", "system"): "run"})


def _one_block(values: bytes, places: bytes | None = None, columns: bytes | None = None) -> bytes:
    """A frame with one block of what is given."""
    o = old_pandas
    axes = o.list_of(columns or o.index("pandas", "Index", ["a", "b"]))
    places = places or o.array(np.arange(2))
    block = o.dict_of(values=values, mgr_locs=places)
    extra = b"}(" + o.text("0.14.1") + o.dict_of(axes=axes, blocks=o.list_of(block)) + b"u"
    manager = o.new(
        o.name("pandas.core.internals", "BlockManager"), o.tuple_of(axes, b"N", b"N", extra)
    )
    state = o.dict_of(_data=manager)
    return b"\x80\x02" + o.new(o.name("pandas.core.frame", "DataFrame"), state) + b"."


GOOD = old_pandas.array(np.arange(6.0).reshape(2, 3))


def _array(shape: bytes, code: str, raw: bytes) -> bytes:
    o = old_pandas
    made = o.call(o.name("numpy.core.multiarray", "_reconstruct"), b"N", b"N", b"N")
    return made + o.tuple_of(o.integer(1), shape, o.dtype(code), b"\x89", raw) + b"b"


def test_big_endian_and_integers_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.pickle"
    for values in (GOOD, old_pandas.array(np.arange(6).reshape(2, 3))):
        path.write_bytes(_one_block(values))
        np.testing.assert_array_equal(read_frame(path)[1], np.arange(6.0).reshape(2, 3).T)
    big = np.arange(6.0).reshape(2, 3).astype(">f8").tobytes()
    content = _one_block(GOOD).replace(b"U\x01<", b"U\x01>", 1)
    assert content != _one_block(GOOD)
    path.write_bytes(content.replace(np.arange(6.0).tobytes(), big))
    np.testing.assert_array_equal(read_frame(path)[1], np.arange(6.0).reshape(2, 3).T)


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    o = old_pandas
    sizes = o.tuple_of(o.integer(2), o.integer(3))
    for content in (
        _one_block(o.array(["a", "b"])),  # texts
        _one_block(_array(sizes, "f8", o.text(bytes(47)))),  # too short
        _one_block(_array(sizes, "f8", o.text(bytes(49)))),
        _one_block(_array(sizes, "V8", o.text(bytes(48)))),
        _one_block(_array(sizes, "O8", o.text(bytes(48)))),  # would be pointers
        _one_block(_array(o.tuple_of(o.integer(-2), o.integer(-3)), "f8", o.text(bytes(48)))),
        _one_block(_array(o.tuple_of(b"G@\x00\x00\x00\x00\x00\x00\x00", o.integer(3)), "f8", GOOD)),
        _one_block(_array(o.tuple_of(*[o.integer(2**31 - 1)] * 3), "f8", o.text(b""))),
        _one_block(GOOD, o.array(np.array([0, 2]))),  # a column that is not there
        _one_block(GOOD, o.array(np.array([0, 0]))),  # one twice
        _one_block(GOOD, o.array(np.array([0]))),  # and one not at all
        _one_block(GOOD, o.array(np.array([0.0, 0.5]))),
        _one_block(o.array(np.arange(4.0).reshape(2, 2, 1))),
        _one_block(o.array(np.arange(3.0).reshape(1, 3))),  # would be copied to both columns
        _one_block(o.array(np.arange(3.0))),
        _one_block(
            _array(o.tuple_of(o.integer(0), *[o.integer(2**31 - 1)] * 2), "f8", o.text(b""))
        ),
        _one_block(GOOD, columns=o.index("pandas", "Index", ["a", "a"])),
        _one_block(GOOD, columns=o.index("pandas", "Int64Index", np.arange(2))),
    ):
        refused(tmp_path, content)


@pytest.mark.parametrize("kept", [0, 1, 100, 700, -1])
def test_what_is_cut_off_is_refused(tmp_path: Path, kept: int) -> None:
    refused(tmp_path, old_pandas.frame(COLUMNS, VALUES)[:kept])


@pytest.mark.parametrize("value", [1, "text", [1.5], {"a": 1}, None, np.arange(3.0)])
def test_other_pickles_are_refused(tmp_path: Path, value: object) -> None:
    refused(tmp_path, pickle.dumps(value, 2))


def test_any_damage_is_a_value_error(tmp_path: Path) -> None:
    content = old_pandas.frame(COLUMNS, VALUES[:2])
    path = tmp_path / "damaged.pickle"
    opcodes = [at for _, _, at in pickletools.genops(content) if at is not None]
    rng = np.random.default_rng(0)
    for at in opcodes:
        damaged = bytearray(content)
        damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_frame(path)
        except ValueError:
            continue


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_frame(tmp_path / "absent.pickle")


def test_many_marks_take_linear_time() -> None:
    """Looking for a mark through the whole stack would take minutes."""
    num = 200_000
    content = b"(" * num + b"t" * num + b"."
    start = process_time()
    value = read_records(io.BytesIO(content), {})
    assert process_time() - start < 20
    depth = 0
    while value:
        (value,) = value
        depth += 1
    assert depth == num - 1


DOUBLED = b")q\x00" + b"".join(b"0h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
"""A tuple of two of a tuple of two ..., 60 times."""


@pytest.mark.parametrize(
    "content",
    [
        b"}" + DOUBLED + b"Ns.",
        DOUBLED + b"\x8c\x01a\x93.",
        b"}" + b"(" * 200_000 + b"t" * 200_000 + b"Ns.",
        b"(" * 200_000 + b"t" * 200_000 + b"\x8c\x01a\x93.",
    ],
    ids=["key of 2^60", "module of 2^60", "deep key", "deep module"],
)
def test_what_is_nested_is_not_hashed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.pickle"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="tuple where str should be"):
        read_frame(path)


def test_what_is_nested_is_not_printed(tmp_path: Path) -> None:
    shape = DOUBLED + b"\x85"  # in a tuple of one
    path = tmp_path / "table.pickle"
    path.write_bytes(_one_block(_array(shape, "f8", old_pandas.text(b""))))
    with pytest.raises(ValueError, match="an array whose shape") as caught:
        read_frame(path)
    assert len(str(caught.value)) < 1000
