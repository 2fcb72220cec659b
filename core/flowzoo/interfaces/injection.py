"""The contract of a flow onto a manifold: fewer latent columns than data columns."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from flowzoo.interfaces.base_flow import BaseFlow
from flowzoo.interfaces.stage import Loss, Stage
from flowzoo.interfaces.step import Step
from flowzoo.validation import check_chart, check_context, check_positive, check_rows, check_step

InjectionMode = Literal["sequential", "joint", "thickened"]


class Injection(BaseFlow):
    r"""An embedding of R^d in R^D after a flow on R^d, d < D.

    ``decode`` maps z (N, d) onto the manifold. ``encode`` is a left inverse of it whose Jacobian is
    the pseudo-inverse, defined for every x: it sees the point of the manifold x is taken to,
    ``reconstruct(x)``. In both directions ``log_abs_det`` is that of the decoder at z,

    .. math:: -\tfrac12 \log\det J^T J

    Subclasses also say how the manifold is thickened: a bijection of R^D, x to (z, w), with w
    (N, D - d) the offset from the manifold, in data units to first order, and zero on it. With it a
    density of z times a density of w is an exact density in R^D (``flowzoo.layers.Thickened``).

    Attributes:
        mode: how a mixture trains it. ``sequential``: reconstruction, then likelihood with the
            embedding fixed. ``joint``: both at once, weighted by ``joint_weights``.
            ``thickened``: everything by the likelihood in R^D.
        joint_weights: of the log-likelihood on the manifold and of the mean squared reconstruction
            error, the latter as a share of the data's mean variance.
        embedding_names: parameters and submodules that place the manifold.
        flow_names: those of the flow on R^d.

    Args:
        features: D.
        latent_features: d, in 1..D-1.
        context_features: C.
        num_charts: K for an embedding a chart, else None.

    Raises:
        ValueError: ``latent_features`` is not in 1..D-1.
    """

    mode: InjectionMode = "sequential"
    joint_weights: tuple[float, float] = (1.0, 1.0)
    embedding_names: ClassVar[tuple[str, ...]]
    flow_names: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        features: int,
        *,
        latent_features: int,
        context_features: int = 0,
        num_charts: int | None = None,
    ) -> None:
        if check_positive("features", features) < 2:
            raise ValueError(f"features: expected >= 2 for a manifold to lie in, got {features}")
        if not check_positive("latent_features", latent_features) < features:
            raise ValueError(
                f"latent_features: expected 1 to {features - 1}, got {latent_features}"
            )
        super().__init__(
            features,
            latent_features=latent_features,
            context_features=context_features,
            num_charts=num_charts,
        )

    def reconstruct(
        self, x: Tensor, context: Tensor | None = None, chart: Tensor | None = None
    ) -> Tensor:
        """The point of the manifold that ``encode`` takes x (N, D) to be, (N, D).

        Does not depend on the flow on R^d, which it would only run there and back.

        Raises:
            ValueError: a wrong shape or dtype, or context or chart missing or unexpected.
        """
        check_rows("x", x, self.features)
        context = check_context(context, self.context_features, len(x))
        return self._reconstruct(x, context, check_chart(chart, self.num_charts, len(x)))

    def encode_thick(
        self, x: Tensor, context: Tensor | None = None, chart: Tensor | None = None
    ) -> Step:
        """x (N, D) to (z, w) (N, D) and log|det d(z, w)/dx| (N,); its z is that of ``encode``.

        Raises:
            ValueError: a wrong shape or dtype, or context or chart missing or unexpected.
        """
        check_rows("x", x, self.features)
        context = check_context(context, self.context_features, len(x))
        step = self._encode_thick(x, context, check_chart(chart, self.num_charts, len(x)))
        check_step(step, len(x), self.features, f"{type(self).__name__}.encode_thick")
        return step

    def decode_thick(
        self, zw: Tensor, context: Tensor | None = None, chart: Tensor | None = None
    ) -> Step:
        """(z, w) (N, D) to x (N, D); the volume term is still log|det d(z, w)/dx|."""
        check_rows("zw", zw, self.features)
        context = check_context(context, self.context_features, len(zw))
        step = self._decode_thick(zw, context, check_chart(chart, self.num_charts, len(zw)))
        check_step(step, len(zw), self.features, f"{type(self).__name__}.decode_thick")
        return step

    @abstractmethod
    def _reconstruct(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Tensor: ...

    @abstractmethod
    def _encode_thick(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step: ...

    @abstractmethod
    def _decode_thick(self, zw: Tensor, context: Tensor | None, chart: Tensor | None) -> Step: ...

    def initialise(self, x: Tensor, chart: Tensor | None, generator: torch.Generator) -> None:
        """Place the manifold by training rows x (N, D), in place; by default nothing is done.

        Args:
            x: training rows.
            chart: the nearest chart of each, (N,), for a flow indexed by chart.
            generator: a CPU generator, where anything random comes from.
        """

    def reconstruction_stage(self, loss: Loss, groups: tuple[str, ...]) -> Stage | None:
        """The stage, named ``reconstruction``, that trains the embedding in mode ``sequential``.

        Args:
            loss: mean squared reconstruction error of each row.
            groups: ``embedding_names`` as the mixture sees them.

        Returns:
            None (the default) for an embedding that ``initialise`` has placed for good.
        """
        return None
