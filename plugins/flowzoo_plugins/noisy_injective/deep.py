"""Deep noisy injective flows: a flow, a noisy injection, and a flow again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from flowzoo.importance import ImportanceEstimate, Weights, weighted_draws
from flowzoo.interfaces import LOWER_BOUND, BaseFlow, Evaluation, Likelihood, Mixture, Stage
from flowzoo.mixtures import Frame, build_frame
from flowzoo.options import check_options, nearest
from flowzoo.priors import StandardNormal
from flowzoo.priors.noisy_injective_gaussian import Embedding, NoisyInjectiveGaussian
from flowzoo.registry import build_part
from flowzoo.training.modes import as_in_training
from flowzoo.training.options import TrainingOptions
from flowzoo.validation import check_draw, check_finite, check_number, check_positive, check_rows
from flowzoo_plugins.noisy_injective.gaussian import GaussianInjection, UpSamplingInjection
from flowzoo_plugins.noisy_injective.injection import NoisyInjection
from flowzoo_plugins.noisy_injective.stochastic_coupling import StochasticCoupling

Objective = Literal["importance", "elbo"]
Start = Literal["principal", "random"]

_INJECTIONS: dict[str, type[NoisyInjection]] = {
    "gaussian": GaussianInjection,
    "up-sampling": UpSamplingInjection,
    "stochastic-coupling": StochasticCoupling,
}
_TRAINING: Mapping[str, Any] = {
    "epochs": 100,
    "lr": 1e-4,
    "batch_size": 128,
    "patience": 10,
    "clip_norm": 5.0,  # as the authors' code
}
_START_ROWS = 2**14


class DeepNIF(Mixture):
    r"""A flow on few columns, a noisy injection into many, and a flow on the many.

    .. math:: e \sim N(0, I_d), \quad z = h^{-1}(e), \quad y \sim p(y|z), \quad x = f^{-1}(y)

    .. math:: \log p(x) = \log \int p_z(z)\, p(f(x)|z)\,dz + \log\lvert\det J_f(x)\rvert

    The integral has no closed form. With the injection's stochastic inverse q(z|y) as proposal,
    ``importance`` estimates it by

    .. math:: \log \frac1S \sum_s p_z(z_s) \frac{p(y|z_s)}{q(z_s|y)}, \qquad z_s \sim q(z|y)

    which is too low in expectation, the less the larger S (``importance_estimate``), and
    ``elbo`` bounds it by the expectation of the logarithm of a term, from as many draws. Without a
    latent flow a Gaussian injection has a closed form: then ``exact`` stands first, and ``elbo``
    needs no draws.

    Source: Cunningham et al. (2020), section 3.4 and B.5; importance weights in place of eq. 7, as
    their code trains.

    Args:
        features: D.
        latent_features: d; by default what the injection takes, half of D rounded up.
        latent_flow: h, on R^d: name, ``{"name": ..., **options}``, a built flow, or ``none``.
        base_flow: f, on R^D, in the same way.
        injection: ``gaussian``, ``up-sampling`` or ``stochastic-coupling``, with options as
            ``{"name": ..., **options}``, or a built one.
        objective: what is maximised: ``importance``, the expectation of the estimate by
            ``training_samples`` draws, or ``elbo``.
        training_samples: draws a row in training; their code takes 16 to 32.
        num_samples: S, draws a row in evaluations.
        frame: ``pca`` whitens the data by their moments before the base flow, ``rotation`` turns
            them to their principal axes, ``similarity`` also gives the longest unit variance,
            ``none`` leaves them.
        start: ``principal`` starts a Gaussian injection at the data's principal directions; other
            injections, and ``random``, start with orthogonal columns of A.
        training: changes to 100 epochs of Adam at 1e-4, batches of 128, patience 10, gradient norm
            at most 5.

    Raises:
        ValueError: an option out of range, or parts that do not fit.

    Example:
        >>> small = {"name": "realnvp", "layers": 2, "hidden": [8]}
        >>> model = DeepNIF(3, latent_features=1, latent_flow=small, base_flow=small).eval()
        >>> model.log_prob(torch.zeros(4, 3), num_samples=10).shape
        torch.Size([4])
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"embed", "reconstruct", "noise_scale", "importance_estimate"}
    )

    def __init__(
        self,
        features: int,
        *,
        latent_features: int | None = None,
        latent_flow: str | Mapping[str, Any] | BaseFlow | None = "realnvp",
        base_flow: str | Mapping[str, Any] | BaseFlow | None = "realnvp",
        injection: str | Mapping[str, Any] | NoisyInjection = "gaussian",
        objective: Objective = "importance",
        training_samples: int = 16,
        num_samples: int = 256,
        frame: Frame = "none",
        start: Start = "principal",
        training: Mapping[str, Any] | TrainingOptions | None = None,
    ) -> None:
        super().__init__(features)
        for name, value, known in (
            ("objective", objective, get_args(Objective)),
            ("start", start, get_args(Start)),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {known}, got {value!r}")
        self.objective, self.start = objective, start
        self.training_samples = check_positive("training_samples", training_samples)
        self.num_samples = check_positive("num_samples", num_samples)
        self.injection = build_injection(injection, features, latent_features)
        self.latent_features = self.injection.latent_features
        self.latent_prior = StandardNormal(self.latent_features)
        self.latent_flow = _flow("latent_flow", latent_flow, self.latent_features)
        self.base_flow = _flow("base_flow", base_flow, features)
        self.frame = build_frame(frame, features)
        self.training_options = TrainingOptions.of(training, _TRAINING)
        self.evaluations = {
            "importance": Evaluation(Likelihood("estimate", self.num_samples)),
            "elbo": Evaluation(LOWER_BOUND),
        }
        if self._closed_form() is not None:
            self.evaluations = {"exact": Evaluation(), **self.evaluations}

    # -- training --------------------------------------------------------------------------------

    def stages(self) -> tuple[Stage, ...]:
        """A start by the data, then one stage by the objective, over all parameters."""
        return (
            Stage("start", groups=(), prepare=self._place),
            self.training_options.stage(
                self.objective,
                self._loss,
                noise_features=self.training_samples * self.latent_features,
            ),
        )

    @torch.no_grad()
    def _place(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        if self.frame is not None:
            self.frame.fit(x_train)
        rows = x_train[:_START_ROWS]
        if self.start == "random" or len(rows) < 2:
            return
        with as_in_training(self):
            self.injection.start(self._to_codes(rows)[0], rows)

    def _loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        y, log_abs_det = self._to_codes(x)
        draws = noise.reshape(len(x), self.training_samples, self.latent_features)
        _, log_weight = self._weigh(y, draws)
        if self.objective == "elbo":
            return -(log_weight.mean(dim=1) + log_abs_det)
        bound = log_weight.logsumexp(dim=1) - math.log(self.training_samples)
        return -(bound + log_abs_det)

    # -- density ---------------------------------------------------------------------------------

    def _log_prob(
        self,
        x: Tensor,
        evaluation: str,
        num_samples: int | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        y, log_abs_det = self._to_codes(x)
        closed_form = self._closed_form()
        if closed_form is not None and evaluation != "importance":
            density = closed_form.elbo if evaluation == "elbo" else closed_form.log_prob
            return density(y) + log_abs_det
        weights = self._weights(y, num_samples, generator)
        found = weights.mean_log() if evaluation == "elbo" else weights.log_mean()
        return found + log_abs_det

    @torch.no_grad()
    def importance_estimate(
        self,
        x: Tensor,
        *,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> ImportanceEstimate:
        """The evaluation ``importance``, how many of its S draws count, and its bias, (N,) each.

        An effective sample size far below S tells of a poor estimate; of few draws it may still
        look well where q misses most of the posterior. Without gradients.

        Raises:
            ValueError: bad rows as in ``log_prob``, or ``num_samples`` is no count.
        """
        check_finite("x", check_rows("x", x, self.features, self._reference()))
        y, log_abs_det = self._to_codes(x)
        found = self._weights(y, num_samples, generator).estimate()
        return found._replace(log_prob=found.log_prob + log_abs_det)

    def _weights(
        self, y: Tensor, num_samples: int | None, generator: torch.Generator | None
    ) -> Weights:
        return weighted_draws(
            self._weigh,
            y,
            self.latent_features,
            self._count(num_samples),
            numbers_per_draw=self.injection.numbers_per_draw,
            generator=generator,
        )

    def _weigh(self, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """e (N, K, d) of draws of q(z|y), and log p_z(z) + log p(y|z) - log q(z|y), (N, K)."""
        z, log_ratio = self.injection.invert(y, noise)
        e = z.reshape(-1, self.latent_features)
        if self.latent_flow is None:
            log_p = self.latent_prior.log_prob(e)
        else:
            e, log_abs_det = self.latent_flow.encode(e)
            log_p = self.latent_prior.log_prob(e) + log_abs_det
        return e.reshape(z.shape), log_p.reshape(log_ratio.shape) + log_ratio

    def _closed_form(self) -> NoisyInjectiveGaussian | None:
        """The density of y = f(x) where it is known."""
        marginal = self.injection.marginal
        known = self.latent_flow is None and isinstance(marginal, NoisyInjectiveGaussian)
        return marginal if known else None  # type: ignore[return-value]

    def _count(self, num_samples: int | None) -> int:
        return (
            self.num_samples if num_samples is None else check_positive("num_samples", num_samples)
        )

    # -- between data and latent space -----------------------------------------------------------

    def embed(
        self,
        x: Tensor,
        *,
        rule: Embedding = "pseudo-inverse",
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """e of x (N, D), (N, d), in the space where the model is N(0, I).

        ``pseudo-inverse`` is h at the mode of the stochastic inverse of y = f(x), with no draws;
        ``posterior-mean`` is the mean of e given x, in closed form without a latent flow under a
        Gaussian injection, else by ``num_samples`` weighted draws.

        Raises:
            ValueError: x has the wrong shape, dtype or device, or an unknown rule.
        """
        if rule not in get_args(Embedding):
            raise ValueError(f"rule: expected one of {get_args(Embedding)}, got {rule!r}")
        check_rows("x", x, self.features, self._reference())
        y, _ = self._to_codes(x)
        if rule == "pseudo-inverse":
            z = self.injection.embed(y)
            return z if self.latent_flow is None else self.latent_flow.encode(z).value
        closed_form = self._closed_form()
        if closed_form is not None:
            return closed_form.embed(y, rule=rule)
        return self._weights(y, num_samples, generator).mean

    def reconstruct(self, x: Tensor) -> Tensor:
        """The point of the manifold at the pseudo-inverse of x (N, D), (N, D).

        Source: Cunningham et al. (2020), B.3.

        Raises:
            ValueError: x has the wrong shape, dtype or device.
        """
        check_rows("x", x, self.features, self._reference())
        y, _ = self._to_codes(x)
        return self._to_data(self.injection.place(self.injection.embed(y)))

    def sample(
        self,
        num: int,
        *,
        temperature: float = 1.0,
        noise_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """``num`` draws, (num, D).

        Args:
            num: how many.
            temperature: t, a factor on the standard deviation of e.
            noise_scale: s, a factor on the standard deviation of the noise around the manifold;
                at 0 draws lie on it.
            generator: where randomness comes from.

        Raises:
            ValueError: ``num``, ``temperature`` or ``noise_scale`` out of range.
        """
        check_draw(num, temperature)
        scale = check_number("noise_scale", noise_scale)
        return self._sample(num, temperature, generator, scale)

    @torch.no_grad()
    def _sample(
        self,
        num: int,
        temperature: float,
        generator: torch.Generator | None,
        noise_scale: float = 1.0,
    ) -> Tensor:
        z = self.latent_prior.sample(num, temperature=temperature, generator=generator)
        if self.latent_flow is not None:
            z = self.latent_flow.decode(z).value
        shape = (num, self.features)
        noise = torch.randn(shape, generator=generator, dtype=z.dtype, device=z.device)
        return self._to_data(self.injection.draw(z, noise, noise_scale=noise_scale))

    def _to_codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y = f(x) (N, D) and log|det J_f| (N,)."""
        total = x.new_zeros(len(x))
        for flow in (self.frame, self.base_flow):
            if flow is not None:
                x, log_abs_det = flow.encode(x)
                total = total + log_abs_det
        return x, total

    def _to_data(self, y: Tensor) -> Tensor:
        for flow in (self.base_flow, self.frame):
            if flow is not None:
                y = flow.decode(y).value
        return y


def build_injection(
    injection: str | Mapping[str, Any] | NoisyInjection, features: int, latent_features: int | None
) -> NoisyInjection:
    """An injection of R^latent_features into R^features, as written in Python or TOML.

    Args:
        injection: a name, a mapping ``{"name": ..., **options}``, or a built one.
        features: D.
        latent_features: d; None leaves it to the injection.

    Raises:
        ValueError: an unknown name, a wrong option, or a built injection of another size.
    """
    if isinstance(injection, NoisyInjection):
        for name, wanted in (("features", features), ("latent_features", latent_features)):
            found = getattr(injection, name)
            if wanted not in (None, found):
                raise ValueError(f"injection: expected {name}={wanted}, got {found}")
        return injection
    options: dict[str, Any] = (
        dict(injection) if isinstance(injection, Mapping) else {"name": injection}
    )
    name = options.pop("name", None)
    if name not in _INJECTIONS:
        raise ValueError(
            f"injection: expected one of {list(_INJECTIONS)}, got {name!r}"
            f"{nearest(str(name), _INJECTIONS)}"
        )
    sizes = {"features": features, "latent_features": latent_features}
    for size in sizes:
        if size in options:
            raise ValueError(f"injection {name!r}: {size}: set by the model to {sizes[size]}")
    target = _INJECTIONS[name]
    return target(**check_options(target, {**options, **sizes}, f"injection {name!r}"))


def _flow(
    name: str, flow: str | Mapping[str, Any] | BaseFlow | None, features: int
) -> BaseFlow | None:
    if flow is None or flow == "none":
        return None
    built: BaseFlow = build_part("base-flow", flow, features=features)
    sizes = (built.features, built.latent_features, built.context_features, built.num_charts)
    if sizes != (features, features, 0, None):
        raise ValueError(
            f"{name}: expected (features, latent_features, context_features, num_charts) "
            f"= ({features}, {features}, 0, None), got {sizes}"
        )
    return built
