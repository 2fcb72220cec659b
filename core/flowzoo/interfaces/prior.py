"""The contract of a density on the latent space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from flowzoo.interfaces.base_flow import BaseFlow
from flowzoo.validation import check_positive


class Prior(nn.Module, ABC):
    """A density of z (N, features), conditional on ``context`` where ``context_features`` > 0."""

    noise_knob: ClassVar[bool] = False  # whether ``noise_scale`` changes its draws

    def __init__(self, features: int, *, context_features: int = 0) -> None:
        super().__init__()
        self.features = check_positive("features", features)
        self.context_features = context_features

    @abstractmethod
    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """log q(z) in nats, (N,), for z (N, d)."""

    @abstractmethod
    def sample(
        self,
        num: int,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        noise_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """``num`` draws, (num, d); ``temperature`` scales the spread, 1 is the prior itself.

        ``noise_scale`` is a factor on the standard deviation of what the prior calls noise, where
        it has some (``noise_knob``); others ignore it.
        """

    @property
    def noise_features(self) -> int:
        """Standard normal numbers that ``from_normal`` turns into one draw; d unless it says so."""
        return self.features

    @abstractmethod
    def from_normal(self, noise: Tensor) -> Tensor:
        """Turn standard normal numbers (N, noise_features) into draws, also under vmap."""

    def support_map(self) -> BaseFlow | None:
        """The bijection from R^d (data side) onto the support (latent side); None for R^d."""
        return None
