"""Importance sampling of log-densities: many draws a row, summed up as they come."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from flowzoo.validation import check_positive

Weigh = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(values (N, K, d), log-weights (N, K)) of rows y (N, D) and standard normals (N, K, n)."""

BLOCK = 2**12  # rows times draws that are weighed at once
NUMBERS = 2**22  # numbers that these may hold at once
_DRAWS = 40  # of a row in a block, where there are so many
_GROUPS = 10


class ImportanceEstimate(NamedTuple):
    r"""What S weighted draws say of each of N rows.

    Attributes:
        log_prob: log of the mean weight, (N,), nats; too low in expectation.
        effective_sample_size: (sum w)^2 / sum w^2, (N,), from 1 to S; NaN where no draw has weight.
        bias: by how much ``log_prob`` is off in expectation, (N,), nats: about -c / S, with c from
            the S draws against their ten parts of S / 10. Noise itself, and of parts of one or
            two draws, S below 20 or so, far off; NaN for S = 1 and where no draw has weight, -inf
            where a part has none. A q that misses a part of the posterior is not seen by it.
    """

    log_prob: Tensor
    effective_sample_size: Tensor
    bias: Tensor


class Weights(NamedTuple):
    """What is kept of S draws of each of N rows.

    Attributes:
        log_sums: log of the sum of the weights in each of G parts of the draws, (N, G).
        log_squares: log of the sum of all weights' squares, (N,).
        total: the sum of the log-weights, (N,).
        mean: the mean of the values by the weights, (N, d).
        num_samples: S.
    """

    log_sums: Tensor
    log_squares: Tensor
    total: Tensor
    mean: Tensor
    num_samples: int

    @classmethod
    def of(cls, values: Tensor, log_weight: Tensor, groups: int = 1, first: int = 0) -> Weights:
        """Of draws k = first, first + 1, ...: values (N, K, d) and log-weights (N, K).

        Draw k is in part k mod G of ``groups``.
        """
        rows, draws = log_weight.shape
        around = (first % groups, -(first + draws) % groups)
        padded = F.pad(log_weight, around, value=-math.inf)
        share = log_weight.softmax(dim=1)[..., None]
        return cls(
            padded.reshape(rows, padded.shape[1] // groups, groups).logsumexp(dim=1),
            (2.0 * log_weight).logsumexp(dim=1),
            log_weight.sum(dim=1),
            (share * values).sum(dim=1),
            draws,
        )

    def plus(self, other: Weights) -> Weights:
        """Of these draws and others of the same rows, in as many parts."""
        logs = torch.stack([self.log_sum, other.log_sum], dim=1)
        share = logs.softmax(dim=1)[..., None]
        return Weights(
            torch.logaddexp(self.log_sums, other.log_sums),
            torch.logaddexp(self.log_squares, other.log_squares),
            self.total + other.total,
            share[:, 0] * self.mean + share[:, 1] * other.mean,
            self.num_samples + other.num_samples,
        )

    @property
    def log_sum(self) -> Tensor:
        """Log of the sum of the weights, (N,)."""
        return self.log_sums.logsumexp(dim=1)

    def log_mean(self) -> Tensor:
        """Log of the mean weight, (N,)."""
        return self.log_sum - math.log(self.num_samples)

    def mean_log(self) -> Tensor:
        """Mean of the log-weights, (N,): no more than ``log_mean``."""
        return self.total / self.num_samples

    def effective_sample_size(self) -> Tensor:
        """(sum w)^2 / sum w^2, (N,), from 1 to S."""
        return (2.0 * self.log_sum - self.log_squares).exp()

    def bias(self) -> Tensor:
        r"""How far ``log_mean`` is off in expectation, (N,), to first order; NaN for one draw.

        The bias of S draws is about -c / S (a delta-method expansion: c is half the relative
        variance of the weights). With G parts of S / G draws each,

        .. math:: -\frac cS \approx \frac{1}{G - 1}
            \Bigl(\frac1G \sum_g L^{(g)}_{S/G} - L_S\Bigr)
        """
        groups = self.log_sums.shape[1]
        if groups == 1:
            return torch.full_like(self.total, math.nan)
        index = torch.arange(groups, device=self.total.device)
        # part g holds the draws k = g mod G
        sizes = (self.num_samples - index + groups - 1) // groups
        parts = self.log_sums - sizes.to(self.log_sums).log()
        return (parts.mean(dim=1) - self.log_mean()) / (groups - 1)

    def estimate(self) -> ImportanceEstimate:
        """Log-density, effective sample size and bias."""
        return ImportanceEstimate(self.log_mean(), self.effective_sample_size(), self.bias())


def weighted_draws(
    weigh: Weigh,
    y: Tensor,
    noise_features: int,
    num_samples: int,
    *,
    numbers_per_draw: int = 1,
    generator: torch.Generator | None = None,
) -> Weights:
    """``num_samples`` draws of each row of y (N, D), from fresh standard normal numbers.

    Rows and draws are taken in blocks of at most ``BLOCK``, fewer where a draw needs many numbers,
    and summed up at once: without gradients memory grows neither with S nor, but for the sums,
    with N.

    Args:
        weigh: values and log-weights of rows and noise.
        y: rows, (N, D).
        noise_features: n, standard normal numbers a draw takes.
        num_samples: S.
        numbers_per_draw: about how many numbers ``weigh`` holds at once for a draw.
        generator: where the noise comes from.

    Raises:
        ValueError: ``num_samples`` is not a positive integer.

    Example:
        >>> def weigh(y, noise):  # N(0, 1) by draws of N(0, 1)
        ...     return noise, torch.zeros(noise.shape[:2])
        >>> weighted_draws(weigh, torch.zeros(2, 1), 1, 100).log_mean()
        tensor([0., 0.])
    """
    check_positive("num_samples", num_samples)
    groups = min(_GROUPS, num_samples)
    block = max(1, min(BLOCK, NUMBERS // max(1, numbers_per_draw, y.shape[1])))
    calls = math.ceil(num_samples / min(_DRAWS, block))
    draws = math.ceil(num_samples / calls)  # most blocks of one size: memory is used again
    parts = []
    for rows in torch.split(y, max(1, block // draws)):
        weights: Weights | None = None
        for begun in range(0, num_samples, draws):
            shape = (len(rows), min(draws, num_samples - begun), noise_features)
            noise = torch.randn(shape, generator=generator, dtype=y.dtype, device=y.device)
            found = Weights.of(*weigh(rows, noise), groups, begun)
            weights = found if weights is None else weights.plus(found)
        if weights is not None:
            parts.append(weights)
    return Weights(
        torch.cat([part.log_sums for part in parts]),
        torch.cat([part.log_squares for part in parts]),
        torch.cat([part.total for part in parts]),
        torch.cat([part.mean for part in parts]),
        num_samples,
    )
