"""The noise of the data as codes see it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_DRAWS = 20  # for each column: the covariance's eigenvalues are then within some 20 per cent
_LEAST = 2000
_ROWS = 1000  # encoded at a time


@torch.no_grad()
def pushed_noise(
    encode: Callable[[Tensor], Tensor], x: Tensor, std: float, generator: torch.Generator
) -> Tensor:
    r"""E[(f(x + s e) - f(x)) (f(x + s e) - f(x))'], e ~ N(0, I): (D, D) float64.

    For small s it is s^2 E[J J'], J = df/dx. Whatever linear map f ends in, A A' is measured
    against the noise after the same map.

    Args:
        encode: f, rows (N, D) to rows (N, D).
        x: rows, (N, D), N >= 1.
        std: s.
        generator: of e.
    """
    features = x.shape[1]
    total = max(_LEAST, _DRAWS * features)
    found = torch.zeros(features, features, dtype=torch.float64, device=x.device)
    for start in range(0, total, _ROWS):
        count = min(_ROWS, total - start)
        rows = x[(start + torch.arange(count, device=x.device)) % len(x)]
        noise = torch.randn(count, features, generator=generator, device=generator.device)
        change = (encode(rows + std * noise.to(x)) - encode(rows)).double()
        found += change.mT @ change
    return found / total


@torch.no_grad()
def noise_in_parts(
    encode: Callable[[Tensor], Tensor],
    x: Tensor,
    chart: Tensor,
    std: float,
    like: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """``pushed_noise`` of the rows of each part, of all rows where it has none, shaped as ``like``.

    Args:
        encode: f.
        x: rows, (N, D).
        chart: part of each, (N,).
        std: of the noise on the data.
        like: (K, D, D).
        generator: of the noise.
    """
    parts = [torch.nonzero(chart == index)[:, 0] for index in range(len(like))]
    return torch.stack(
        [pushed_noise(encode, x[rows] if len(rows) else x, std, generator) for rows in parts]
    )
