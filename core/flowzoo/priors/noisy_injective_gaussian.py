"""A Gaussian around a plane: the prior of noisy injective flows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from flowzoo.interfaces import Prior
from flowzoo.layers.scale_bound import LOG_SCALE_BOUND, bound_log_scale
from flowzoo.low_rank import DenseLoading, Factor, Loading, build_loading
from flowzoo.nets import MLP
from flowzoo.validation import check_context, check_draw, check_number, check_rows

Embedding = Literal["posterior-mean", "pseudo-inverse"]
SampleNoise = Literal["learned", "identity"]
_LOG_2PI = math.log(2.0 * math.pi)


class NoisyInjectiveGaussian(Prior):
    r"""A plane of few dimensions in R^D, and Gaussian noise around it.

    .. math:: y = A z + b + \varepsilon, \quad z \sim N(0, I_d), \quad
              \varepsilon \sim N(0, \Sigma), \qquad y \sim N(b, A A^\top + \Sigma)

    with diagonal :math:`\Sigma`. With :math:`\mu = y - b`, :math:`\Lambda = A^\top \Sigma^{-1} A`
    and :math:`u = A^\top \Sigma^{-1} \mu` the density costs O(D d^2) and never a D x D matrix:

    .. math:: \log p(y) = -\tfrac12 \bigl( \lVert \mu - A \bar z \rVert^2_{\Sigma^{-1}}
              + \lVert \bar z \rVert^2 \bigr) - \tfrac12 \log\lvert I + \Lambda \rvert
              - \tfrac12 \log\lvert \Sigma \rvert - \tfrac D2 \log 2\pi,
              \qquad \bar z = (I + \Lambda)^{-1} u

    which is Cunningham et al. (2020), eq. 41, without its term of (d/2) log 2 pi, that does not
    belong there, and with the quadratic form as a sum of squares, that keeps its digits.

    The *stochastic inverse* q(z|y) = N(Lambda^-1 u, Lambda^-1) is the likelihood of z normalised,
    as if z had a flat prior (their eq. 6); ``elbo`` is their bound by it, ``gap`` what it lacks.
    It needs a Lambda of full rank; where it has none, answers are NaN.

    Sampling: ``temperature`` t scales the standard deviation of z, ``noise_scale`` s that of the
    noise, :math:`y \sim N(b, t^2 A A^\top + s^2 \Sigma)`: s = 1 is the model, s = 0 the plane.
    Their section 5.2 prints s as a factor on the variance; their code, like this, multiplies the
    standard deviation. Their code also draws with Sigma = I whatever it has learned:
    ``sample_noise="identity"`` does the same.

    Args:
        features: D.
        latent_features: d; half of D, rounded up, when None.
        loading: A: ``dense``, ``{"name": "up-sampling", ...}`` or a built loading of (D, d).
        isotropic: one standard deviation for all columns of y.
        noise_std: the standard deviations of the noise to start from.
        learn_noise: False keeps them.
        context_features: columns of a context that b and Sigma depend on, through a network that
            starts as zero; it moves standard deviations by factors in (e^-5, e^5).
        hidden: widths of that network.
        sample_noise: what ``sample`` adds: ``learned``, Sigma, or ``identity``.

    Raises:
        ValueError: d outside 1..D, or a loading of another size.

    Example:
        >>> prior = NoisyInjectiveGaussian(3, latent_features=1)
        >>> prior.log_prob(torch.zeros(2, 3)).shape
        torch.Size([2])
    """

    noise_knob: ClassVar[bool] = True

    def __init__(
        self,
        features: int,
        *,
        latent_features: int | None = None,
        loading: str | Mapping[str, Any] | Loading = "dense",
        isotropic: bool = False,
        noise_std: float = 1.0,
        learn_noise: bool = True,
        context_features: int = 0,
        hidden: Sequence[int] = (64,),
        sample_noise: SampleNoise = "learned",
    ) -> None:
        super().__init__(features, context_features=context_features)
        if sample_noise not in get_args(SampleNoise):
            raise ValueError(
                f"sample_noise: expected one of {get_args(SampleNoise)}, got {sample_noise!r}"
            )
        self.loading = build_loading(loading, features, latent_features)
        self.latent_features = self.loading.latent_features
        self.isotropic = isotropic
        self.sample_noise = sample_noise
        self.bias = nn.Parameter(torch.zeros(features))
        log_std = math.log(check_number("noise_std", noise_std, strict=True))
        self.log_std = nn.Parameter(torch.full((1 if isotropic else features,), log_std))
        self.log_std.requires_grad_(learn_noise)
        self.net: MLP | None = None
        if context_features:
            outputs = features + (len(self.log_std) if learn_noise else 0)
            self.net = MLP(context_features, outputs, hidden=hidden, zero_last=True)

    @property
    def noise_features(self) -> int:
        """How many standard normal numbers a draw takes: d for z, and D for the noise."""
        return self.latent_features + self.features

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(y) in nats, (N,), for rows y (N, D), here called z as of every prior.

        Raises:
            ValueError: wrong shape, or a context missing or unexpected.
        """
        offset, log_std = self._centred(z, context)
        precision = (-2.0 * log_std).exp()
        factor = self.loading.factor(precision, 1.0)
        mean = factor.solve(self.loading.transposed(offset * precision))
        rest = (offset - self.loading(mean)) * (-log_std).exp()
        squares: Tensor = rest.square().sum(dim=1) + mean.square().sum(dim=1)
        volume = factor.log_det() + 2.0 * log_std.sum(dim=-1)
        return -0.5 * (squares + volume + self.features * _LOG_2PI)

    def embed(
        self, y: Tensor, context: Tensor | None = None, *, rule: Embedding = "posterior-mean"
    ) -> Tensor:
        """Latent coordinates of y (N, D), (N, d).

        ``posterior-mean`` is (I + Lambda)^-1 u, ``pseudo-inverse`` Lambda^-1 u (Cunningham et al.
        (2020), eq. 42), the mode of the stochastic inverse; their code uses the first. Where Lambda
        has no inverse, as with emptied columns of A, the second takes Moore's and Penrose's.

        Raises:
            ValueError: wrong shape, or an unknown rule.
        """
        if rule not in get_args(Embedding):
            raise ValueError(f"rule: expected one of {get_args(Embedding)}, got {rule!r}")
        offset, log_std = self._centred(y, context)
        precision = (-2.0 * log_std).exp()
        u = self.loading.transposed(offset * precision)
        if rule == "pseudo-inverse":
            return self.loading.pseudo_solve(precision, u)
        return self.loading.factor(precision, 1.0).solve(u)

    def place(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """A z + b, the points of the plane, (N, D), for z (N, d).

        Raises:
            ValueError: wrong shape, or a context missing or unexpected.
        """
        check_rows("z", z, self.latent_features)
        bias, _ = self._noise(check_context(context, self.context_features, len(z)))
        plane: Tensor = self.loading(z) + bias
        return plane

    def stochastic_inverse(
        self, y: Tensor, noise: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""A draw z of q(z|y) = N(Lambda^-1 u, Lambda^-1), and log q(z|y).

        Args:
            y: (N, D).
            noise: standard normal numbers, (N, d).
            context: (N, C), where the prior takes one.

        Returns:
            z (N, d), differentiable in everything, and its log-density in nats (N,).

        Raises:
            ValueError: wrong shapes.
        """
        check_rows("noise", noise, self.latent_features)
        mean, factor, _ = self._inverse(y, context)
        log_q = 0.5 * (
            factor.log_det() - noise.square().sum(dim=1) - self.latent_features * _LOG_2PI
        )
        return mean + factor.colour(noise), log_q

    def manifold_term(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        r"""log of the integral of p(y|z) over z, (N,), nats: how near y is to the plane.

        .. math:: \log \int p(y|z)\,dz = \log Z_z - \log Z_x

        the second term of the bound; Cunningham et al. (2020), eq. 7 and 9.

        Raises:
            ValueError: wrong shape, or a context missing or unexpected.
        """
        return self._inverse(y, context)[2]

    def elbo(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """The bound E_q[log N(z; 0, I)] + ``manifold_term`` on ``log_prob``, (N,), nats.

        Raises:
            ValueError: wrong shape, or a context missing or unexpected.
        """
        mean, factor, manifold_term = self._inverse(y, context)
        squares = mean.square().sum(dim=1) + factor.trace_of_inverse()  # E_q |z|^2
        return manifold_term - 0.5 * (squares + self.latent_features * _LOG_2PI)

    def gap(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        r"""KL(q(z|y) || p(z|y)), what the bound lacks to ``log_prob``, (N,), nats.

        .. math:: \tfrac12 \bigl( \mathrm{tr}\,\Lambda^{-1} + \Delta^\top (I + \Lambda) \Delta
                  - \log\lvert I + \Lambda^{-1} \rvert \bigr), \qquad
                  \Delta = \Lambda^{-1} u - (I + \Lambda)^{-1} u

        Raises:
            ValueError: wrong shape, or a context missing or unexpected.
        """
        offset, log_std = self._centred(y, context)
        precision = (-2.0 * log_std).exp()
        inverse, posterior = (self.loading.factor(precision, ridge) for ridge in (0.0, 1.0))
        u = self.loading.transposed(offset * precision)
        between = inverse.solve(u) - posterior.solve(u)
        ratio = posterior.log_det() - inverse.log_det()  # log|I + Lambda^-1|
        return 0.5 * (inverse.trace_of_inverse() + posterior.quadratic(between) - ratio)

    def sample(
        self,
        num: int,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        noise_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """``num`` draws of N(b, t^2 A A' + s^2 Sigma), (num, D), at temperature t, noise_scale s.

        Raises:
            ValueError: ``temperature`` is not positive, ``noise_scale`` is negative, or a context
                is missing or unexpected.
        """
        check_draw(num, temperature)
        check_number("noise_scale", noise_scale)
        context = check_context(context, self.context_features, num)
        bias, log_std = self._noise(context)
        shape = (num, self.noise_features)
        noise = torch.randn(shape, generator=generator, dtype=bias.dtype, device=bias.device)
        z, around = noise[:, : self.latent_features], noise[:, self.latent_features :]
        std = log_std.exp() if self.sample_noise == "learned" else torch.ones_like(log_std)
        plane: Tensor = self.loading(temperature * z) + bias
        return plane + noise_scale * std * around

    def from_normal(self, noise: Tensor) -> Tensor:
        """Rows of standard normal numbers, (N, d + D), turned into draws (N, D)."""
        check_rows("noise", noise, self.noise_features)
        z, around = noise[:, : self.latent_features], noise[:, self.latent_features :]
        bias, log_std = self._noise(None)
        plane: Tensor = self.loading(z) + bias
        return plane + log_std.exp() * around

    def covariance(self) -> Tensor:
        """A A' + Sigma, (D, D), of a prior without context: for a look, the rest never forms it."""
        matrix = self.loading.matrix()
        return matrix @ matrix.T + torch.diag((2.0 * self._noise(None)[1]).exp())

    def signal_to_noise(self) -> Tensor:
        """Eigenvalues of A' Sigma^-1 A, (d,), largest first: variance over noise along the plane.

        They do not change when the coordinates z are rotated.
        """
        matrix = self.loading.matrix() * (-self._noise(None)[1]).exp()[:, None]
        values: Tensor = torch.linalg.svdvals(matrix).square()
        return values

    def intrinsic_dimension(self, threshold: float = 1.0) -> Tensor:
        """How many directions of the plane have more than ``threshold`` times the noise, ().

        Signal and noise are variances, see ``signal_to_noise``.
        """
        return (self.signal_to_noise() > check_number("threshold", threshold)).sum(dim=-1)

    def ard_penalty(self, *, floor: float = 1e-6) -> Tensor:
        r"""Minus the log-density of A under automatic relevance determination, (), nats.

        .. math:: \tfrac D2 \sum_j \log\bigl(\lVert a_j \rVert^2
                  + \mathrm{floor} \cdot \mathrm{tr}\,\Sigma\bigr)

        up to a constant: each column a_j of A has a prior N(0, I / alpha_j) at its best alpha_j,
        so that columns the likelihood does not need shrink to nothing. Added to the negative
        log-likelihood of all rows. Source: Bishop (1999), Bayesian PCA, eq. 8-9, with alpha
        profiled out; the floor is ours.
        """
        trace = (2.0 * self.log_std.detach()).exp().expand(self.features).sum()
        norms = self.loading.matrix().square().sum(dim=0)
        return 0.5 * self.features * (norms + floor * trace).log().sum()

    def check_ard(self) -> None:
        """Refuse planes that automatic relevance determination says nothing of.

        Raises:
            ValueError: the loading is not dense, or it leaves a learned noise no column to see.
        """
        self._dense()
        if self.log_std.requires_grad and self.latent_features == self.features:
            raise ValueError(
                f"latent_features: expected below {self.features} with ard and learned noise, got "
                f"{self.latent_features}"
            )

    @torch.no_grad()
    def start(self, bias: Tensor, loading: Tensor, variance: Tensor) -> None:
        """Take b (D,), A (D, d) and the diagonal of Sigma (D,), in place; see ``principal_start``.

        Sigma is kept where the noise is not learned, and averaged where it is isotropic.

        Raises:
            ValueError: a loading that is not dense, or a wrong shape.
        """
        weight = self._dense().weight
        shapes = (tuple(bias.shape), tuple(loading.shape), tuple(variance.shape))
        expected = ((self.features,), tuple(weight.shape), (self.features,))
        if shapes != expected:
            raise ValueError(f"bias, loading, variance: expected {expected}, got {shapes}")
        self.bias.copy_(bias)
        weight.copy_(loading)
        if self.log_std.requires_grad:
            std = variance.mean().expand(1) if self.isotropic else variance
            self.log_std.copy_(0.5 * std.log())

    @torch.no_grad()
    def prune(self, threshold: float = 1.0) -> None:
        """Take out the directions of the plane with at most ``threshold`` times the noise.

        Columns of A are turned to the directions of ``signal_to_noise``, largest first, which
        changes no density; then those that are not above the threshold become zero.

        Raises:
            ValueError: the loading is not dense, or the prior takes a context.
        """
        weight = self._dense().weight
        std = self._noise(None)[1].exp()[:, None].double()
        left, values, _ = torch.linalg.svd(weight.double() / std, full_matrices=False)
        kept = values.square() > check_number("threshold", threshold)
        weight.copy_(std * left * torch.where(kept, values, torch.zeros_like(values)))

    def _dense(self) -> DenseLoading:
        if not isinstance(self.loading, DenseLoading):
            raise ValueError(f"loading: expected a dense one, got {type(self.loading).__name__}")
        return self.loading

    def _centred(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """y - b (N, D), and the logarithms of the noise's standard deviations, (D,) or (N, D)."""
        check_rows("z", y, self.features)
        bias, log_std = self._noise(check_context(context, self.context_features, len(y)))
        return y - bias, log_std

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Factor, Tensor]:
        """The mean (N, d) of q(z|y), Lambda factored, and the manifold term (N,)."""
        offset, log_std = self._centred(y, context)
        precision = (-2.0 * log_std).exp()
        factor = self.loading.factor(precision, 0.0)
        mean = factor.solve(self.loading.transposed(offset * precision))
        rest = (offset - self.loading(mean)) * (-log_std).exp()
        volume = factor.log_det() + 2.0 * log_std.sum(dim=-1)
        codimension = self.features - self.latent_features
        term = -0.5 * (rest.square().sum(dim=1) + volume + codimension * _LOG_2PI)
        return mean, factor, term

    def _noise(self, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """b and log standard deviations, (D,), or (N, D) with a context."""
        if self.net is None:
            return self.bias, self.log_std.expand(self.features)
        if context is None:
            raise ValueError(f"context: expected {self.context_features} columns, got none")
        out = self.net(context)
        shift, change = out[:, : self.features], out[:, self.features :]
        log_std: Tensor = self.log_std
        if change.shape[1]:
            log_std = log_std + bound_log_scale(change, LOG_SCALE_BOUND)
        return self.bias + shift, log_std.expand(len(out), self.features)
