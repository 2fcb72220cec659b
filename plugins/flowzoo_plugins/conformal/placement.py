"""Where a conformal embedding starts: placed by the training rows."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from flowzoo.layers import ConformalEmbedding

Start = Literal["scale", "pca", "none"]


class _Frame(NamedTuple):
    centre: Tensor  # (D,)
    scale: Tensor  # ()
    axes: Tensor  # (D, D), orthogonal; the first d columns span the latent plane


@torch.no_grad()
def place(
    embedding: ConformalEmbedding,
    x: Tensor,
    chart: Tensor | None,
    start: Start,
    generator: torch.Generator,
) -> None:
    """Set shift, scale and rotation, in place, from rows x (N, D); the bend starts at zero.

    ``scale``: the mean of the rows, one scale (the mean of their columns' standard deviations) and
    a random rotation, as in the CEF code. ``pca``: the mean, the principal axes, largest first, and
    the mean standard deviation along the first d. Charts with fewer than 2 D rows start as the
    whole data; rows without any spread give scale 1. ``none`` leaves everything as it is.

    Args:
        embedding: what is placed.
        x: training rows.
        chart: the nearest chart of each, (N,), for an embedding indexed by chart.
        start: which of the three.
        generator: where random rotations come from.
    """
    if start == "none":
        return
    rows = x.detach().double().cpu()
    num_charts = embedding.num_charts
    whole = _frame(rows, embedding, start, generator)
    frames = [whole]
    if num_charts is not None and chart is not None:
        owner = chart.cpu()
        frames = []
        for k in range(num_charts):
            own = rows[owner == k]
            few = len(own) < 2 * embedding.features
            frames.append(whole if few else _frame(own, embedding, start, generator))
    centre, scale, axes = (torch.stack(parts) for parts in zip(*frames, strict=True))
    for target, value in (
        (embedding.shift.offset, centre),
        (embedding.scale.log_scale, scale.log()[:, None]),
        (embedding.turn.start, axes),
    ):
        target.copy_(value.reshape(target.shape))
    embedding.turn.angles.zero_()
    embedding.bend.b.zero_()


def _frame(
    rows: Tensor, embedding: ConformalEmbedding, start: Start, generator: torch.Generator
) -> _Frame:
    """The start of rows (N, D) in float64."""
    centre = rows.mean(dim=0)
    if start == "pca":
        centred = rows - centre
        variance, axes = torch.linalg.eigh(centred.mT @ centred / len(rows))
        axes = axes.flip(1)
        spread = variance.flip(0).clamp(min=0.0).sqrt()[: embedding.latent_features].mean()
    else:
        spread = rows.std(dim=0, correction=0).mean()
        axes = random_rotation(embedding.features, generator)
    rounding = 1e-14 * rows.abs().max()  # what the spread of equal rows may come to
    return _Frame(centre, torch.where(spread > rounding, spread, torch.ones_like(spread)), axes)


def random_rotation(features: int, generator: torch.Generator) -> Tensor:
    """An orthogonal matrix (D, D) drawn uniformly, reflections included, float64."""
    q, r = torch.linalg.qr(
        torch.randn(features, features, generator=generator, dtype=torch.float64)
    )
    signs = r.diagonal().sign()
    rotation: Tensor = q * torch.where(signs == 0, 1.0, signs)
    return rotation
