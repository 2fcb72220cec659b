"""What the tables of the MAF paper share: where they are found, how they are cut, one split."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowzoo.interfaces.task import Splits, Task
from flowzoo.validation import check_positive
from flowzoo_bench.data.archive import below, members, unpacked
from flowzoo_bench.data.digests import digest
from flowzoo_bench.data.fetch import DataNotFoundError
from flowzoo_bench.data.files import MAF_TABLES
from flowzoo_bench.tasks.checks import check_seed
from flowzoo_bench.tasks.uci.prepared import Parts, prepared


class MafTable(Task):
    """A table as "Masked Autoregressive Flow for Density Estimation" used it; a subclass names it.

    Papamakarios, Pavlakou, Murray (2017), appendix D. Preprocessing and split follow the authors'
    programs, quirks included, for only then do numbers compare with published ones. The split is
    the paper's and *the same for every seed*; a seed only chooses which rows are left out where
    fewer are asked for. Columns are z-scores already, rounded to single precision as the authors'
    are: models see them as they are and log-likelihoods are nats of these units, as in the
    literature.

    The files are looked for below ``root``, below the folder ``FLOWZOO_DATA`` names (in ``maf/`` or
    in itself, the archive ``data.tar.gz`` or what is in it) and in the cache. The archive is
    verified by its md5. Of files that somebody unpacked nothing is known beforehand: they must
    give the published numbers of rows and columns, and ``fingerprint`` tells their content. What
    is made of them is kept in the cache.

    Args:
        num_train: training rows, drawn by the seed; None for all.
        num_valid: validation rows, likewise.
        num_test: test rows, likewise.
        root: a folder to look for the files in, before any other. Like every option it is part of
            a run's identity; for results that do not depend on where a machine keeps its files,
            set ``FLOWZOO_DATA`` instead.
        download: fetch the archive (about 0.8 GB) if the files are nowhere on this machine; part
            of a run's identity too. It stays in the cache, where it is found without this.
        verify: whether the numbers of rows must be the published ones. If not, unpacked files in
            ``root`` alone are taken, for another table in the same format.

    Raises:
        ValueError: an option out of its range.
    """

    name: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    converted: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[int]
    published: ClassVar[tuple[int, int, int]]

    def __init__(
        self,
        *,
        num_train: int | None = None,
        num_valid: int | None = None,
        num_test: int | None = None,
        root: str = "",
        download: bool = False,
        verify: bool = True,
    ) -> None:
        super().__init__(self.columns)
        given = {"num_train": num_train, "num_valid": num_valid, "num_test": num_test}
        self.asked = {
            name: num if num is None else check_positive(name, num) for name, num in given.items()
        }
        self.root, self.download, self.verify = root, download, verify
        if verify:
            self._check_asked(self.published)
        elif not root:
            raise ValueError("root: expected a folder, for files that are not verified, got ''")

    @abstractmethod
    def prepare(self, paths: Sequence[Path]) -> Parts:
        """Read the original files and do what the paper's authors did to them."""

    def fingerprint(self) -> str:
        """Hash of the original files; empty while there are none on this machine that are whole.

        An experiment can then be planned all the same; ``splits`` says what is wrong.
        """
        try:
            return digest(self._sources())[:16]
        except (OSError, ValueError):
            return ""

    def splits(self, seed: int) -> Splits:
        """The paper's split, whatever the seed; it draws the rows where not all are asked for.

        Raises:
            DataNotFoundError: the files are not here; the message says how to get them.
            ValueError: they hold something else, or fewer rows than are asked for.
        """
        check_seed(seed)
        parts = self._parts()
        self._check_asked([len(x) for x in parts])
        chosen = zip(parts, self.asked.values(), strict=True)
        return Splits(*(_some(x, num, (seed, at)) for at, (x, num) in enumerate(chosen)))

    def _parts(self) -> Parts:
        sources = self._sources()
        parts = prepared(self.name, sources, lambda: self.prepare(sources))
        shapes = [x.shape for x in parts]
        rows = self.published if self.verify else [max(1, len(x)) for x in parts]
        files = " and ".join(map(str, sources))
        if shapes != [(num, self.columns) for num in rows]:
            wanted = " / ".join(map(str, rows)) if self.verify else "at least 1"
            raise ValueError(
                f"{self.name}: expected {wanted} rows of {self.columns} columns for training, "
                f"validation and test, got {shapes} from {files}"
            )
        if not all(bool(np.isfinite(x).all()) for x in parts):
            raise ValueError(
                f"{self.name}: expected finite numbers in {files}, in columns that vary"
            )
        return parts

    def _sources(self) -> tuple[Path, ...]:
        """The original files, or what they were converted to by hand."""
        if not self.verify:
            found = (self.converted and below(MAF_TABLES, self.converted, self.root)) or below(
                MAF_TABLES, self.files, self.root
            )
            if not found:
                raise DataNotFoundError(
                    f"root: expected a folder with {' and '.join(self.files)}, got {self.root!r}"
                )
            return found
        found = unpacked(MAF_TABLES, self.converted, self.root) if self.converted else ()
        return found or members(MAF_TABLES, self.files, root=self.root, download=self.download)

    def _check_asked(self, rows: Sequence[int]) -> None:
        for (name, num), total in zip(self.asked.items(), rows, strict=True):
            if num is not None and num > total:
                raise ValueError(f"{name}: expected at most {total}, got {num}")


def in_order(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Training, validation and test rows: the last tenth is for test, the next for validation.

    Example:
        >>> [len(x) for x in in_order(np.zeros((36_488, 1)))]
        [29556, 3284, 3648]
    """
    train, test = last_tenth(rows)
    return *last_tenth(train), test


def last_tenth(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All rows but the last tenth, rounded down, and these."""
    start = len(rows) - int(0.1 * len(rows))
    return rows[:start], rows[start:]


def recurring(x: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which columns of x (N, D) are dropped for repeating a value, as the paper's authors do it.

    Quirk: they mean to look at the most frequent value and do look at the *smallest*. A column
    goes if that occurs more than five times.

    Example:
        >>> recurring(np.array([[0.0, 1.0]] * 6 + [[1.0, 0.0]]))
        array([ True, False])
    """
    count: NDArray[np.int64] = (x == x.min(axis=0)).sum(axis=0)
    return count > 5


def load_array(path: Path, columns: int | None = None) -> NDArray[np.float64]:
    """The table (N, columns) in a .npy file; of any number of columns where none is named.

    Raises:
        OSError: it cannot be opened.
        ValueError: something else is in it.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy, zipfile and tokenize each have their own for damaged bytes
        raise ValueError(f"{path}: expected a .npy array of numbers, got something else") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{path}: expected a .npy array of numbers, got an archive")
    if (
        array.dtype.kind not in "fiu"
        or array.ndim != 2
        or (columns is not None and array.shape[1] != columns)
    ):
        raise ValueError(
            f"{path}: expected numbers of shape (N, {columns or 'D'}), "
            f"got {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.float64)


def _some(x: NDArray[np.float32], num: int | None, seed: tuple[int, int]) -> Tensor:
    """So many random rows, or all in their order; a copy in double precision."""
    rows = slice(None) if num is None else np.random.default_rng(seed).permutation(len(x))[:num]
    return torch.as_tensor(x[rows].astype(np.float64))
