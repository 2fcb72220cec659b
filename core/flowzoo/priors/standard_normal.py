"""The standard normal prior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowzoo.interfaces import Prior
from flowzoo.validation import check_context, check_rows


class StandardNormal(Prior):
    r"""N(0, I) on R^d.

    .. math:: \log q(z) = -\tfrac12 |z|^2 - \tfrac d2 \log 2\pi

    ``sample(temperature=t)`` draws from N(0, t^2 I); ``noise_scale`` has no effect, as the prior
    adds no noise of its own.

    Args:
        features: d.

    Example:
        >>> import torch
        >>> StandardNormal(2).log_prob(torch.zeros(1, 2))
        tensor([-1.8379])
    """

    reference: Tensor

    def __init__(self, features: int) -> None:
        super().__init__(features)
        # empty: only tells dtype and device
        self.register_buffer("reference", torch.empty(0), persistent=False)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """log q(z) in nats, (N,), for z (N, d).

        Raises:
            ValueError: z has the wrong shape, or a context is given.
        """
        check_rows("z", z, self.features)
        check_context(context, self.context_features, len(z))
        return -0.5 * (z.square().sum(dim=1) + self.features * math.log(2.0 * math.pi))

    def sample(
        self,
        num: int,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        noise_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """``num`` draws of N(0, temperature^2 I), (num, d).

        Raises:
            ValueError: ``temperature`` is not positive, or a context is given.
        """
        check_context(context, self.context_features, num)
        if not temperature > 0:
            raise ValueError(f"temperature: expected > 0, got {temperature}")
        shape = (num, self.features)
        like = self.reference
        noise = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        return temperature * noise

    def from_normal(self, noise: Tensor) -> Tensor:
        """The noise itself, (N, d)."""
        return check_rows("noise", noise, self.features)
