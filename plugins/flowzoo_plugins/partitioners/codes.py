"""What every partition by nearest code shares: stable distances, the k-means fit, code usage."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from flowzoo.interfaces import Partitioner
from flowzoo.validation import check_rows

_DIFFERENCES = 2**22  # numbers held at once while distances are computed


def pairwise_distances(points: Tensor, codes: Tensor) -> Tensor:
    """Euclidean distance of each point (N, d) to each code (K, d), (N, K); runs under vmap.

    Differences are taken before squares, so that points far from the origin lose no digits, and the
    gradient at distance 0 is 0. Rows go in chunks.
    """
    rows = max(1, _DIFFERENCES // max(1, codes.numel()))
    return torch.cat(
        [
            torch.linalg.vector_norm(part[:, None, :] - codes, dim=2)
            for part in torch.split(points, rows)
        ]
    )


def one_hot(index: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Rows of the identity, (N, classes), for index (N,) int64; runs under vmap."""
    return (index[:, None] == torch.arange(classes, device=index.device)).to(dtype)


def seed_from(generator: torch.Generator) -> int:
    """A seed for numpy and scikit-learn drawn from ``generator``."""
    return int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))


def fit_codes(
    points: Tensor, num_codes: int, *, restarts: int, max_iterations: int, seed: int
) -> Tensor:
    """k-means centres (num_codes, d) of points (N, d), of the points' dtype and device.

    With fewer distinct points than codes every distinct point is a centre and the surplus codes
    repeat them; ties go to the lowest index, so the repeats stay empty.

    Raises:
        ValueError: fewer points than codes.
    """
    if len(points) < num_codes:
        raise ValueError(
            f"x_train: expected at least num_charts={num_codes} rows, got {len(points)}"
        )
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    values = points.detach().to(device="cpu", dtype=torch.float64)
    distinct = torch.unique(values, dim=0)
    if len(distinct) <= num_codes:
        centres = distinct[torch.arange(num_codes) % len(distinct)]
    else:
        with warnings.catch_warnings():
            # points that differ only by rounding coincide once scikit-learn has centred them
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit = KMeans(num_codes, n_init=restarts, max_iter=max_iterations, random_state=seed)
            centres = torch.from_numpy(fit.fit(values.numpy()).cluster_centers_)
    codes: Tensor = centres.to(points)
    return codes


class CodePartitioner(Partitioner):
    """A partition whose chart k is where code k is the nearest code."""

    def usage(self, x: Tensor) -> Tensor:
        """Fraction of the rows of x (N, D) in each chart, (K,); sums to 1.

        Raises:
            ValueError: x has no rows, or the wrong shape or dtype.
        """
        check_rows("x", x, self.features)
        if len(x) == 0:
            raise ValueError("x: expected at least one row, got 0")
        return one_hot(self.assign(x), self.num_charts, x.dtype).mean(dim=0)

    def perplexity(self, x: Tensor) -> Tensor:
        r"""Effective number of charts used on x, a scalar in [1, K]: exp(-sum_k u_k log u_k)."""
        entropy: Tensor = torch.special.entr(self.usage(x)).sum()
        return entropy.exp()
