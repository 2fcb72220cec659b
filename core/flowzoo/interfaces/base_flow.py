"""The contract of a flow between data and latent space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from flowzoo.interfaces.step import Step
from flowzoo.validation import check_chart, check_context, check_positive, check_rows, check_step

Direction = Literal["encode", "decode", "both"]


class BaseFlow(nn.Module, ABC):
    """A map between data x (N, features) and latent z (N, latent_features).

    Subclasses implement ``_encode`` and ``_decode``; both return a Step whose ``log_abs_det`` is
    log|det dz/dx| (for an injection, -1/2 log det JᵀJ of the decoder).

    Args:
        features: D, columns of x.
        latent_features: d, columns of z; D when None.
        context_features: C, columns of ``context``; 0 for an unconditional flow.
        num_charts: number of charts for a flow indexed by ``chart``; None for a flow that is not.
        fast: the direction that costs one pass.
    """

    packable: ClassVar[bool] = True  # False where vmap cannot run the module
    fast: Direction

    def __init__(
        self,
        features: int,
        *,
        latent_features: int | None = None,
        context_features: int = 0,
        num_charts: int | None = None,
        fast: Direction = "both",
    ) -> None:
        super().__init__()
        self.features = check_positive("features", features)
        self.latent_features = features if latent_features is None else latent_features
        if context_features < 0:
            raise ValueError(f"context_features: expected >= 0, got {context_features}")
        self.context_features = context_features
        self.num_charts = num_charts
        self.fast = fast

    def encode(self, x: Tensor, context: Tensor | None = None, chart: Tensor | None = None) -> Step:
        """Data (N, D) to latent (N, d).

        Args:
            x: data, (N, D).
            context: conditioning, (N, C), exactly when ``context_features`` > 0.
            chart: chart indices, (N,) int64, exactly when ``num_charts`` is set.

        Returns:
            z (N, d) and log|det dz/dx| (N,), nats.

        Raises:
            ValueError: a wrong shape or dtype, or context missing or unexpected.
        """
        check_rows("x", x, self.features)
        context = check_context(context, self.context_features, len(x))
        step = self._encode(x, context, check_chart(chart, self.num_charts, len(x)))
        check_step(step, len(x), self.latent_features, f"{type(self).__name__}.encode")
        return step

    def decode(self, z: Tensor, context: Tensor | None = None, chart: Tensor | None = None) -> Step:
        """Latent (N, d) to data (N, D); the volume term is still log|det dz/dx|. See ``encode``."""
        check_rows("z", z, self.latent_features)
        context = check_context(context, self.context_features, len(z))
        step = self._decode(z, context, check_chart(chart, self.num_charts, len(z)))
        check_step(step, len(z), self.features, f"{type(self).__name__}.decode")
        return step

    @abstractmethod
    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step: ...

    @abstractmethod
    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step: ...

    def layers(self) -> Sequence[BaseFlow]:
        """The flow taken apart, from x to z; composed in order they are ``encode``.

        Raises:
            TypeError: the flow cannot be taken apart.
        """
        return (self,)
