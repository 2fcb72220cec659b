"""Importance weights of many draws a row, summed up as they come, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Weigh = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(values (N, K, d), log-weights (N, K)) of rows y (N, D) and noise (N, K, d)."""

NUMBERS = 2**22  # a block of draws may hold about this many at once
_DRAWS = 32  # of a row in a block, where there is room


class Weights(NamedTuple):
    """What is kept of S draws of each of N rows.

    Attributes:
        log_sum: log of the sum of the weights, (N,).
        log_squares: log of the sum of their squares, (N,).
        total: the sum of the log-weights, (N,).
        mean: the mean of the values by the weights, (N, d).
    """

    log_sum: Tensor
    log_squares: Tensor
    total: Tensor
    mean: Tensor

    @classmethod
    def of(cls, values: Tensor, log_weight: Tensor) -> Weights:
        """Of K draws: values (N, K, d) and log-weights (N, K)."""
        share = log_weight.softmax(dim=1)[..., None]
        return cls(
            log_weight.logsumexp(dim=1),
            (2.0 * log_weight).logsumexp(dim=1),
            log_weight.sum(dim=1),
            (share * values).sum(dim=1),
        )

    @classmethod
    def joined(cls, blocks: Sequence[Weights]) -> Weights:
        """Of several blocks of draws of the same rows."""
        log_sum, log_squares, total, mean = (
            torch.stack(parts, dim=1) for parts in zip(*blocks, strict=True)
        )
        share = log_sum.softmax(dim=1)[..., None]
        return cls(
            log_sum.logsumexp(dim=1),
            log_squares.logsumexp(dim=1),
            total.sum(dim=1),
            (share * mean).sum(dim=1),
        )

    def effective_sample_size(self) -> Tensor:
        """(sum w)^2 / sum w^2, (N,), from 1 to S."""
        return (2.0 * self.log_sum - self.log_squares).exp()


def weighted_draws(
    weigh: Weigh,
    y: Tensor,
    latent_features: int,
    num_samples: int,
    *,
    numbers_per_draw: int,
    generator: torch.Generator | None,
) -> Weights:
    """``num_samples`` draws of each row of y (N, D), by fresh standard normal numbers.

    Rows and draws are taken in blocks of about ``NUMBERS`` numbers; without gradients memory does
    not grow with ``num_samples``.
    """
    draws = min(num_samples, _DRAWS, max(1, NUMBERS // numbers_per_draw))
    rows = max(1, NUMBERS // (draws * max(numbers_per_draw, y.shape[1])))
    parts = []
    for chunk in torch.split(y, rows):
        blocks = []
        for begun in range(0, num_samples, draws):
            shape = (len(chunk), min(draws, num_samples - begun), latent_features)
            noise = torch.randn(shape, generator=generator, dtype=y.dtype, device=y.device)
            blocks.append(Weights.of(*weigh(chunk, noise)))
        parts.append(Weights.joined(blocks))
    return Weights(*(torch.cat(each) for each in zip(*parts, strict=True)))
