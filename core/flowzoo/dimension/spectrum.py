"""Dimension of a latent space by the eigenvalues of its prior."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flowzoo.validation import check_finite


class SpectrumRank(NamedTuple):
    """What ``rank_of_spectrum`` finds; each () or (K,).

    Attributes:
        dimension: the number of eigenvalues before the widest gap, int64.
        gap: its width in nats of variance, float64; 0 where no eigenvalue is above the floor, as
            noise hides whatever there is. Scales of observation s between the two edges, a range
            of ``gap / 2`` in log s, all see this dimension.
        margin: how much wider it is than the next widest, float64; 0 for a tie, which says that
            the spectrum has no dimension of its own. It says nothing of the model: one that is not
            trained yet has D for sure.
        above: the number of eigenvalues above the floor, int64: the largest possible answer.
    """

    dimension: Tensor
    gap: Tensor
    margin: Tensor
    above: Tensor


@torch.no_grad()
def rank_of_spectrum(values: Tensor, floor: Tensor | float) -> SpectrumRank:
    r"""The dimension that the widest range of scales sees, for variances of a manifold over noise.

    .. math:: n(s) = \#\{i : \lambda_i > s^2\}, \qquad
        d = \arg\max_n \log\lambda_n - \log\max(\lambda_{n+1}, \text{floor})

    No threshold on the eigenvalues: scaling values and floor together changes nothing. The last gap
    is that to the floor, so that

    * no eigenvalue above the floor gives 0;
    * eigenvalues nearer to one another than to the floor count all, also where they fill the space;
    * a direction nearer to the floor than to the others does not count: noise that an estimate left
      above the floor, or a surface so thin that most scales see a line (``above`` counts those);
    * a spectrum that falls evenly down to the floor has no gap of its own: of equal gaps the last
      counts, which gives all above the floor, and ``margin`` is 0.

    Args:
        values: eigenvalues of A A^T, or any variances, (D,) or (K, D), in any order; zeros and
            the small negative numbers of rounding are below every floor.
        floor: the variance below which nothing is signal, as the noise's sigma^2 or a multiple of
            it; a number > 0, or (K,).

    Raises:
        ValueError: wrong shapes, non-finite values, or a floor that is not positive and finite.

    Example:
        >>> found = rank_of_spectrum(torch.tensor([4.0, 1.0, 2e-4, 0.0]), 1e-4)
        >>> found.dimension, found.above
        (tensor(2), tensor(3))
    """
    if values.ndim not in (1, 2) or values.shape[-1] == 0 or not values.is_floating_point():
        raise ValueError(
            f"values: expected floating (D,) or (K, D) with D >= 1, got {values.dtype} "
            f"{tuple(values.shape)}"
        )
    check_finite("values", values.reshape(-1, values.shape[-1]))
    least = torch.as_tensor(floor, dtype=torch.float64, device=values.device)
    if least.shape not in ((), values.shape[:-1]):
        raise ValueError(
            f"floor: expected a number or {tuple(values.shape[:-1])}, got {tuple(least.shape)}"
        )
    if not bool(((least > 0) & least.isfinite()).all()):
        raise ValueError(f"floor: expected finite numbers > 0, got {floor}")
    least = least.expand(values.shape[:-1])[..., None]
    kept = values.double().maximum(least).sort(dim=-1, descending=True).values
    above = (kept > least).sum(dim=-1)
    none = above == 0
    log_kept = (torch.cat([kept, least], dim=-1) / least).log()
    gaps = log_kept[..., :-1] - log_kept[..., 1:]  # n of them: between eigenvalues n and n + 1
    count = torch.arange(1, gaps.shape[-1] + 1, device=values.device)
    gaps = gaps.masked_fill(count > above[..., None], -torch.inf)
    widest = gaps.amax(dim=-1)
    # gaps equal up to rounding are equal: 1e-9 nats tells no dimension from another
    tied = gaps >= widest[..., None] - 1e-9
    dimension = torch.where(tied, count, 0).amax(dim=-1).masked_fill(none, 0)
    next_widest = gaps.masked_fill(count == dimension[..., None], 0.0).amax(dim=-1)
    margin = (widest - next_widest).clamp(min=0.0).masked_fill(none, 0.0)
    return SpectrumRank(dimension, widest.masked_fill(none, 0.0), margin, above)
