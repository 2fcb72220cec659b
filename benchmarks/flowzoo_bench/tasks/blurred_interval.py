"""The density of a uniform variable blurred by Gaussian noise."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor


def blurred_interval(x: Tensor, length: float, sigma: float) -> Tensor:
    r"""log p of ``length * U[0, 1] + sigma * N(0, 1)`` at x, in nats, of x's shape.

    .. math:: p(x) = [\Phi(x / \sigma) - \Phi((x - \ell) / \sigma)] / \ell

    Stays exact far from the interval, where both terms are 0 or 1 in floating point, and is -inf
    where the square of x overflows.

    Example:
        >>> blurred_interval(torch.tensor([1.0]), 2.0, 0.1).exp()
        tensor([0.5000])
    """
    low, high = (x - length) / sigma, x / sigma
    mirrored = low + high > 0  # Phi(b) - Phi(a) = Phi(-a) - Phi(-b): keep to the lower tail
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    most: Tensor = torch.special.log_ndtr(high)
    # Phi(a) / Phi(b) is below the ratio of the densities, whose logarithm never rounds to 0
    ratio = torch.minimum(torch.special.log_ndtr(low) - most, (low + high) * (length / sigma / 2))
    found = most + (-torch.expm1(ratio)).log() - log(length)
    return found.masked_fill(most == -torch.inf, -torch.inf)  # the ratio is 0 / 0 there
