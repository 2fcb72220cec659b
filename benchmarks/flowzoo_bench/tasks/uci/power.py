"""POWER: electricity use of a household, a row a minute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flowzoo_bench.tasks.uci.prepared import Parts
from flowzoo_bench.tasks.uci.table import MafTable, in_order, load_array


class Power(MafTable):
    """Power, voltage, three sub-meters and the time of day, 6 columns; UCI data set 235.

    1,659,917 / 184,435 / 204,928 rows for training, validation and test. See ``MafTable`` for the
    options and the source.
    """

    name = "power"
    files = ("power/data.npy",)
    columns = 6
    published = (1_659_917, 184_435, 204_928)

    def prepare(self, paths: Sequence[Path]) -> Parts:
        """Shuffle, drop two columns, add noise of the meters' resolution, scale.

        The generator is numpy's legacy one under seed 42, which no release changes.

        Raises:
            ValueError: not a .npy array (N, 8) of numbers.
        """
        x = load_array(paths[0], 8)
        rng = np.random.RandomState(42)
        x = x[rng.permutation(len(x))]  # the draws and the order of rng.shuffle(x), only faster
        # quirk: reactive power and current go, of columns (active, reactive, V, A, 3 meters, time)
        x = np.delete(np.delete(x, 3, axis=1), 1, axis=1)  # one by one: rows stay together
        # quirk: drawn for the voltage before the active power, and none for the time
        voltage = 0.01 * rng.random_sample((len(x), 1))
        active = 0.001 * rng.random_sample((len(x), 1))
        meters = rng.random_sample((len(x), 3))
        x += np.hstack([active, voltage, meters, np.zeros((len(x), 1))])
        train, valid, test = in_order(x)
        seen = x[: len(x) - len(test)]  # quirk: moments of training and validation rows together
        mean, std = seen.mean(axis=0), seen.std(axis=0)
        return Parts.of(*((part - mean) / std for part in (train, valid, test)))
