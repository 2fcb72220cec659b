"""Where the prior starts: at the moments of the codes."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.priors import GeneralisedGaussian, GeneralisedGaussianMixture


def start_prior(
    prior: GeneralisedGaussian | GeneralisedGaussianMixture,
    z: Tensor,
    noise_variance: float,
    generator: torch.Generator,
) -> None:
    """Take mu and A by the moments of codes under noise; of several parts by EM. In place.

    Args:
        prior: where the moments go.
        z: codes, (N, D).
        noise_variance: to add to theirs, so that the prior's noise may be taken off: of noise that
            they do not have yet, or less what they have more of.
        generator: of EM's start.
    """
    if isinstance(prior, GeneralisedGaussianMixture):
        prior.start(z, generator, noise_variance=noise_variance)
        return
    mean = z.double().mean(dim=0)
    about = z.double() - mean
    moments = about.mT @ about / len(z)
    moments.diagonal().add_(noise_variance)
    prior.start(mean, moments)
