"""From a point back to its latent code (section 4.2.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from flowzoo_plugins.vq_flows import heads
from flowzoo_plugins.vq_flows.charts import choose

if TYPE_CHECKING:
    from flowzoo_plugins.vq_flows.mixture import VQFlow

EmbedMode = Literal["sample", "mean", "argmax"]


def embed(
    model: VQFlow,
    x: Tensor,
    responsibilities: Tensor,
    mode: EmbedMode,
    generator: torch.Generator | None,
) -> Tensor:
    """Latent codes (N, d) of x (N, D), given p(k | x) (N, K).

    ``sample``: z = f_k(x) with k ~ p(k | x). ``mean``: E[z] = sum p(k | x) f_k(x). ``argmax``:
    z = f_s(x) with s the most probable chart. With one chart a row all three agree (eq. 19). A row
    without a posterior (NaN) has no code (NaN). For f_k(x) see ``heads.codes``.

    Raises:
        ValueError: unknown mode.
    """
    if mode not in get_args(EmbedMode):
        raise ValueError(f"mode: expected one of {get_args(EmbedMode)}, got {mode!r}")
    if mode == "mean":
        rows = model.rows_per_call // model.num_charts or 1
        parts = zip(torch.split(x, rows), torch.split(responsibilities, rows), strict=True)
        return torch.cat([_mean(model, *part) for part in parts])
    if mode == "sample":
        uniform = torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype)
        chart = choose(responsibilities, uniform)
    else:
        chart = responsibilities.argmax(dim=1)
    rows = model.rows_per_call
    parts = zip(torch.split(x, rows), torch.split(chart, rows), strict=True)
    z = torch.cat([heads.codes(model, *part) for part in parts])
    return torch.where(responsibilities.isnan().any(dim=1, keepdim=True), torch.nan, z)


def _mean(model: VQFlow, x: Tensor, responsibilities: Tensor) -> Tensor:
    charts = model.num_charts
    chart = torch.arange(charts, device=x.device).repeat(len(x))
    z = heads.codes(model, x.repeat_interleave(charts, dim=0), chart)
    z = z.reshape(len(x), charts, z.shape[1])
    weight = responsibilities[:, :, None]
    # f_k(x) may overflow in a chart far away, whose probability is 0
    return torch.where(weight == 0, 0.0, weight * z).sum(dim=1)
