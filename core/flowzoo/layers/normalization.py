"""Batch normalisation as an invertible layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowzoo.interfaces import BaseFlow, Step


class InvertibleBatchNorm(BaseFlow):
    r"""Batch normalisation between layers, Dinh et al. (2017), section 3.7.

    .. math:: z = \frac{x - m}{\sqrt{v + \epsilon}} \odot e^{\gamma} + \beta, \qquad
        \log|\det dz/dx| = \sum_i \gamma_i - \tfrac12 \log(v_i + \epsilon)

    ``encode`` in training mode takes the mean m and the (biased) variance v from the batch, with
    gradients through them, and moves the running statistics towards them in place; the volume term
    is that of the map with m and v held fixed. A batch of fewer than two rows has no variance: it
    is normalised by the running statistics and leaves them alone. ``encode`` in eval mode and
    ``decode`` in either mode use the running statistics, so the two are inverses in eval mode only.

    Args:
        features: D.
        momentum: weight of the new batch in the running statistics, in (0, 1].
        eps: added to the variance.

    Raises:
        ValueError: ``momentum`` outside (0, 1] or ``eps`` not positive.

    Example:
        >>> import torch
        >>> layer = InvertibleBatchNorm(2)
        >>> z = layer.encode(5 + torch.randn(64, 2)).value
        >>> bool(z.mean(0).abs().max() < 1e-5)
        True
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__(features)
        if not 0.0 < momentum <= 1.0:
            raise ValueError(f"momentum: expected in (0, 1], got {momentum}")
        if not eps > 0.0:
            raise ValueError(f"eps: expected > 0, got {eps}")
        self.momentum = float(momentum)
        self.eps = float(eps)
        self.log_gamma = nn.Parameter(torch.zeros(features))
        self.beta = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        if self.training and len(x) >= 2:
            mean = x.mean(dim=0)
            centred = x - mean
            var = centred.square().mean(dim=0)
            # in place, so that stacked buffers are updated under vmap
            keep = 1.0 - self.momentum
            self.running_mean.mul_(keep).add_(mean.detach(), alpha=self.momentum)
            self.running_var.mul_(keep).add_(var.detach(), alpha=self.momentum)
        else:
            centred = x - self.running_mean
            var = self.running_var
        log_scale = self.log_gamma - 0.5 * (var + self.eps).log()
        return Step(
            torch.addcmul(self.beta, centred, log_scale.exp()), log_scale.sum().expand(len(x))
        )

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        log_scale = self.log_gamma - 0.5 * (self.running_var + self.eps).log()
        x = (z - self.beta) * (-log_scale).exp() + self.running_mean
        return Step(x, log_scale.sum().expand(len(z)))
