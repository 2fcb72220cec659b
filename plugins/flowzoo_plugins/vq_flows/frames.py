"""An affine frame for each chart, before the shared flow (ours, not the paper's)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowzoo.interfaces import Step
from flowzoo.layers import Whitener, principal_whitener, variance_floor
from flowzoo.validation import check_number


class ChartFrames(nn.Module):
    r"""Centre and whiten each chart by the moments of its own training rows.

    .. math:: x' = (x - \mu_k) W_k, \qquad
              W_k W_k^T = \big(a [(1 - s) S_k + s\,\tfrac{\mathrm{tr} S_k}{D} I]\big)^{-1}

    with S_k the covariance of the rows nearest to chart k, inflation a and shrinkage s; W_k is PCA
    whitening. A chart with fewer than 2 D rows takes the frame of all rows. Eigenvalues are kept
    above 1e-6 of the data's mean variance, so constant columns and duplicate rows stay finite; data
    without any variance gets the identity scale. The frame is the identity until ``fit``.

    Args:
        features: D.
        num_charts: K.
        inflation: a > 0, factor on the covariance.
        shrinkage: s in [0, 1].
    """

    mean: Tensor  # (K, D)
    whiten: Tensor  # (K, D, D)
    colour: Tensor  # (K, D, D), the inverse of whiten
    log_abs_det: Tensor  # (K,) log|det whiten|

    def __init__(
        self, features: int, num_charts: int, *, inflation: float = 1.6, shrinkage: float = 0.0
    ) -> None:
        super().__init__()
        self.inflation = check_number("frame_inflation", inflation, strict=True)
        self.shrinkage = check_number("frame_shrinkage", shrinkage, most=1.0)
        identity = torch.eye(features).repeat(num_charts, 1, 1)
        self.register_buffer("mean", torch.zeros(num_charts, features))
        self.register_buffer("whiten", identity)
        self.register_buffer("colour", identity.clone())
        self.register_buffer("log_abs_det", torch.zeros(num_charts))

    def encode(self, x: Tensor, chart: Tensor) -> Step:
        """Data x (N, D) to chart coordinates (N, D), for ``chart`` (N,)."""
        value = torch.einsum("ni,nij->nj", x - self.mean[chart], self.whiten[chart])
        return Step(value, self.log_abs_det[chart])

    def decode(self, value: Tensor, chart: Tensor) -> Step:
        """Chart coordinates (N, D) to data (N, D); the volume term is still log|det dx'/dx|."""
        x = torch.einsum("ni,nij->nj", value, self.colour[chart]) + self.mean[chart]
        return Step(x, self.log_abs_det[chart])

    @torch.no_grad()
    def fit(self, x: Tensor, chart: Tensor) -> None:
        """Set the frames, in place, from training rows x (N, D) and their nearest chart (N,)."""
        rows, owner = x.detach().double().cpu(), chart.cpu()
        floor = variance_floor(rows)
        everything = self._frame(rows, floor)
        for k in range(len(self.mean)):
            own = rows[owner == k]
            frame = everything if len(own) < 2 * rows.shape[1] else self._frame(own, floor)
            for name, value in frame._asdict().items():
                getattr(self, name)[k].copy_(value)

    def _frame(self, rows: Tensor, floor: float) -> Whitener:
        return principal_whitener(rows, floor, inflation=self.inflation, shrinkage=self.shrinkage)
