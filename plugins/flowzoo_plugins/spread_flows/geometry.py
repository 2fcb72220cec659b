"""What a decoder does to directions of its latent space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp, vmap

Decode = Callable[[Tensor], Tensor]
_NUMBERS = 2**22  # entries of Jacobians held at once


def pushed_lengths(decode: Decode, z: Tensor, directions: Tensor) -> Tensor:
    r"""Singular values of J V at each row of z, (N, min(K, D)) float64, largest first.

    NaN where J is not finite.

    Args:
        decode: rows (N, D) to rows (N, D), each on its own.
        z: where J = d decode / dz is taken, (N, D).
        directions: V, (D, K).
    """
    features, count = directions.shape
    found = [z.new_empty(0, min(features, count), dtype=torch.float64)]
    for rows in torch.split(z, max(1, _NUMBERS // (features * max(1, count)))):

        def push(direction: Tensor, rows: Tensor = rows) -> Tensor:
            tangent: Tensor = jvp(decode, (rows,), (direction.expand_as(rows),))[1]
            return tangent

        pushed = vmap(push, out_dims=2, chunk_size=64)(directions.mT)
        known = pushed.isfinite().all(dim=(1, 2))[:, None]
        lengths = torch.linalg.svdvals(pushed.double().where(known[:, :, None], 0.0))
        found.append(lengths.where(known, torch.nan))
    return torch.cat(found)
