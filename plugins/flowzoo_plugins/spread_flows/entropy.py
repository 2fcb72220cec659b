"""The entropy of codes with noise around them, by a mixture of Gaussians at the codes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mixture_log_prob(z: Tensor, noise_std: Tensor, centres: Tensor | None = None) -> Tensor:
    r"""log-density of each row of z under equal Gaussians at all centres, (N,), nats.

    .. math:: \log \hat q(z^n) = \log \tfrac1N \sum_m N(z^n; z^m, \sigma^2 I)

    Minus its mean estimates the entropy of z + sigma epsilon: Zhang et al. (2023), eq. 36-39, after
    Huber et al. (2008). It sees nothing where rows are many sigma apart: then each row's own term
    is all of the sum, and the estimate has no gradient.

    Args:
        z: (N, D).
        noise_std: sigma, ().
        centres: (M, D); the rows of z themselves when None.
    """
    exact, variance = z.double(), noise_std.double().square()
    others = exact if centres is None else centres.double()
    middle = others.mean(dim=0)  # far from it the squares below would lose their digits
    exact, others = exact - middle, others - middle
    norms, other_norms = exact.square().sum(dim=1), others.square().sum(dim=1)
    squares = norms[:, None] + other_norms[None, :] - 2.0 * exact @ others.mT
    squares = squares.clamp(min=0.0)
    if centres is None:  # a row's own distance is zero, whatever the rounding
        own = torch.eye(len(z), dtype=torch.bool, device=z.device)
        squares = torch.where(own, torch.zeros_like(squares), squares)
    total = torch.logsumexp(-0.5 * squares / variance, dim=1) - math.log(max(1, len(others)))
    constant = 0.5 * z.shape[1] * (math.log(2.0 * math.pi) + variance.log())
    return (total - constant).to(z.dtype)


def noise_entropy(features: int, noise_std: Tensor) -> Tensor:
    """H(sigma epsilon) = (D/2) log 2 pi e sigma^2, (), nats: the least of codes with noise."""
    return features * (0.5 * math.log(2.0 * math.pi * math.e) + noise_std.log())


def drawn_noise_entropy(noise: Tensor, noise_std: Tensor) -> Tensor:
    """-log N(sigma epsilon; 0, sigma^2 I) of epsilon as drawn, (N,); in the mean its entropy.

    Beside a loss with the same draws it has the same chance in it.
    """
    drawn = 0.5 * (noise.square().sum(dim=1) - noise.shape[1])
    return noise_entropy(noise.shape[1], noise_std) + drawn
