"""Data sets of one's own, from arrays or from a .npy file."""

from __future__ import annotations

import hashlib
from numbers import Number
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from flowzoo.interfaces.task import Splits, Task
from flowzoo.validation import check_finite
from flowzoo_bench.tasks.checks import check_noise, check_seed, split_sizes


class ArrayTask(Task):
    """Given train, validation and test rows, the same for every seed.

    Args:
        train: (N, D) numbers, anything numpy or torch can read.
        valid: (M, D).
        test: (T, D).
        standardize: whether models see the data scaled by training moments.
        noise_scale: standard deviation of the noise around the support, where known.
        bin_width: width of the bins of dequantised data, else None.

    Raises:
        ValueError: a split is empty, not two-dimensional, of other width, or not finite.

    Example:
        >>> task = ArrayTask([[0.0], [1.0]], [[0.5]], [[0.2]])
        >>> task.splits(0).train.shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        train: ArrayLike | Tensor,
        valid: ArrayLike | Tensor,
        test: ArrayLike | Tensor,
        *,
        standardize: bool = True,
        noise_scale: float | None = None,
        bin_width: float | None = None,
    ) -> None:
        rows = [_rows(n, x) for n, x in (("train", train), ("valid", valid), ("test", test))]
        super().__init__(rows[0].shape[1])
        for name, x in zip(("valid", "test"), rows[1:], strict=True):
            if x.shape[1] != self.features:
                raise ValueError(f"{name}: expected {self.features} columns, got {x.shape[1]}")
        self._splits = Splits(*rows)
        self.standardize = standardize
        self.noise_scale = _positive("noise_scale", noise_scale)
        self.bin_width = _positive("bin_width", bin_width)

    def splits(self, seed: int) -> Splits:
        """The given rows, copied, whatever the seed."""
        check_seed(seed)
        return Splits(*(x.clone() for x in self._splits))


class FileTask(Task):
    """Rows of a .npy file, split at random anew for each seed.

    Args:
        path: file written by ``numpy.save``, an array (N, D) of numbers.
        valid_fraction: share of validation rows.
        test_fraction: share of test rows.
        standardize: whether models see the data scaled by training moments.
        noise: standard deviation of Gaussian noise to add, one draw per seed; 0 for none.
        dequantize: the file holds integers: add U[0, 1) and report bits per dimension.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: not an array (N, D) of finite numbers, a fraction out of range or leaving a
            split empty, or ``dequantize`` of values that are not integers.
    """

    def __init__(
        self,
        *,
        path: str,
        valid_fraction: float = 0.2,
        test_fraction: float = 0.2,
        standardize: bool = True,
        noise: float = 0.0,
        dequantize: bool = False,
    ) -> None:
        array = _load(path)
        self._x = _rows(f"path: {path!r}", array)
        self._digest = _digest(array)
        super().__init__(self._x.shape[1])
        self.sizes = split_sizes(len(self._x), valid_fraction, test_fraction)
        self.standardize = standardize
        self.noise = check_noise(noise)
        self.noise_scale = self.noise or None
        self.dequantize = dequantize
        if dequantize:
            if not bool((self._x == self._x.round()).all()):
                raise ValueError(f"dequantize: expected integer values in {path!r}, got fractions")
            if self.noise:
                raise ValueError("dequantize: expected noise = 0 beside it, got both")
            self.bin_width = 1.0

    def fingerprint(self) -> str:
        """Hash of the file's numbers."""
        return self._digest

    def splits(self, seed: int) -> Splits:
        """Shuffle, add what noise is asked for, and cut into train, validation and test."""
        rng = np.random.default_rng(check_seed(seed))
        x = self._x[torch.as_tensor(rng.permutation(len(self._x)))]
        if self.dequantize:
            x = x + torch.as_tensor(rng.random(tuple(x.shape)))
        if self.noise:
            x = x + self.noise * torch.as_tensor(rng.standard_normal(tuple(x.shape)))
        return Splits(*torch.split(x, list(self.sizes)))


def example_options(folder: Path) -> dict[str, str]:
    """The options of a small FileTask, whose file is written to ``folder``."""
    path = folder / "rows.npy"
    np.save(path, np.random.default_rng(0).standard_normal((60, 3)))
    return {"path": str(path)}


def _digest(array: np.ndarray) -> str:
    described = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(described + array.tobytes()).hexdigest()[:16]


def _load(path: str) -> np.ndarray:
    """The array in a .npy file; see ``FileTask`` for what is raised."""
    if not isinstance(path, str) or not path:
        raise ValueError(f"path: expected the name of a .npy file, got {path!r}")
    try:
        array = np.load(Path(path).expanduser(), allow_pickle=False)
    except OSError as error:
        why = error.strerror or error
        raise type(error)(f"path: expected a .npy file, got {path!r}: {why}") from error
    except Exception as error:  # numpy, zipfile and tokenize each have their own for damaged bytes
        raise ValueError(
            f"path: expected a .npy array of numbers, got {path!r}{_advice(path)}"
        ) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"path: expected one .npy array, got an archive {path!r}")
    return array


def _advice(path: str) -> str:
    """How to make the file of a table in text."""
    file = Path(path)
    if file.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return ""
    comma = ", delimiter=','" if file.suffix.lower() == ".csv" else ""
    return (
        f"; convert it once: np.save({file.stem + '.npy'!r}, np.loadtxt({file.name!r}{comma})), "
        "with skiprows=1 for a line of names"
    )


_NO_NUMBERS = {  # by numpy's kind; a conversion would take text and dates for numbers
    "U": "text",
    "S": "text",
    "M": "dates or times",
    "m": "dates or times",
    "V": "records",
    "c": "complex ones",
}


def _rows(name: str, value: ArrayLike | Tensor) -> Tensor:
    """``value`` as a float64 copy of shape (N, D), N and D at least 1."""
    expected = f"{name}: expected an array (N, D) of numbers"
    try:
        if isinstance(value, Tensor):
            if value.is_complex():
                raise TypeError("complex ones")
            x = value.detach().to("cpu", torch.float64, copy=True)
        else:
            array = np.asarray(value)
            if array.dtype.kind in _NO_NUMBERS:
                raise TypeError(_NO_NUMBERS[array.dtype.kind])
            if array.dtype.kind == "O":
                for item in array.flat:
                    if not isinstance(item, Number):
                        raise TypeError(f"{type(item).__name__} objects")
            x = torch.as_tensor(np.array(array, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{expected}, got {error}") from error
    if x.ndim != 2 or x.shape[0] == 0 or x.shape[1] == 0:
        raise ValueError(f"{name}: expected shape (N, D) with N, D >= 1, got {tuple(x.shape)}")
    return check_finite(name, x)


def _positive(name: str, value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise ValueError(f"{name}: expected None or a positive number, got {value!r}")
    return value
