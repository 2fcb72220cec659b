"""Frechet distance of two sets of feature vectors."""

from __future__ import annotations

from math import nan, sqrt

import torch
from torch import Tensor

from flowzoo_bench.metrics.features.checks import check_pair


def frechet_distance(x: Tensor, y: Tensor) -> float:
    r"""Squared 2-Wasserstein distance of the Gaussians with the two sets' moments.

    .. math:: |\mu_x - \mu_y|^2 + \mathrm{tr}\,(S_x + S_y) - 2\,\mathrm{tr}\,(S_x S_y)^{1/2}

    with covariances over N - 1 (Dowson and Landau 1982; Heusel et al. 2017, eq. 6). The last trace
    is the sum of the singular values of :math:`R_x R_y^\top`, R the triangular factors of the
    centred rows: no matrix root is taken, so fewer rows than features are no difficulty. It is
    biased upwards for few rows: compare it with that of two real sets of as many.

    Args:
        x: (N, F) floating, N >= 2.
        y: (M, F), M >= 2; both on one device, computed in float64.

    Returns:
        In squared units of the features, >= 0 but for rounding; NaN where a row is not finite.

    Raises:
        ValueError: shapes that do not fit, or fewer than two rows.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> round(frechet_distance(x, x + 3.0), 12)
        9.0
    """
    x, y = check_pair(x, y, 2)
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        return nan
    roots, spread = [], 0.0
    for rows in (x, y):
        centred = (rows - rows.mean(dim=0)) / sqrt(len(rows) - 1)
        spread += float(centred.square().sum())
        roots.append(torch.linalg.qr(centred, mode="r").R)
    shared = float(torch.linalg.svdvals(roots[0] @ roots[1].mT).sum())
    return float((x.mean(dim=0) - y.mean(dim=0)).square().sum()) + spread - 2 * shared
