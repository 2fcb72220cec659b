"""One flow over all of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowzoo.interfaces import (
    EXACT,
    BaseFlow,
    Evaluation,
    Injection,
    Measure,
    Mixture,
    Prior,
    Stage,
)
from flowzoo.layers import Thickened, surface_log_prob
from flowzoo.priors import Product, StandardNormal, build_prior
from flowzoo.registry import build_part
from flowzoo.training.injective import InjectiveTraining
from flowzoo.training.options import TrainingOptions
from flowzoo.validation import check_rows

_TRAINING: Mapping[str, Any] = {"epochs": 100, "lr": 1e-4, "batch_size": 128, "patience": 10}


class GlobalFlow(Mixture):
    r"""One base flow, no charts: what local flows are compared with.

    .. math:: \log p(x) = \log q(f(x)) + \log\lvert\det J_f(x)\rvert

    With the prior ``uniform-ball`` the map onto the ball follows the base flow. ``sample`` at
    temperature t scales the prior's spread by t.

    An injection (``cef``) as base flow is thickened: the default evaluation, ``thickened``, is an
    exact density in R^D and what ``sample`` draws from; ``manifold`` is the density against surface
    area at ``reconstruct(x)``, which says nothing without the distance from x to there.

    Source: Sidheekh et al. (2022), eq. 1-4; training as in their section 5 by default.

    Args:
        features: D.
        base_flow: name, ``{"name": ..., **options}`` or a built, unconditional flow.
        prior: ``standard-normal``, ``uniform-ball`` or a built prior, of the flow's latent space.
        training: changes to 100 epochs of Adam at 1e-4, batches of 128, patience 10.

    Raises:
        ValueError: a flow or prior that does not fit: wrong number of columns, conditional, or
            of fewer latent columns without being an ``Injection``.

    Example:
        >>> model = GlobalFlow(2, base_flow={"name": "realnvp", "layers": 2, "hidden": [8]})
        >>> model.log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    evaluations: Mapping[str, Evaluation] = {"exact": Evaluation()}
    capabilities: ClassVar[frozenset[str]] = frozenset({"sample_and_log_prob", "embed"})

    def __init__(
        self,
        features: int,
        *,
        base_flow: Mapping[str, Any] | str | BaseFlow = "realnvp",
        prior: str | Prior = "standard-normal",
        training: Mapping[str, Any] | TrainingOptions | None = None,
    ) -> None:
        super().__init__(features)
        flow: BaseFlow = build_part("base-flow", base_flow, features=features)
        self.injection_features = None  # d of an injection
        if isinstance(flow, Injection):
            self.injection_features = flow.latent_features
            flow = Thickened(flow)
        sizes = (flow.features, flow.latent_features, flow.context_features, flow.num_charts)
        if sizes != (features, features, 0, None):
            raise ValueError(
                f"base_flow: expected (features, latent_features, context_features, num_charts) "
                f"= ({features}, {features}, 0, None), got {sizes}"
            )
        self.base_flow = flow
        latent = self.injection_features or features
        latent_prior = prior if isinstance(prior, Prior) else build_prior(prior, latent)
        if (latent_prior.features, latent_prior.context_features) != (latent, 0):
            raise ValueError(
                f"prior: expected features={latent} without context, got features="
                f"{latent_prior.features}, context_features={latent_prior.context_features}"
            )
        self.prior = latent_prior
        if self.injection_features is not None:
            self.prior = Product([latent_prior, StandardNormal(features - latent)])
            self.evaluations = {
                "thickened": Evaluation(),
                "manifold": Evaluation(EXACT, Measure("surface", dim=latent, learned=True)),
            }
            self.capabilities = self.capabilities | {"reconstruct"}  # type: ignore[misc]
        self.support_map = self.prior.support_map()
        self.training_options = TrainingOptions.of(training, _TRAINING)

    def embed(self, x: Tensor) -> Tensor:
        """z = f(x), (N, D); (N, d) for an injection.

        Raises:
            ValueError: x has the wrong shape, dtype or device.
        """
        z = self._encode(check_rows("x", x, self.features, self._reference()))[0]
        return z[:, : self.injection_features]

    def reconstruct(self, x: Tensor) -> Tensor:
        """The point of the manifold that x (N, D) is taken to, (N, D).

        Raises:
            TypeError: the base flow is no injection.
            ValueError: x has the wrong shape, dtype or device.
        """
        check_rows("x", x, self.features, self._reference())
        return self._thickened().injection.reconstruct(x)

    def transform_layers(self, x: Tensor) -> list[Tensor]:
        """The data after each of ``base_flow.layers()``, from x to z, each (N, D).

        Raises:
            TypeError: the base flow cannot be taken apart.
            ValueError: x has the wrong shape, dtype or device.
        """
        check_rows("x", x, self.features, self._reference())
        after = []
        for layer in self.base_flow.layers():
            x = layer.encode(x).value
            after.append(x)
        return after

    def sample_and_log_prob(
        self, num: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """``num`` draws (num, D) and their log-density in nats (num,), in one pass.

        Raises:
            ValueError: ``num`` is negative.
        """
        if num < 0:
            raise ValueError(f"num: expected >= 0, got {num}")
        z = self.prior.sample(num, generator=generator)
        x, log_abs_det = self._decode(z)
        return x, self.prior.log_prob(z) + log_abs_det

    def stages(self) -> tuple[Stage, ...]:
        """One stage, ``maximum-likelihood``, over all parameters; more for an injection."""
        if self.injection_features is None:
            return (self.training_options.stage("maximum-likelihood", self._loss),)
        around = self._injective_training()
        return (
            *around.before(),
            self.training_options.stage(
                around.name(), self._loss, groups=(*around.trained(), "prior")
            ),
            *around.after(),
        )

    def _injective_training(self) -> InjectiveTraining:
        return InjectiveTraining(self, self._thickened(), "base_flow", _nothing)

    def _thickened(self) -> Thickened:
        if not isinstance(self.base_flow, Thickened):
            raise TypeError("base_flow: expected an injection, this flow keeps the dimension")
        return self.base_flow

    def _loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        if self.injection_features is not None and self._thickened().injection.mode == "joint":
            log_prob = self._log_prob(x, "manifold", None, None)
            return self._injective_training().joint_loss(x, log_prob)
        return -self._log_prob(x, next(iter(self.evaluations)), None, None)

    def _log_prob(
        self,
        x: Tensor,
        evaluation: str,
        num_samples: int | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        if evaluation == "manifold":
            prior = self.prior.part(0) if isinstance(self.prior, Product) else self.prior
            return surface_log_prob(self._thickened().injection, prior, x)
        z, log_abs_det = self._encode(x)
        return self.prior.log_prob(z) + log_abs_det

    @torch.no_grad()
    def _sample(self, num: int, temperature: float, generator: torch.Generator | None) -> Tensor:
        z = self.prior.sample(num, temperature=temperature, generator=generator)
        return self._decode(z)[0]

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (N, D) and log|det dz/dx| (N,)."""
        z, log_abs_det = self.base_flow.encode(x)
        if self.support_map is None:
            return z, log_abs_det
        z, squash = self.support_map.encode(z)
        return z, log_abs_det + squash

    def _decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, D) and log|det dz/dx| (N,)."""
        if self.support_map is None:
            return self.base_flow.decode(z)
        z, squash = self.support_map.decode(z)
        x, log_abs_det = self.base_flow.decode(z)
        return x, log_abs_det + squash


def _nothing(x: Tensor) -> dict[str, Tensor]:
    """The keywords an unconditional flow without charts takes."""
    return {}
