"""One base flow over any prior: what global flows and noisy injective flows are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

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
    Step,
)
from flowzoo.interfaces.stage import Prepare
from flowzoo.layers import Thickened, Whitening, surface_log_prob
from flowzoo.layers.whitening import Scaling
from flowzoo.priors import Product, StandardNormal, build_prior
from flowzoo.registry import build_part
from flowzoo.training.injective import InjectiveTraining
from flowzoo.training.options import TrainingOptions
from flowzoo.validation import check_draw, check_rows

Frame = Literal["none", "pca", "rotation", "similarity"]
_SCALING: Mapping[str, Scaling] = {"pca": "axes", "rotation": "none", "similarity": "longest"}
_TRAINING: Mapping[str, Any] = {"epochs": 100, "lr": 1e-4, "batch_size": 128, "patience": 10}


class FlowOverPrior(Mixture):
    r"""A base flow f over a prior q, trained by maximum likelihood.

    .. math:: \log p(x) = \log q(f(x)) + \log\lvert\det J_f(x)\rvert

    A prior on a part of R^d, as ``uniform-ball``, brings the map onto its support, which follows
    the base flow. ``sample`` at temperature t scales the prior's spread by t.

    An injection (``cef``) as base flow is thickened: the default evaluation, ``thickened``, is an
    exact density in R^D and what ``sample`` draws from; ``manifold`` is the density against surface
    area at ``reconstruct(x)``, which says nothing without the distance from x to there.

    Args:
        features: D.
        base_flow: name, ``{"name": ..., **options}`` or a built, unconditional flow.
        prior: name, ``{"name": ..., **options}`` or a built prior, of the flow's latent space.
        frame: a map by the data's moments before the base flow: ``pca`` whitens them, ``rotation``
            only turns them to their principal axes, ``similarity`` also divides them by the
            standard deviation along the longest, ``none`` leaves them.
        training: changes to 100 epochs of Adam at 1e-4, batches of 128, patience 10.

    Raises:
        ValueError: a flow or prior that does not fit: wrong number of columns, conditional, or
            of fewer latent columns without being an ``Injection``; a frame before an injection.

    Example:
        >>> flow = {"name": "realnvp", "layers": 2, "hidden": [8]}
        >>> model = FlowOverPrior(2, base_flow=flow, prior="uniform-ball")
        >>> model.log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    evaluations: Mapping[str, Evaluation] = {"exact": Evaluation()}
    capabilities: ClassVar[frozenset[str]] = frozenset({"sample_and_log_prob", "embed", "codes"})

    def __init__(
        self,
        features: int,
        *,
        base_flow: Mapping[str, Any] | str | BaseFlow = "realnvp",
        prior: Mapping[str, Any] | str | Prior = "standard-normal",
        frame: Frame = "none",
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
        self.prior = build_prior(prior, latent)
        if self.injection_features is not None:
            self.prior = Product([self.prior, StandardNormal(features - latent)])
            self.evaluations = {
                "thickened": Evaluation(),
                "manifold": Evaluation(EXACT, Measure("surface", dim=latent, learned=True)),
            }
            self.capabilities = self.capabilities | {"reconstruct"}  # type: ignore[misc]
        self.support_map = self.prior.support_map()
        if frame != "none" and self.injection_features is not None:
            raise ValueError("frame: expected 'none' before an injection, which finds its own")
        self.frame = build_frame(frame, features)
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

    def codes(self, x: Tensor) -> Tensor:
        """f(x) whole, (N, D): what the prior is a density of.

        Raises:
            ValueError: x has the wrong shape, dtype or device.
        """
        return self._encode(check_rows("x", x, self.features, self._reference()))[0]

    @torch.no_grad()
    def sample_codes(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws of the prior, (num, D).

        Raises:
            ValueError: ``num`` is negative.
        """
        check_draw(num, 1.0)
        return self.prior.sample(num, generator=generator)

    def transform_layers(self, x: Tensor) -> list[Tensor]:
        """The data after the frame and each of ``base_flow.layers()``, from x to z, each (N, D).

        Raises:
            TypeError: the base flow cannot be taken apart.
            ValueError: x has the wrong shape, dtype or device.
        """
        check_rows("x", x, self.features, self._reference())
        after = []
        for layer in (*([self.frame] if self.frame else []), *self.base_flow.layers()):
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
        """``frame`` where there is one, then ``maximum-likelihood``; more for an injection."""
        frame = () if self.frame is None else (_closed("frame", self._fit_frame),)
        return (*frame, *self._flow_stages())

    def _flow_stages(self) -> tuple[Stage, ...]:
        options = self.training_options
        if self.injection_features is None:
            return (*self._prior_stages(), options.stage("maximum-likelihood", self._loss))
        around = self._injective_training()
        return (
            *around.before(),
            *self._prior_stages(),
            options.stage(around.name(), self._loss, groups=(*around.trained(), "prior")),
            *around.after(),
        )

    def _prior_stages(self) -> tuple[Stage, ...]:
        """Closed-form stages that place the prior, once the data reach it."""
        return ()

    def _code_prior(self) -> Prior:
        """The prior of what ``embed`` starts from: of z, or of an injection's d columns."""
        return self.prior.part(0) if isinstance(self.prior, Product) else self.prior

    def _injective_training(self) -> InjectiveTraining:
        return InjectiveTraining(self, self._thickened(), "base_flow", _nothing)

    def _thickened(self) -> Thickened:
        if not isinstance(self.base_flow, Thickened):
            raise TypeError("base_flow: expected an injection, this flow keeps the dimension")
        return self.base_flow

    @torch.no_grad()
    def _fit_frame(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        if self.frame is not None:
            self.frame.fit(x_train)

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
            return surface_log_prob(self._thickened().injection, self._code_prior(), x)
        z, log_abs_det = self._encode(x)
        return self.prior.log_prob(z) + log_abs_det

    @torch.no_grad()
    def _sample(self, num: int, temperature: float, generator: torch.Generator | None) -> Tensor:
        z = self.prior.sample(num, temperature=temperature, generator=generator)
        return self._decode(z)[0]

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (N, D) and log|det dz/dx| (N,)."""
        volume = x.new_zeros(len(x))
        for part in (self.frame, self.base_flow, self.support_map):
            if part is not None:
                x, change = part.encode(x)
                volume = volume + change
        return x, volume

    def _decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, D) and log|det dz/dx| (N,)."""
        volume = z.new_zeros(len(z))
        for part in (self.support_map, self.base_flow, self.frame):
            if part is not None:
                z, change = part.decode(z)
                volume = volume + change
        return z, volume


def build_frame(frame: Frame, features: int) -> Whitening | None:
    """The map in front of a flow on R^features, see ``FlowOverPrior``; None for ``none``.

    Raises:
        ValueError: an unknown name.
    """
    if frame not in get_args(Frame):
        raise ValueError(f"frame: expected one of {get_args(Frame)}, got {frame!r}")
    return None if frame == "none" else Whitening(features, scaling=_SCALING[frame])


def into_frame(frame: Whitening | None, x: Tensor) -> Step:
    """x (N, D) after the frame, with its volume term (N,); x itself without one."""
    return Step(x, x.new_zeros(len(x))) if frame is None else frame.encode(x)


def _closed(name: str, prepare: Prepare) -> Stage:
    return Stage(name=name, groups=(), prepare=prepare)


def _nothing(x: Tensor) -> dict[str, Tensor]:
    """The keywords an unconditional flow without charts takes."""
    return {}
