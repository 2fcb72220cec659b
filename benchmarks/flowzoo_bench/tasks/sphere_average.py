"""Averages of exponentials over a sphere: a Bessel function whose size cancels."""

from __future__ import annotations

from math import ceil, lgamma, log

import torch
from torch import Tensor

_LARGE_ORDER = 40.0
_TERMS = 40
_ROWS = 4096
# U_k(t) = t^k times a polynomial in t², over a whole number: DLMF 10.41.10
_DEBYE = (
    ((1.0,), 1.0),
    ((3.0, -5.0), 24.0),
    ((81.0, -462.0, 385.0), 1152.0),
    ((30375.0, -369603.0, 765765.0, -425425.0), 414720.0),
    ((4465125.0, -94121676.0, 349922430.0, -446185740.0, 185910725.0), 39813120.0),
)


def log_sphere_average(kappa: Tensor, n: int) -> Tensor:
    r"""log E[exp(kappa (u_1 - 1))] for u uniform on the unit sphere of R^n, (N,).

    .. math:: E[e^{\kappa u_1}] = \Gamma(n/2)\, (2/\kappa)^{\nu} I_\nu(\kappa),
              \qquad \nu = n/2 - 1

    By the power series for kappa up to about nu, Hankel's expansion for large kappa, the Bessel
    function itself between, and Debye's expansion for large nu: to 1e-9 for any kappa >= 0.

    Args:
        kappa: (N,) float64, none below 0.
        n: at least 2.

    Example:
        >>> log_sphere_average(torch.tensor([2.0]).double(), 3).exp()  # sinh(2) / 2 e^2
        tensor([0.2454], dtype=torch.float64)
    """
    nu = n / 2 - 1
    if nu > _LARGE_ORDER:
        return _debye(kappa, nu)
    start, end = 4.0 + nu, 100.0 * (1.0 + nu**2)
    small, large = kappa.clamp(max=start), kappa.clamp(min=end)
    parts = [_series(part, nu) for part in torch.split(small, _ROWS)]
    result = torch.cat(parts) if parts else small
    result = torch.where(kappa > start, _bessel(kappa.clamp(start, end), nu), result)
    return torch.where(kappa > end, _hankel(large, nu), result)


def _series(kappa: Tensor, nu: float) -> Tensor:
    """Terms (kappa²/4)^k / (k! (nu + 1)_k), all positive."""
    k = torch.arange(_TERMS + ceil(nu), dtype=kappa.dtype, device=kappa.device)
    size = torch.lgamma(k + 1) + torch.lgamma(nu + 1 + k) - lgamma(nu + 1)
    powers = torch.special.xlogy(2 * k, kappa[:, None] / 2)
    return torch.logsumexp(powers - size, dim=1) - kappa


def _bessel(kappa: Tensor, nu: float) -> Tensor:
    from scipy.special import ive

    scaled = torch.as_tensor(ive(nu, kappa.cpu().numpy())).to(kappa)
    return scaled.log() + nu * (2 / kappa).log() + lgamma(nu + 1)


def _hankel(kappa: Tensor, nu: float) -> Tensor:
    """From I_nu(kappa) e^-kappa (2 pi kappa)^(1/2) = 1 - (4 nu² - 1) / 8 kappa + ..."""
    total = term = torch.ones_like(kappa)
    for k in range(1, 9):
        term = -term * (4 * nu**2 - (2 * k - 1) ** 2) / (8 * k * kappa)
        total = total + term
    return total.log() - (2 * torch.pi * kappa).log() / 2 + nu * (2 / kappa).log() + lgamma(nu + 1)


def _debye(kappa: Tensor, nu: float) -> Tensor:
    """DLMF 10.41.3, uniform in kappa: at these orders to 2e-10."""
    root = torch.hypot(kappa, torch.full_like(kappa, nu))
    t = nu / root
    total = torch.zeros_like(kappa)
    for k, (coefficients, divisor) in enumerate(_DEBYE):
        inner = torch.zeros_like(kappa)
        for coefficient in reversed(coefficients):
            inner = inner * t.square() + coefficient
        total = total + inner * t**k / divisor / nu**k
    # powers of kappa cancel, and root - kappa is taken without cancellation
    power = nu * (2 / (nu + root)).log() + nu**2 / (root + kappa)
    constant = lgamma(nu + 1) - log(2 * torch.pi * nu) / 2
    return power + constant + t.log() / 2 + total.log()
