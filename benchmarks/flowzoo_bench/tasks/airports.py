"""Real points near the sphere: where the world's airports are."""

from __future__ import annotations

import numpy as np
import torch

from flowzoo.interfaces.task import Splits, Task
from flowzoo.validation import check_positive
from flowzoo_bench.tasks.checks import check_noise, check_seed


class Airports(Task):
    """Airports (about 28,000) as points of the unit sphere in R^3, plus N(0, noise² I).

    ``(cos lat cos lon, cos lat sin lon, sin lat)`` from the ``airportsdata`` package. Exact copies
    of a position are dropped, for a repeated point has unbounded likelihood; each airport is used
    at most once. The noise makes the density an ordinary one on R^3; the truth is unknown.
    Models see them standardised, as all real data.

    Args:
        noise: standard deviation of the noise, positive.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer, or the noise is not positive.
    """

    standardize = True

    def __init__(
        self,
        *,
        noise: float = 0.01,
        num_train: int = 10000,
        num_valid: int = 2500,
        num_test: int = 2500,
    ) -> None:
        super().__init__(3)
        self.noise = check_noise(noise)
        if self.noise == 0:
            raise ValueError("noise: expected > 0 (the sphere has no density on R^3), got 0")
        self.noise_scale = self.noise
        self.sizes = (
            check_positive("num_train", num_train),
            check_positive("num_valid", num_valid),
            check_positive("num_test", num_test),
        )

    def splits(self, seed: int) -> Splits:
        """Shuffle, take as many rows as asked for, add noise, and cut.

        Raises:
            ValueError: more rows are asked for than there are airports.
        """
        rng = np.random.default_rng(check_seed(seed))
        places = self.places()
        total = sum(self.sizes)
        if total > len(places):
            raise ValueError(
                f"num_train + num_valid + num_test: expected at most {len(places)}, got {total}"
            )
        x = rng.permutation(places)[:total]
        x = x + self.noise * rng.standard_normal(x.shape)
        return Splits(*torch.split(torch.as_tensor(x), list(self.sizes)))

    @staticmethod
    def places() -> np.ndarray:
        """All distinct positions on the unit sphere, (N, 3) float64, in a fixed order."""
        import airportsdata

        degrees = np.array(
            [(float(a["lat"]), float(a["lon"])) for a in airportsdata.load().values()]
        )
        lat, lon = np.radians(np.unique(degrees, axis=0)).T
        x = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
        return np.unique(x, axis=0)
