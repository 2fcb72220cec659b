"""A base flow over a Gaussian around a plane: noisy injective flows with an exact density."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from flowzoo.interfaces import LOWER_BOUND, BaseFlow, Evaluation, Stage
from flowzoo.low_rank import DenseLoading, Loading, principal_start
from flowzoo.mixtures import FlowOverPrior, Frame
from flowzoo.priors import NoisyInjectiveGaussian, StandardNormal
from flowzoo.priors.noisy_injective_gaussian import Embedding, SampleNoise
from flowzoo.training.modes import as_in_training
from flowzoo.training.options import TrainingOptions
from flowzoo.validation import check_draw, check_finite, check_number, check_rows

Start = Literal["principal", "random"]
_ROWS = 20_000  # of the training data that a principal start looks at


class NoisyInjectiveFlow(FlowOverPrior):
    r"""A bijection f over a plane with noise: data near a curved manifold of d dimensions.

    .. math:: x = f^{-1}(A z + b + \varepsilon), \quad z \sim N(0, I_d), \quad
              \varepsilon \sim N(0, \Sigma)

    .. math:: \log p(x) = \log N(f(x); b, A A^\top + \Sigma) + \log\lvert\det J_f(x)\rvert

    an exact density in R^D, at O(D d^2) a batch on top of f. Evaluations: ``exact``; ``elbo``, the
    paper's bound by its stochastic inverse, which the exact density makes a diagnostic (none with
    ``ard``: it is minus infinity where a column of A is empty). An injection as base flow is
    thickened, as in ``FlowOverPrior``, and the plane lies in its R^d.

    ``sample`` has two knobs: ``temperature``, a factor on the standard deviation of z, and
    ``noise_scale``, one on that of the noise; at ``noise_scale`` 0 draws lie on the manifold.

    Source: Cunningham et al. (2020), section 4 and A.8, with the corrections that
    ``NoisyInjectiveGaussian`` lists. The principal start and the automatic dimension are ours.

    Args:
        features: D.
        latent_features: d; half of D, rounded up, when None.
        base_flow: name, ``{"name": ..., **options}`` or a built, unconditional flow.
        frame: ``pca`` whitens the data by their moments before the base flow, ``rotation`` turns
            them to their principal axes, ``similarity`` also gives the longest unit variance,
            ``none`` leaves them.
        loading: A: ``dense``, ``{"name": "up-sampling", "shape": ..., "factor": ...}``, or built.
        isotropic: one standard deviation of the noise for all columns.
        noise_std: the noise's standard deviation to start from, where the start is random.
        learn_noise: False keeps it.
        sample_noise: what ``sample`` adds: ``learned``, Sigma; ``identity``, I, as the paper's
            code does whatever Sigma it has learned.
        start: ``principal`` places A, b, Sigma by the moments of f(x) before training, such that A
            carries the most of the data's variance, see ``principal_start``; ``random`` is the
            paper's, A by Glorot and Sigma = noise_std^2 I. ``principal`` for a dense A when None.
        ard: weight of automatic relevance determination, which empties the columns of A that the
            likelihood does not need; 0 for none, 1 for the posterior mode. It finds the data's
            dimension where f preserves volume (``nice``, ``gin``) and Sigma is isotropic: any other
            f can turn noise into signal and back at no loss. After training, directions of the
            plane with less signal than noise are taken out, so that the manifold has the dimension
            found. It needs a principal start, no whitening and, with learned noise, d below D:
            else there is no noise to see, or no signal to begin with.
        training: changes to 100 epochs of Adam at 1e-4, batches of 128, patience 10.

    Raises:
        ValueError: an option out of range, or a flow that does not fit.

    Example:
        >>> flow = {"name": "realnvp", "layers": 2, "hidden": [8]}
        >>> model = NoisyInjectiveFlow(3, latent_features=1, base_flow=flow).eval()
        >>> x = model.sample(5, noise_scale=0.0)
        >>> torch.allclose(model.reconstruct(x), x, atol=1e-4)
        True
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"sample_and_log_prob", "embed", "reconstruct", "intrinsic_dimension", "noise_scale"}
    )

    num_train: Tensor  # (), training rows, which the penalty is shared by

    def __init__(
        self,
        features: int,
        *,
        latent_features: int | None = None,
        base_flow: Mapping[str, Any] | str | BaseFlow = "realnvp",
        frame: Frame = "none",
        loading: str | Mapping[str, Any] | Loading = "dense",
        isotropic: bool = False,
        noise_std: float = 1.0,
        learn_noise: bool = True,
        sample_noise: SampleNoise = "learned",
        start: Start | None = None,
        ard: float = 0.0,
        training: Mapping[str, Any] | TrainingOptions | None = None,
    ) -> None:
        prior = {
            "name": "noisy-injective-gaussian",
            "latent_features": latent_features,
            "loading": loading,
            "isotropic": isotropic,
            "noise_std": noise_std,
            "learn_noise": learn_noise,
            "sample_noise": sample_noise,
        }
        super().__init__(features, base_flow=base_flow, prior=prior, frame=frame, training=training)
        default = next(iter(self.evaluations))
        if ard == 0.0:
            self.evaluations = {
                default: self.evaluations[default],
                "elbo": Evaluation(LOWER_BOUND),
                **self.evaluations,
            }
        dense = isinstance(self.gaussian.loading, DenseLoading)
        if start is None:
            start = "principal" if dense else "random"
        if start not in get_args(Start):
            raise ValueError(f"start: expected one of {get_args(Start)}, got {start!r}")
        if start == "principal" and not dense:
            raise ValueError("start: expected 'random' for a loading that is not dense")
        self.start = start
        self.ard = check_number("ard", ard)
        if ard > 0.0:
            _check_ard(start, frame, self.gaussian)
        self.latent_features = self.gaussian.latent_features
        self.register_buffer("num_train", torch.ones(()))

    @property
    def gaussian(self) -> NoisyInjectiveGaussian:
        """The prior around the plane."""
        prior = self._code_prior()
        if not isinstance(prior, NoisyInjectiveGaussian):
            raise TypeError(f"prior: expected NoisyInjectiveGaussian, got {type(prior).__name__}")
        return prior

    # -- training --------------------------------------------------------------------------------

    def _prior_stages(self) -> tuple[Stage, ...]:
        return (Stage(name="start", groups=(), prepare=self._place),)

    @torch.no_grad()
    def _prune(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        self.gaussian.prune()

    def _penalty(self) -> Tensor:
        """ARD, a share of it each row."""
        return self.ard / self.num_train * self.gaussian.ard_penalty()

    def _flow_stages(self) -> tuple[Stage, ...]:
        stages = super()._flow_stages()
        if self.ard == 0.0:
            return stages
        penalised = (
            replace(stage, penalty=self._penalty)
            if stage.name in ("maximum-likelihood", "joint")
            else stage
            for stage in stages
        )
        return (*penalised, Stage(name="prune", groups=(), prepare=self._prune))

    @torch.no_grad()
    def _place(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        self.num_train.fill_(len(x_train))
        if self.start == "random" or len(x_train) < 2:
            return
        rows = x_train[:_ROWS]
        with as_in_training(self):
            code = self._code(rows)[0]
        self.gaussian.start(*principal_start(code, rows, self.latent_features))

    # -- density ---------------------------------------------------------------------------------

    def _log_prob(
        self,
        x: Tensor,
        evaluation: str,
        num_samples: int | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        if evaluation != "elbo":
            return super()._log_prob(x, evaluation, num_samples, generator)
        code, around, volume = self._code(x)
        return self.gaussian.elbo(code) + _standard_normal(around) + volume

    def gap(self, x: Tensor) -> Tensor:
        """What ``elbo`` lacks to the exact log-density: KL(q(z|x) || p(z|x)), (N,), nats.

        Raises:
            ValueError: x has the wrong shape, dtype or device.
        """
        return self.gaussian.gap(self._code(self._checked(x))[0])

    # -- the manifold ----------------------------------------------------------------------------

    def embed(self, x: Tensor, rule: Embedding = "posterior-mean") -> Tensor:
        """Latent coordinates of x (N, D), (N, d).

        ``posterior-mean`` is E[z | x], what the paper's code takes; ``pseudo-inverse`` the z of the
        nearest point of the plane, its eq. 42.

        Raises:
            ValueError: x has the wrong shape, dtype or device, or an unknown rule.
        """
        return self.gaussian.embed(self._code(self._checked(x))[0], rule=rule)

    def reconstruct(self, x: Tensor, rule: Embedding = "pseudo-inverse") -> Tensor:
        """The point of the manifold that x (N, D) is embedded at, (N, D); see ``embed``.

        By the pseudo-inverse a point of the manifold is its own reconstruction.

        Raises:
            ValueError: x has the wrong shape, dtype or device, or an unknown rule.
        """
        return self.place(self.embed(x, rule))

    def place(self, z: Tensor) -> Tensor:
        """The points of the manifold with latent coordinates z (N, d), (N, D).

        Raises:
            ValueError: z has the wrong shape.
        """
        return self._decode(self._around(self.gaussian.place(z), None))[0]

    def manifold_distance(self, x: Tensor) -> Tensor:
        """Distance of x (N, D) to its ``reconstruct``, (N,), in the units of x.

        Raises:
            ValueError: x has the wrong shape, dtype or device.
        """
        distance: Tensor = torch.linalg.vector_norm(x - self.reconstruct(x), dim=1)
        return distance

    def intrinsic_dimension(self, threshold: float = 1.0) -> Tensor:
        """Directions of the plane with more than ``threshold`` times the noise's variance, ().

        It tells the data's dimension where f preserves volume and Sigma is isotropic, see ``ard``.
        """
        return self.gaussian.intrinsic_dimension(threshold)

    # -- sampling --------------------------------------------------------------------------------

    def sample(
        self,
        num: int,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        noise_scale: float = 1.0,
    ) -> Tensor:
        """``num`` draws, (num, D), of f^-1(t A z + b + s noise) at temperature t, noise_scale s.

        s is a factor on the standard deviation, as in the paper's code; its section 5.2 prints one
        on the variance, s^2 here.

        Raises:
            ValueError: ``num`` or ``noise_scale`` is negative, or ``temperature`` not positive.
        """
        check_draw(num, temperature)
        scale = check_number("noise_scale", noise_scale)
        with torch.no_grad():
            return self._draw(num, temperature, scale, generator)

    def _sample(self, num: int, temperature: float, generator: torch.Generator | None) -> Tensor:
        return self._draw(num, temperature, 1.0, generator)

    def _draw(
        self, num: int, temperature: float, noise_scale: float, generator: torch.Generator | None
    ) -> Tensor:
        point = self.gaussian.sample(
            num, temperature=temperature, noise_scale=noise_scale, generator=generator
        )
        noise = None
        if self.injection_features is not None:
            shape = (num, self.features - self.injection_features)
            noise = noise_scale * torch.randn(
                shape, generator=generator, dtype=point.dtype, device=point.device
            )
        return self._decode(self._around(point, noise))[0]

    # -- codes -----------------------------------------------------------------------------------

    def _checked(self, x: Tensor) -> Tensor:
        return check_finite("x", check_rows("x", x, self.features, self._reference()))

    def _code(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f(x) (N, D), nothing (N, 0) and log|det df/dx| (N,).

        For an injection its code (N, d) and its normal coordinates (N, D - d).
        """
        z, volume = self._encode(x)
        latent = self.injection_features or self.features
        return z[:, :latent], z[:, latent:], volume

    def _around(self, code: Tensor, noise: Tensor | None) -> Tensor:
        """The code with normal coordinates ``noise``, those of the manifold itself when None."""
        width = self.features - code.shape[1]
        if noise is None:
            noise = code.new_zeros(len(code), width)
        return torch.cat([code, noise], dim=1)


def _check_ard(start: Start, frame: Frame, gaussian: NoisyInjectiveGaussian) -> None:
    """Refuse what automatic relevance determination answers wrongly.

    Raises:
        ValueError: a start that is not principal, whitening, or no room for the noise.
    """
    if start != "principal":
        raise ValueError(f"start: expected 'principal' with ard, got {start!r}")
    if frame == "pca":
        raise ValueError(
            "frame: expected 'none', 'rotation' or 'similarity' with ard, whitening hides the noise"
        )
    gaussian.check_ard()


def _standard_normal(x: Tensor) -> Tensor:
    """log N(x; 0, I), (N,), 0 for no columns."""
    if x.shape[1] == 0:
        return x.new_zeros(len(x))
    return StandardNormal(x.shape[1]).log_prob(x)
