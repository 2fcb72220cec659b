"""MINIBOONE: events of a neutrino experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flowzoo_bench.tasks.uci.prepared import Parts
from flowzoo_bench.tasks.uci.table import MafTable, in_order, load_array


class Miniboone(MafTable):
    """Electron neutrino events of MiniBooNE, 43 columns; UCI data set 199.

    29,556 / 3,284 / 3,648 rows for training, validation and test. The archive's file is cleaned
    already: 11 outliers are out, and 7 of 50 columns that ``recurring`` names. See ``MafTable`` for
    the options and the source.
    """

    name = "miniboone"
    files = ("miniboone/data.npy",)
    columns = 43
    published = (29_556, 3_284, 3_648)

    def prepare(self, paths: Sequence[Path]) -> Parts:
        """Split in the file's order and scale.

        Raises:
            ValueError: not a .npy array (N, 43) of numbers.
        """
        x = load_array(paths[0], self.columns)
        train, valid, test = in_order(x)
        seen = x[: len(x) - len(test)]  # quirk: moments of training and validation rows together
        mean, std = seen.mean(axis=0), seen.std(axis=0)
        return Parts.of(*((part - mean) / std for part in (train, valid, test)))
