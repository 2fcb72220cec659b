"""Kernel distance of two sets of feature vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.validation import check_positive
from flowzoo_bench.metrics.features.checks import check_pair
from flowzoo_bench.metrics.rows import RowMean, row_mean


def kernel_distance(x: Tensor, y: Tensor, *, block_rows: int = 500) -> RowMean:
    r"""Squared maximum mean discrepancy under the cubic kernel, without bias, averaged over blocks.

    .. math:: \frac{\sum_{i \ne j} k(x_i, x_j)}{n (n - 1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}
        {m (m - 1)} - \frac{2}{n m} \sum_{i, j} k(x_i, y_j),
        \qquad k(a, b) = \left(\tfrac{a \cdot b}{F} + 1\right)^3

    Binkowski et al. (2018), section 3. Of equal laws it is 0 on average, and may be negative. Both
    sets are cut, in their order, into as many blocks as hold at least ``block_rows`` rows of the
    smaller set; every row counts once.

    Args:
        x: (N, F) floating, N >= 2.
        y: (M, F), M >= 2; both on one device, computed in float64.
        block_rows: rows of a block, at least 2.

    Returns:
        Mean over the blocks, its standard error (None for one block) and their number; NaN where a
        row is not finite.

    Raises:
        ValueError: shapes that do not fit, or fewer than two rows.

    Example:
        >>> kernel_distance(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]])).mean
        7.0
    """
    x, y = check_pair(x, y, 2)
    if check_positive("block_rows", block_rows) < 2:
        raise ValueError(f"block_rows: expected at least 2, got {block_rows}")
    blocks = max(1, min(len(x), len(y)) // block_rows)
    pairs = zip(torch.tensor_split(x, blocks), torch.tensor_split(y, blocks), strict=True)
    return row_mean(torch.stack([_discrepancy(a, b) for a, b in pairs]))


def _discrepancy(x: Tensor, y: Tensor) -> Tensor:
    within = [
        (_kernel(a, a).sum() - (a.square().sum(dim=1) / a.shape[1] + 1).pow(3).sum())
        / (len(a) * (len(a) - 1))
        for a in (x, y)
    ]
    return within[0] + within[1] - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.mT / x.shape[1] + 1).pow(3)
