"""HEPMASS: simulated particle collisions with a new particle in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowzoo_bench.tasks.uci.prepared import Parts
from flowzoo_bench.tasks.uci.table import MafTable, last_tenth, recurring


class Hepmass(MafTable):
    """Collisions that make a particle of mass 1000, 21 of 27 columns; UCI data set 347.

    315,123 / 35,013 / 174,987 rows for training, validation and test, the last from a file of
    their own. See ``MafTable`` for the options and the source.
    """

    name = "hepmass"
    files = ("hepmass/1000_train.csv", "hepmass/1000_test.csv")
    columns = 21
    published = (315_123, 35_013, 174_987)

    def prepare(self, paths: Sequence[Path]) -> Parts:
        """Keep class 1, scale, drop columns that repeat a value.

        Raises:
            ValueError: not two tables with a label and the same columns.
        """
        names = _header(paths[0])
        # quirk: the test file has a column more, the last, which is not to be read
        test_names = _header(paths[1])[:-1]
        if names[1:] != test_names[1:]:
            raise ValueError(
                f"{paths[1]}: expected the columns {names[1:]} between the first and the last, "
                f"got {test_names[1:]}"
            )
        train, test = (_signal(path, len(names)) for path in paths)
        # quirk: validation rows count, and the divisor is N - 1, as pandas has it
        mean, std = train.mean(axis=0), train.std(axis=0, ddof=1)
        train, test = (train - mean) / std, (test - mean) / std
        kept = ~recurring(train)
        return Parts.of(*last_tenth(train[:, kept]), test[:, kept])


def _header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as lines:
            names = [name.strip() for name in lines.readline().split(",")]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a text, got {error}") from error
    if len(names) < 2:
        raise ValueError(f"{path}: expected a line of names of columns, got {names}")
    return names


def _signal(path: Path, columns: int) -> NDArray[np.float64]:
    """Rows of class 1, without the label, of so many columns; further ones are not read."""
    try:
        table = np.loadtxt(
            path, delimiter=",", comments=None, skiprows=1, usecols=range(columns), ndmin=2
        )
    except ValueError as error:
        raise ValueError(f"{path}: expected a table of numbers, got {error}") from error
    signal: NDArray[np.float64] = table[table[:, 0] == 1, 1:]
    if len(signal) < 2:
        raise ValueError(f"{path}: expected rows of class 1, got {len(signal)}")
    return signal
