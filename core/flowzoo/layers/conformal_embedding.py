"""A conformal embedding of R^d in R^D."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.interfaces import BaseFlow, Injection, Step
from flowzoo.layers.composition import Composition
from flowzoo.layers.conformal import Orthogonal, Pad, Scale, Shift, SpecialConformal


class ConformalEmbedding(Injection):
    r"""Zeros are padded and R^D is mapped conformally: J^T J = lambda(u)^2 I.

    .. math:: c(u) = M(u, 0), \qquad c^\dagger(x) = (M^{-1}(x))_{1..d}, \qquad
        -\tfrac12\log\det J_c^T J_c = -d \log\lambda(u)

    M, from x to u, is Shift, Scale, Orthogonal and SpecialConformal, the whole conformal group of
    R^D but for what the pole of the last cannot reach. It also thickens the manifold exactly: with
    (u, v) = M^-1(x) and w = lambda(u, 0) v the offset in data units,

    .. math:: \log|\det d(u, w)/dx| = (D - d) \log\lambda(u, 0) - D \log\lambda(u, v)

    The length scale of M at a point is its volume term there by D, so nothing is said twice.

    Args:
        features: D.
        latent_features: d, in 1..D-1.
        num_charts: K for an embedding a chart; None for one.

    Raises:
        ValueError: D below 2, or ``latent_features`` not in 1..D-1.

    Source: Ross, Cresswell (2021); Sidheekh et al. (2022), eq. 5-7 with the exponent d.

    Example:
        >>> import torch
        >>> sphere = ConformalEmbedding(3, latent_features=2)
        >>> _ = sphere.bend.b.data.copy_(torch.tensor([0.0, 0.0, 1.0]))
        >>> x = sphere.decode(torch.randn(4, 2)).value
        >>> bool(((x - torch.tensor([0.0, 0.0, 0.5])).norm(dim=1) - 0.5).abs().max() < 1e-5)
        True
    """

    embedding_names: ClassVar[tuple[str, ...]] = ("",)
    flow_names: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, features: int, *, latent_features: int, num_charts: int | None = None
    ) -> None:
        super().__init__(features, latent_features=latent_features, num_charts=num_charts)
        self.shift = Shift(features, num_charts=num_charts)
        self.scale = Scale(features, num_charts=num_charts)
        self.turn = Orthogonal(features, num_charts=num_charts)
        self.bend = SpecialConformal(features, num_charts=num_charts)
        self.pad = Pad(features, latent_features=latent_features)

    def conformal_map(self) -> BaseFlow:
        """M as one bijection of R^D, made of this embedding's own layers; its decode is M."""
        return Composition([self.shift, self.scale, self.turn, self.bend])

    def _whole_encode(self, x: Tensor, chart: Tensor | None) -> Step:
        """(u, v) (N, D) and the volume term of M^-1, -D log lambda(u, v)."""
        x = self.shift._encode(x, None, chart).value
        x, scaled = self.scale._encode(x, None, chart)
        x = self.turn._encode(x, None, chart).value
        x, bent = self.bend._encode(x, None, chart)
        return Step(x, scaled + bent)

    def _whole_decode(self, uv: Tensor, chart: Tensor | None) -> Step:
        uv, bent = self.bend._decode(uv, None, chart)
        uv = self.turn._decode(uv, None, chart).value
        uv, scaled = self.scale._decode(uv, None, chart)
        return Step(self.shift._decode(uv, None, chart).value, scaled + bent)

    def log_length_scale(self, uv: Tensor, chart: Tensor | None = None) -> Tensor:
        """log lambda of M at (u, v) (N, D), (N,): how much M stretches lengths there."""
        bent = self.bend._decode(uv, None, chart).log_abs_det
        return -(bent + self.scale._decode(uv, None, chart).log_abs_det) / self.features

    def _on_manifold(self, u: Tensor, chart: Tensor | None) -> Tensor:
        """log lambda(u, 0), (N,)."""
        return self.log_length_scale(self.pad._decode(u, None, None).value, chart)

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        u = self._whole_encode(x, chart).value[:, : self.latent_features]
        # at c(c+(x)), not at x
        return Step(u, -self.latent_features * self._on_manifold(u, chart))

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        padded = self.pad._decode(z, None, None).value
        x, volume = self._whole_decode(padded, chart)
        return Step(x, volume * (self.latent_features / self.features))

    def _reconstruct(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Tensor:
        return self._decode(self._encode(x, None, chart).value, None, chart).value

    def _encode_thick(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        uv, volume = self._whole_encode(x, chart)
        u, v = torch.split(uv, [self.latent_features, self.features - self.latent_features], dim=1)
        log_scale = self._on_manifold(u, chart)
        w = v * log_scale[:, None].exp()
        return Step(torch.cat([u, w], dim=1), volume + v.shape[1] * log_scale)

    def _decode_thick(self, zw: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        u, w = torch.split(zw, [self.latent_features, self.features - self.latent_features], dim=1)
        log_scale = self._on_manifold(u, chart)
        uv = torch.cat([u, w * (-log_scale)[:, None].exp()], dim=1)
        x, volume = self._whole_decode(uv, chart)
        return Step(x, volume + w.shape[1] * log_scale)
