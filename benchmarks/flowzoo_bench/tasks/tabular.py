"""Small real tables that scikit-learn carries: breast cancer, wine, diabetes."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from flowzoo.interfaces.task import Splits, Task
from flowzoo_bench.tasks.checks import check_seed, split_sizes


class BreastCancer(Task):
    """569 rows of 30 measurements of cell nuclei (UCI breast cancer Wisconsin, diagnostic).

    Rows are split at random, anew for each replicate. Columns differ in scale by five orders of
    magnitude, so models see them standardised.

    Args:
        valid_fraction: share of validation rows.
        test_fraction: share of test rows.

    Raises:
        ValueError: a fraction is not in (0, 1) or leaves a split empty.
    """

    standardize = True

    def __init__(self, *, valid_fraction: float = 0.2, test_fraction: float = 0.2) -> None:
        super().__init__(30)
        self.sizes = split_sizes(569, valid_fraction, test_fraction)

    def splits(self, seed: int) -> Splits:
        """Shuffle and cut into train, validation and test."""
        from sklearn.datasets import load_breast_cancer

        rng = np.random.default_rng(check_seed(seed))
        x = rng.permutation(load_breast_cancer().data.astype(np.float64))
        return Splits(*torch.split(torch.as_tensor(x), list(self.sizes)))


class _RoundedTable(Task):
    """A table whose values were rounded; a subclass says how and where the rows are.

    Each value becomes itself plus U[0, width), one draw per replicate, where width is the step that
    most of its column was rounded to. So no value recurs, and no model wins by a spike on one:
    rounded data have no density. POWER's are treated likewise (Papamakarios, Pavlakou, Murray
    2017). Rows are split at random, anew for each replicate; none is there twice. Models see them
    standardised.

    Args:
        valid_fraction: share of validation rows.
        test_fraction: share of test rows.

    Raises:
        ValueError: a fraction is not in (0, 1) or leaves a split empty.
    """

    standardize = True
    total: ClassVar[int]
    widths: ClassVar[tuple[float, ...]]

    def __init__(self, *, valid_fraction: float = 0.2, test_fraction: float = 0.2) -> None:
        super().__init__(len(self.widths))
        self.sizes = split_sizes(self.total, valid_fraction, test_fraction)

    @abstractmethod
    def rounded(self) -> NDArray[np.float64]:
        """All rows (N, D) without noise."""

    def splits(self, seed: int) -> Splits:
        """Shuffle, add noise of the width of the rounding, cut into the three splits."""
        rng = np.random.default_rng(check_seed(seed))
        x = rng.permutation(self.rounded())
        x = x + np.array(self.widths) * rng.random(x.shape)
        return Splits(*torch.split(torch.as_tensor(x), list(self.sizes)))


class Wine(_RoundedTable):
    """178 Italian wines, 13 chemical measurements (UCI wine), with noise of their rounding.

    They are written to hundredths, tenths or units. Where 55 % or more of a column's values are
    multiples of five or ten such steps, the noise is as wide as that. Rows are split at random,
    anew for each replicate.

    Args:
        valid_fraction: share of validation rows.
        test_fraction: share of test rows.

    Raises:
        ValueError: a fraction is not in (0, 1) or leaves a split empty.
    """

    total = 178
    # fives: alcalinity of ash (75 % of the values), phenols (59 %), proline (83 %, tens 51 %);
    # tens: colour intensity (55 %)
    widths = (0.01, 0.01, 0.01, 0.5, 1.0, 0.05, 0.01, 0.01, 0.01, 0.1, 0.01, 0.01, 5.0)

    def rounded(self) -> NDArray[np.float64]:
        """All rows (178, 13) as they were published."""
        from sklearn.datasets import load_wine

        return np.asarray(load_wine().data, dtype=np.float64)


class Diabetes(_RoundedTable):
    """442 patients, 7 measurements (Efron, Hastie, Johnstone, Tibshirani 2004), with such noise.

    Age, body mass index, blood pressure, total and HDL cholesterol, triglycerides and glucose, in
    their own units. Three of the ten columns are left out: the sex, of two values, has no density,
    and two are computed from others, so that their density would be that of the noise: LDL is
    total - HDL - triglycerides / 5 in 99 % of the rows (Friedewald, Levy, Fredrickson 1972), and
    one is the ratio of total to HDL. Triglycerides, published as logarithms of whole numbers, are
    these numbers. Rows are split at random, anew for each replicate.

    Args:
        valid_fraction: share of validation rows.
        test_fraction: share of test rows.

    Raises:
        ValueError: a fraction is not in (0, 1) or leaves a split empty.
    """

    total = 442
    widths = (1.0, 0.1, 1.0, 1.0, 1.0, 1.0, 1.0)

    def rounded(self) -> NDArray[np.float64]:
        """All rows (442, 7), the triglycerides in mg/dl."""
        from sklearn.datasets import load_diabetes

        x = np.asarray(load_diabetes(scaled=False).data, dtype=np.float64)
        age, _, index, pressure, total, _, hdl, _, log_triglycerides, glucose = x.T
        triglycerides = np.round(np.exp(log_triglycerides))
        return np.stack([age, index, pressure, total, hdl, triglycerides, glucose], axis=1)
