"""The uniform prior on the unit ball."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowzoo.interfaces import BaseFlow, Prior
from flowzoo.layers import RadialSquash
from flowzoo.validation import check_context, check_rows


class UniformBall(Prior):
    r"""Uniform density on the unit ball of R^d.

    .. math:: \log q(z) = -\log V_d \;\text{if}\; |z| \le 1, \;\text{else} -\infty, \qquad
        V_d = \pi^{d/2} / \Gamma(\tfrac d2 + 1)

    A flow whose latent side is R^d is followed by ``support_map()``. |z| = 1 counts as inside up
    to rounding. ``sample(temperature=t)`` draws from the ball of radius t, 0 < t <= 1;
    ``noise_scale`` has no effect, as the prior adds no noise of its own.

    Args:
        features: d.

    Example:
        >>> import torch
        >>> UniformBall(2).log_prob(torch.tensor([[0.5, 0.5], [1.0, 1.0]]))
        tensor([-1.1447,    -inf])
    """

    reference: Tensor

    def __init__(self, features: int) -> None:
        super().__init__(features)
        # empty: only tells dtype and device
        self.register_buffer("reference", torch.empty(0), persistent=False)
        half = features / 2
        self.log_volume = half * math.log(math.pi) - math.lgamma(half + 1.0)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """log q(z) in nats, (N,), for z (N, d); NaN where z is NaN.

        Raises:
            ValueError: z has the wrong shape, or a context is given.
        """
        check_rows("z", z, self.features)
        check_context(context, self.context_features, len(z))
        square = z.square().sum(dim=1)
        outside = square > 1.0 + 8.0 * torch.finfo(z.dtype).eps
        # 0 * square carries NaN on; infinities are outside
        inside = 0.0 * square - self.log_volume
        return torch.where(outside, torch.full_like(square, -math.inf), inside)

    def sample(
        self,
        num: int,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        noise_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """``num`` draws from the ball of radius ``temperature``, (num, d).

        Raises:
            ValueError: ``temperature`` is not in (0, 1], or a context is given.
        """
        check_context(context, self.context_features, num)
        if not 0 < temperature <= 1:
            raise ValueError(
                f"temperature: expected in (0, 1] for a uniform ball, got {temperature}"
            )
        shape = (num, self.features)
        like = self.reference
        noise = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        return temperature * self.from_normal(noise)

    def from_normal(self, noise: Tensor) -> Tensor:
        r"""Map standard normals n (N, d) to uniform draws in the open ball, smooth in n.

        .. math:: z = F_{\chi_d}(|n|)^{1/d}\, n / |n|, \qquad
            F_{\chi_d}(r) = P(\tfrac d2, \tfrac{r^2}{2})

        with P the regularised lower incomplete gamma function: F(|n|) is uniform on (0, 1), and
        the radius of a uniform point in the ball is the d-th root of a uniform number.
        """
        check_rows("noise", noise, self.features)
        return noise * _radius_ratio(noise.square().sum(dim=1, keepdim=True), self.features)

    def support_map(self) -> BaseFlow:
        """The squash of R^d onto the open unit ball."""
        return RadialSquash(self.features)


def _radius_ratio(square: Tensor, features: int) -> Tensor:
    r"""P(d/2, r^2/2)^{1/d} / r as a smooth function of ``square`` = r^2, r = 0 included."""
    a = features / 2
    info = torch.finfo(square.dtype)
    x = square / 2
    # Near zero, by P(a, x) = x^a e^-x / Gamma(a + 1) * sum_k x^k / ((a+1)...(a+k)): the power of r
    # cancels. 0.25^26 is below float64's rounding.
    limit = 0.25 * (a + 1.0)
    near = x.clamp(max=limit)
    term = torch.ones_like(x)
    total = torch.ones_like(x)
    for k in range(1, 27):
        term = term * near / (a + k)
        total = total + term
    near_log = (total.log() - near - math.lgamma(a + 1.0)) / features - 0.5 * math.log(2.0)
    # Elsewhere directly; the radius stays below 1 when P rounds to 1.
    far = x.clamp(min=limit)
    p = torch.special.gammainc(torch.full_like(far, a), far).clamp(min=info.tiny)
    far_log = (p.log() / features).clamp(max=-info.eps) - 0.5 * (2.0 * far).log()
    return torch.where(x < limit, near_log, far_log).exp()
