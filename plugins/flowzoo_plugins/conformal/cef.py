"""Conformal embedding flows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from flowzoo.interfaces import BaseFlow, Injection, InjectionMode, Stage, Step
from flowzoo.interfaces.stage import Loss
from flowzoo.layers import ConformalEmbedding
from flowzoo.registry import build_part
from flowzoo.training.options import TrainingOptions
from flowzoo.validation import check_number
from flowzoo_plugins.conformal.placement import Start, place

_RECONSTRUCTION: Mapping[str, Any] = {"epochs": 20, "lr": 1e-4, "batch_size": 128}


class CEF(Injection):
    r"""A flow on R^d, then a conformal embedding c of R^d in R^D.

    .. math:: x = c(g(z)), \qquad J_c^T J_c = \lambda(u)^2 I, \qquad
        \log p(x) = \log q(z) + \log|\det J_{g^{-1}}(u)| - d \log\lambda(u), \quad u = c^\dagger(x)

    That is the density on the manifold at the point x is taken to; ``Thickened`` makes it one in
    R^D. A mixture with charts gives K embeddings, indexed by chart, over one shared flow that is
    told the chart by its context. The manifold is a piece of a sphere or plane, the images of
    planes under conformal maps.

    Args:
        features: D, at least 2.
        latent_features: d; D - 1 when None.
        context_features: C, for the flow on R^d.
        num_charts: K for an embedding a chart; None for one.
        base_flow: the flow on R^d: name, ``{"name": ..., **options}`` or a built flow.
        init: where the embedding starts: ``scale`` (centre, one scale, a random rotation, as in the
            CEF code), ``pca`` (centre, principal axes, their scale) or ``none``.
        mode: ``sequential`` (reconstruction, then likelihood with the embedding fixed), ``joint``
            (both at once) or ``thickened`` (all by the likelihood in R^D). Adam's steps are in the
            units of the data: standardise data whose scale is far from 1.
        reconstruction: changes to the first stage of ``sequential``, 20 epochs of Adam at 1e-4 with
            batches of 128.
        joint_weights: of log-likelihood and mean squared error, as a share of the data's mean
            variance, in ``joint``; by default the CEF code's for a sphere.

    Raises:
        ValueError: D below 2, d not in 1..D-1, or an option out of range.

    Source: Ross, Cresswell (2021); Sidheekh et al. (2022), section 4 and supplement 3.

    Example:
        >>> import torch
        >>> flow = CEF(3, base_flow={"name": "realnvp", "layers": 2, "hidden": [8]}).eval()
        >>> flow.encode(torch.zeros(4, 3)).value.shape
        torch.Size([4, 2])
    """

    embedding_names: ClassVar[tuple[str, ...]] = ("embedding",)
    flow_names: ClassVar[tuple[str, ...]] = ("flow",)

    def __init__(
        self,
        features: int,
        *,
        latent_features: int | None = None,
        context_features: int = 0,
        num_charts: int | None = None,
        base_flow: Mapping[str, Any] | str | BaseFlow = "realnvp",
        init: Start = "scale",
        mode: InjectionMode = "sequential",
        reconstruction: Mapping[str, Any] | TrainingOptions | None = None,
        joint_weights: tuple[float, float] = (10.0, 1e4),
    ) -> None:
        super().__init__(
            features,
            latent_features=max(1, features - 1) if latent_features is None else latent_features,
            context_features=context_features,
            num_charts=num_charts,
        )
        for name, value, known in (
            ("init", init, get_args(Start)),
            ("mode", mode, get_args(InjectionMode)),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {known}, got {value!r}")
        self.init, self.mode = init, mode
        a, b = joint_weights
        self.joint_weights = (
            check_number("joint_weights", a, strict=True),
            check_number("joint_weights", b, strict=True),
        )
        self.embedding = ConformalEmbedding(
            features, latent_features=self.latent_features, num_charts=num_charts
        )
        flow: BaseFlow = build_part(
            "base-flow",
            base_flow,
            features=self.latent_features,
            context_features=context_features,
        )
        if (flow.latent_features, flow.num_charts) != (self.latent_features, None):
            raise ValueError(
                "base_flow: expected a flow that keeps its dimension and declares no charts, got "
                f"latent_features={flow.latent_features}, num_charts={flow.num_charts}"
            )
        self.flow = flow
        self.fast = flow.fast
        try:
            self.reconstruction_options = TrainingOptions.of(reconstruction, _RECONSTRUCTION)
        except ValueError as error:
            raise ValueError(f"reconstruction: {error}") from error

    def layers(self) -> Sequence[BaseFlow]:
        """The embedding, then the layers of the flow on R^d."""
        return (self.embedding, *self.flow.layers())

    def initialise(self, x: Tensor, chart: Tensor | None, generator: torch.Generator) -> None:
        """Place the embedding by training rows x (N, D), in place, as ``init`` says."""
        place(self.embedding, x, chart, self.init, generator)

    def reconstruction_stage(self, loss: Loss, groups: tuple[str, ...]) -> Stage | None:
        """The first stage of ``sequential`` training."""
        return self.reconstruction_options.stage("reconstruction", loss, groups=groups)

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        u, embedded = self.embedding._encode(x, None, chart)
        z, change = self.flow._encode(u, context, None)
        return Step(z, embedded + change)

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        u, change = self.flow._decode(z, context, None)
        x, embedded = self.embedding._decode(u, None, chart)
        return Step(x, embedded + change)

    def _reconstruct(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Tensor:
        return self.embedding._reconstruct(x, None, chart)

    def _encode_thick(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        uw, embedded = self.embedding._encode_thick(x, None, chart)
        u, w = torch.split(uw, [self.latent_features, self.features - self.latent_features], dim=1)
        z, change = self.flow._encode(u, context, None)
        return Step(torch.cat([z, w], dim=1), embedded + change)

    def _decode_thick(self, zw: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        z, w = torch.split(zw, [self.latent_features, self.features - self.latent_features], dim=1)
        u, change = self.flow._decode(z, context, None)
        x, embedded = self.embedding._decode_thick(torch.cat([u, w], dim=1), None, chart)
        return Step(x, embedded + change)
