"""GAS: chemical sensors in mixtures of gases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowzoo_bench.data.pandas_pickle import read_frame
from flowzoo_bench.tasks.uci.prepared import Parts
from flowzoo_bench.tasks.uci.table import MafTable, in_order, load_array

_DROPPED = ("Meth", "Eth", "Time")
_CONVERT = (
    "python -c \"import numpy, pandas; t = pandas.read_pickle('ethylene_CO.pickle'); "
    f"numpy.save('ethylene_CO.npy', t.drop({list(_DROPPED)}, axis=1).values)\""
)


class Gas(MafTable):
    """8 of 16 sensors in mixtures of ethylene and carbon monoxide; UCI data set 322.

    852,174 / 94,685 / 105,206 rows for training, validation and test: a quarter of UCI's, which
    the authors drew without telling how, so UCI's own file gives other data. The archive has them
    as a pickled table of pandas, which is read without pandas; should that fail, an
    ``ethylene_CO.npy`` beside it or in its place is taken, which the error says how to make. That
    is another file and has another fingerprint. See ``MafTable`` for the options and the source.
    """

    name = "gas"
    files = ("gas/ethylene_CO.pickle",)
    converted = ("gas/ethylene_CO.npy",)
    columns = 8
    published = (852_174, 94_685, 105_206)

    def prepare(self, paths: Sequence[Path]) -> Parts:
        """Drop what is no sensor and sensors that follow another, scale, split in file order.

        Raises:
            ValueError: not a pickled table with these columns, nor a .npy array without them.
        """
        x = _sensors(paths[0])
        x = x[:, uncorrelated(x)]
        # quirk: test rows count too, and the divisor is N - 1, as pandas has it
        x = (x - x.mean(axis=0)) / x.std(axis=0, ddof=1)
        return Parts.of(*in_order(x))


def uncorrelated(x: NDArray[np.float64], most: float = 0.98) -> list[int]:
    """Columns of x (N, D) left when, again and again, the first goes that follows another.

    One column follows another if their correlation is above ``most``; strongly negative ones stay.

    Example:
        >>> t = np.arange(5.0)
        >>> uncorrelated(np.stack([t, -t, t + 1, t**9], axis=1))
        [1, 2, 3]
    """
    close = np.asarray(np.corrcoef(x, rowvar=False) > most)
    kept = list(range(x.shape[1]))
    while True:
        follows = close[np.ix_(kept, kept)].sum(axis=1) > 1  # each is close to itself
        if not follows.any():
            return kept
        del kept[int(follows.argmax())]


def _sensors(path: Path) -> NDArray[np.float64]:
    if path.suffix == ".npy":
        return load_array(path)
    try:
        names, table = read_frame(path)
    except ValueError as error:
        raise ValueError(
            f"{error}. Convert it once, where pandas < 2 is installed and only if you trust the "
            f"file: {_CONVERT}"
        ) from error
    if not set(_DROPPED) < set(names):
        raise ValueError(f"{path}: expected sensors and {', '.join(_DROPPED)}, got {names}")
    return table[:, [at for at, name in enumerate(names) if name not in _DROPPED]]
