"""How a mixture trains an injection: the stages around maximum likelihood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowzoo.interfaces.stage import Stage
from flowzoo.layers.thickened import Thickened
from flowzoo.training.modes import evaluating

Given = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class InjectiveTraining:
    """The stages that a thickened injection needs besides maximum likelihood, by its ``mode``.

    * ``sequential``: ``embedding`` (placed by the data, closed form), ``reconstruction``,
      ``thickness`` (closed form), then the likelihood of the flow on R^d; the embedding is fixed.
      As the density of z is then the only thing trained, the likelihood in R^D and that on the
      manifold have the same gradient.
    * ``joint``: ``embedding``, then the stage ``joint``, -a log p on the manifold + b mean squared
      error of the reconstruction, as a share of the data's variance; then ``thickness``.
    * ``thickened``: ``embedding``, ``thickness``, then everything, sigma too, by the likelihood in
      R^D, which weighs the squared error by 1 / (2 sigma^2).

    Attributes:
        model: the mixture.
        flow: the thickened injection in it.
        prefix: its dotted name within the mixture.
        given: the keywords ``context`` and ``chart`` it takes for rows x, of their nearest chart.
    """

    model: nn.Module
    flow: Thickened
    prefix: str
    given: Given

    def before(self) -> tuple[Stage, ...]:
        """The stages before maximum likelihood."""
        mode = self.flow.injection.mode
        stages = [Stage("embedding", groups=(), prepare=self._place)]
        if mode == "sequential":
            reconstruction = self.flow.injection.reconstruction_stage(
                self._error, self._names(self.flow.injection.embedding_names)
            )
            stages += [] if reconstruction is None else [reconstruction]
        if mode != "joint":
            stages.append(self._thickness())
        return tuple(stages)

    def after(self) -> tuple[Stage, ...]:
        """The stages after maximum likelihood."""
        return (self._thickness(),) if self.flow.injection.mode == "joint" else ()

    def name(self) -> str:
        """The name of the stage between: the joint objective is no likelihood."""
        return "joint" if self.flow.injection.mode == "joint" else "maximum-likelihood"

    def trained(self) -> tuple[str, ...]:
        """Names of what maximum likelihood trains, as the mixture sees them."""
        injection = self.flow.injection
        if injection.mode == "sequential":
            return self._names(injection.flow_names)
        if injection.mode == "joint":
            return (f"{self.prefix}.injection",)
        return (self.prefix,)

    def joint_loss(self, x: Tensor, log_prob: Tensor) -> Tensor:
        """-a log p on the manifold + b relative squared error, (N,), for ``log_prob`` (N,) of x.

        The error is a share of the data's mean variance, so the weights mean the same in any units.
        """
        a, b = self.flow.injection.joint_weights
        return b * self._error(x, x, 0.0) / self.flow.variance - a * log_prob

    def _names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{self.prefix}.injection.{name}".rstrip(".") for name in names)

    def _thickness(self) -> Stage:
        return Stage("thickness", groups=(), prepare=self._fit)

    def _error(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        """Mean over columns of the squared reconstruction error, (N,)."""
        point = self.flow.injection.reconstruct(x, **self.given(x))
        return (x - point).square().mean(dim=1)

    @torch.no_grad()
    def _place(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        with evaluating(self.model):
            chart = self.given(x_train).get("chart")
            self.flow.measure(x_train)
            self.flow.injection.initialise(x_train, chart, generator)

    @torch.no_grad()
    def _fit(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        with evaluating(self.model):
            self.flow.fit(x_train, **self.given(x_train))
