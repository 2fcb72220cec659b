"""Dimension around each row by the growth of its neighbourhood."""

from __future__ import annotations

from torch import Tensor

from flowzoo.dimension.neighbours import nearest_distances
from flowzoo.validation import check_positive


def levina_bickel(x: Tensor, neighbours: int = 20, among: Tensor | None = None) -> Tensor:
    r"""Maximum-likelihood dimension around each row, (N,) float64, not whole.

    .. math:: d(x) = \Big[\frac1{k-1} \sum_{j=1}^{k-1} \log\frac{T_k(x)}{T_j(x)}\Big]^{-1}

    with T_j the distance to the j-th nearest row. It counts, without edges and at constant density,
    the growth T^d; the mean has the factor (k - 1) / (k - 2). Rows at distance zero, which are
    copies, are not counted as neighbours. The cost is O(N M D).

    Source: Levina, Bickel (2004), Maximum likelihood estimation of intrinsic dimension, eq. 8.

    Args:
        x: (N, D).
        neighbours: k, at least 2.
        among: (M, D), where the neighbours are; x itself when None.

    Returns:
        d(x), infinite where all k neighbours are equally far.

    Raises:
        ValueError: fewer than 2 neighbours, or some row has fewer than k rows apart from it.

    Example:
        >>> import torch
        >>> x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
        >>> 1.9 < float(harmonic_mean(levina_bickel(x))) < 2.1
        True
    """
    if check_positive("neighbours", neighbours) < 2:
        raise ValueError(f"neighbours: expected at least 2, got {neighbours}")
    log_distance = nearest_distances(x, neighbours, among, distinct=True).log()
    growth = log_distance[:, -1:] - log_distance[:, :-1]
    return 1.0 / growth.mean(dim=1)


def harmonic_mean(local: Tensor) -> Tensor:
    r"""One dimension of local ones (N,): 1 / mean(1 / d), float64, a scalar.

    The maximum-likelihood dimension of all neighbourhoods at once; their plain mean is too large.

    Source: MacKay, Ghahramani (2005), Comments on "Maximum likelihood estimation of intrinsic
    dimension" by E. Levina and P. Bickel.

    Args:
        local: (N,), as of ``levina_bickel``.

    Raises:
        ValueError: no numbers.

    Example:
        >>> import torch
        >>> float(harmonic_mean(torch.tensor([1.0, 3.0])))
        1.5
    """
    if local.numel() == 0:
        raise ValueError("local: expected at least one number, got none")
    return 1.0 / (1.0 / local.double()).mean()
