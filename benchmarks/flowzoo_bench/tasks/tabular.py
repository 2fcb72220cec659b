"""A real table that scikit-learn carries: breast-cancer measurements."""

from __future__ import annotations

import numpy as np
import torch

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
