"""The entropy of codes with noise around them, by a mixture of Gaussians at the codes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mixture_log_prob(z: Tensor, noise_std: Tensor) -> Tensor:
    r"""log-density of each row of z under equal Gaussians at all of them, (N,), nats.

    .. math:: \log \hat q(z^n) = \log \tfrac1N \sum_m N(z^n; z^m, \sigma^2 I)

    Minus its mean estimates the entropy of z + sigma epsilon: Zhang et al. (2023), eq. 36-39, after
    Huber et al. (2008). It sees nothing where rows are many sigma apart: then each row's own term
    is all of the sum, and the estimate has no gradient.

    Args:
        z: (N, D).
        noise_std: sigma, ().
    """
    exact, variance = z.double(), noise_std.double().square()
    norms = exact.square().sum(dim=1)
    squares = (norms[:, None] + norms[None, :] - 2.0 * exact @ exact.mT).clamp(min=0.0)
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    squares = torch.where(own, torch.zeros_like(squares), squares)  # zero, whatever the rounding
    total = torch.logsumexp(-0.5 * squares / variance, dim=1) - math.log(max(1, len(z)))
    constant = 0.5 * z.shape[1] * (math.log(2.0 * math.pi) + variance.log())
    return (total - constant).to(z.dtype)


def noise_entropy(features: int, noise_std: Tensor) -> Tensor:
    """H(sigma epsilon) = (D/2) log 2 pi e sigma^2, (), nats: the least of codes with noise."""
    return features * (0.5 * math.log(2.0 * math.pi * math.e) + noise_std.log())
