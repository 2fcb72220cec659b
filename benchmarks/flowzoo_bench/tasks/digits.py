"""Small real images that scikit-learn carries: handwritten digits of 8 x 8 pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flowzoo_bench.tasks.checks import split_sizes
from flowzoo_bench.tasks.images import Bytes, ImageTask, Rows, check_bits, cut

_TOTAL = 1797
_NATIVE = 17


class Digits(ImageTask):
    """1,797 handwritten digits of 8 x 8 pixels with 17 grey levels 0..16, dequantised; D = 64.

    Each pixel becomes level + U[0, 1), one draw per replicate, so a model's density integrated
    over a unit cube is the probability of that image, and bits per dimension follow:

    .. math:: \\mathrm{bpd} = -\\log p(x) / (64 \\ln 2)

    Rows are split at random, anew for each replicate. With ``bits`` the level of a pixel v is
    ``floor(2^bits v / 17)``.

    Args:
        valid_fraction: share of validation rows.
        test_fraction: share of test rows.
        bits: of the grey levels, 1 to 8; None keeps all 17.
        logit: lambda of the logit that models see; None or 0 for data scaled by training moments.
        unit: models see levels divided by their number instead.

    Raises:
        ValueError: a fraction is not in (0, 1) or leaves a split empty, or an option out of its
            range.
    """

    def __init__(
        self,
        *,
        valid_fraction: float = 0.2,
        test_fraction: float = 0.2,
        bits: int | None = None,
        logit: float | None = None,
        unit: bool = False,
    ) -> None:
        levels = _NATIVE if bits is None else 2 ** check_bits(bits)
        super().__init__((1, 8, 8), levels=levels, bits=bits, logit=logit, unit=unit)
        self.sizes = split_sizes(_TOTAL, valid_fraction, test_fraction)

    def images(self) -> tuple[Bytes, NDArray[np.int64]]:
        """All images (1797, 64) and the digits they show."""
        from sklearn.datasets import load_digits

        found = load_digits()
        values = found.data.astype(np.int64) * self.levels // _NATIVE
        return values.astype(np.uint8), found.target.astype(np.int64)

    def choose(self, rng: np.random.Generator, labels: NDArray[np.int64]) -> Rows:
        """A cut of a random order."""
        return cut(rng, _TOTAL, self.sizes)
