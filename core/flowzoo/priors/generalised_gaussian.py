"""A Gaussian of any rank with noise around it: the prior of spread flows."""

from __future__ import annotations

import math
from numbers import Integral
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from flowzoo.interfaces import Prior
from flowzoo.low_rank import DenseFactor
from flowzoo.validation import check_context, check_draw, check_number, check_positive, check_rows

_LOG_2PI = math.log(2.0 * math.pi)
_LEAST = 1e-2  # of the noise's variance: from zero an axis of A has no gradient to grow by


class Axes(NamedTuple):
    """The eigenvalues of A A', largest first, (R,), and their vectors, (D, R)."""

    values: Tensor
    vectors: Tensor


class GeneralisedGaussian(Prior):
    r"""N(mu, A A') spread by Gaussian noise, A of any rank.

    .. math:: \tilde z = \mu + A \epsilon + \sigma \epsilon', \qquad
              \log p(\tilde z) = \log N(\tilde z;\ \mu,\ A A^\top + \sigma^2 I)

    A is lower triangular and starts as the identity; its rank is the dimension of the plane that
    the noise is spread around, and shows in the eigenvalues of A A'. Only D (D + 1) / 2 of the
    D x D entries of ``weight`` take part. One Cholesky factor a call, in float64: O(D^3). With
    ``rank`` R only the first R columns of A exist and the cost is O(D R^2). Digits go where an
    eigenvalue of A A' is above some 1e12 sigma^2.

    Source: Zhang et al. (2023), Spread Flows for Manifold Modelling, section 3 and eq. 12. The mean
    and the low-rank form are ours.

    Args:
        features: D.
        rank: R, the columns of A; D when None.
        noise_std: sigma, which is not learned.
        learn_mean: False, as in the paper, keeps mu = 0.

    Raises:
        ValueError: a rank outside 1..D, or sigma not positive.

    Example:
        >>> prior = GeneralisedGaussian(3, noise_std=0.1)
        >>> prior.eigenvalues().tolist()
        [1.0, 1.0, 1.0]
    """

    noise_knob: ClassVar[bool] = True

    noise_std: Tensor  # ()
    mean: Tensor  # (D,)

    def __init__(
        self,
        features: int,
        *,
        rank: int | None = None,
        noise_std: float = 0.01,
        learn_mean: bool = False,
    ) -> None:
        super().__init__(features)
        self.rank = features if rank is None else check_positive("rank", rank)
        if self.rank > features:
            raise ValueError(f"rank: expected at most features={features}, got {rank}")
        self.weight = nn.Parameter(torch.eye(features, self.rank))
        std = check_number("noise_std", noise_std, strict=True)
        self.register_buffer("noise_std", torch.tensor(std, dtype=self.weight.dtype))
        self.mean = nn.Parameter(torch.zeros(features), requires_grad=learn_mean)

    @property
    def noise_features(self) -> int:
        """How many standard normal numbers a draw takes: R along the plane, D around it."""
        return self.rank + self.features

    def loading(self) -> Tensor:
        """A, (D, R)."""
        return self.weight.tril()

    def log_prob(
        self, z: Tensor, context: Tensor | None = None, *, noise_std: Tensor | None = None
    ) -> Tensor:
        """log N(z; mu, A A' + sigma^2 I) in nats, (N,), for z (N, D).

        Args:
            z: (N, D).
            context: none.
            noise_std: sigma, (), in place of the prior's own.

        Raises:
            ValueError: z has the wrong shape, or a context is given.
        """
        check_rows("z", z, self.features)
        check_context(context, self.context_features, len(z))
        std = self.noise_std if noise_std is None else noise_std
        offset = z - self.mean
        return self._low_rank(offset, std) if self.rank < self.features else self._full(offset, std)

    def _full(self, offset: Tensor, std: Tensor) -> Tensor:
        """By the Cholesky factor of the covariance; NaN where it has none."""
        loading = self.loading().double()
        ridge = std.double().square() * torch.eye(
            self.features, dtype=torch.float64, device=offset.device
        )
        lower, info = torch.linalg.cholesky_ex(loading @ loading.mT + ridge)
        lower = torch.where((info > 0)[..., None, None], torch.full_like(lower, math.nan), lower)
        white = torch.linalg.solve_triangular(lower, offset.double().mT, upper=False)
        log_det = 2.0 * lower.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        squares: Tensor = white.square().sum(dim=0)
        return -0.5 * (squares + log_det + self.features * _LOG_2PI).to(offset.dtype)

    def _low_rank(self, offset: Tensor, std: Tensor) -> Tensor:
        """By Woodbury's identity, the quadratic form as a sum of squares, which keeps digits."""
        std = std.double()
        loading = self.loading().double() / std
        identity = torch.eye(self.rank, dtype=torch.float64, device=offset.device)
        factor = DenseFactor(loading.mT @ loading + identity, torch.float64)
        scaled = offset.double() / std
        mean = factor.solve(scaled @ loading)
        rest = scaled - mean @ loading.mT
        squares = rest.square().sum(dim=1) + mean.square().sum(dim=1)
        volume = factor.log_det() + 2.0 * self.features * std.log()
        return -0.5 * (squares + volume + self.features * _LOG_2PI).to(offset.dtype)

    # -- draws -----------------------------------------------------------------------------------

    def sample(
        self,
        num: int,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        noise_scale: float = 1.0,
        generator: torch.Generator | None = None,
        dimension: int | None = None,
    ) -> Tensor:
        r"""``num`` draws, (num, D): along the K leading axes of A A', and noise around them.

        .. math:: \tilde z = \mu + t E_K \Lambda_K^{1/2} \epsilon
                  + s (E_{>K} \Lambda_{>K}^{1/2} \epsilon_{>K} + \sigma \epsilon')

        at temperature t and noise_scale s; s = 0 is Zhang et al. (2023), section 3, "Sample from
        the Manifold Flow", with the epsilon that is missing in print.

        Args:
            num: how many.
            context: none.
            temperature: t.
            noise_scale: s.
            generator: where randomness comes from.
            dimension: K; all of the R axes when None.

        Raises:
            ValueError: ``temperature`` is not positive, ``noise_scale`` is negative, K is outside
                0..R, or a context is given.
        """
        check_draw(num, temperature)
        scale = check_number("noise_scale", noise_scale)
        check_context(context, self.context_features, num)
        kept = self.check_dimension(dimension)
        shape, like = (num, self.noise_features), self.weight
        noise = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        axes = self.axes()
        knob = torch.full((self.rank,), scale, dtype=like.dtype, device=like.device)
        knob[:kept] = temperature
        along = noise[:, : self.rank] * (knob * axes.values.sqrt()) @ axes.vectors.mT
        return self.mean + along + scale * self.noise_std * noise[:, self.rank :]

    def from_normal(self, noise: Tensor) -> Tensor:
        """mu + A epsilon + sigma epsilon', (N, D), of standard normal numbers (N, R + D)."""
        check_rows("noise", noise, self.noise_features)
        along = noise[:, : self.rank] @ self.loading().mT
        return self.mean + along + self.noise_std * noise[:, self.rank :]

    # -- the plane -------------------------------------------------------------------------------

    def covariance(self) -> Tensor:
        """A A' + sigma^2 I, (D, D): for a look."""
        loading = self.loading()
        identity = torch.eye(self.features, dtype=loading.dtype, device=loading.device)
        return loading @ loading.mT + self.noise_std.square() * identity

    def root(self) -> Tensor:
        """A symmetric square root of the covariance, (D, D)."""
        values, vectors = torch.linalg.eigh(self.covariance().double())
        root: Tensor = (vectors * values.clamp(min=0.0).sqrt()) @ vectors.mT
        return root.to(self.weight.dtype)

    def eigenvalues(self) -> Tensor:
        """Of A A', (D,) float64, largest first; zeros beyond the R-th."""
        values = torch.linalg.svdvals(self.loading().double()).square()
        return torch.cat([values, values.new_zeros(self.features - self.rank)])

    def axes(self) -> Axes:
        """The R largest eigenvalues of A A' and their vectors."""
        vectors, values, _ = torch.linalg.svd(self.loading().double(), full_matrices=False)
        return Axes(values.square().to(self.weight.dtype), vectors.to(self.weight.dtype))

    def project(self, z: Tensor, dimension: int) -> Tensor:
        """(z - mu) E_K, (N, K): coordinates along the K leading axes.

        Zhang et al. (2023), section 3, "Dimension Reduction".

        Raises:
            ValueError: z has the wrong shape, or K is outside 0..R.
        """
        check_rows("z", z, self.features)
        return (z - self.mean) @ self.axes().vectors[:, : self.check_dimension(dimension)]

    def place(self, coordinates: Tensor) -> Tensor:
        """mu + c E_K', (N, D): the points of the plane with coordinates c (N, K)."""
        kept = self.check_dimension(coordinates.shape[1])
        return self.mean + coordinates @ self.axes().vectors[:, :kept].mT

    def projected_log_prob(self, coordinates: Tensor) -> Tensor:
        """log N(c; 0, Lambda_K) in nats, (N,), of coordinates c (N, K): the prior on its plane.

        Zhang et al. (2023), C.2, "density allocation".
        """
        kept = self.check_dimension(coordinates.shape[1])
        values = self.axes().values[:kept]
        squares = (coordinates.square() / values).sum(dim=1)
        return -0.5 * (squares + values.log().sum() + kept * _LOG_2PI)

    @torch.no_grad()
    def start(self, mean: Tensor, covariance: Tensor) -> None:
        """Take the A nearest to what moments leave above the noise, in place.

        A A' is ``covariance`` (D, D) less sigma^2 I, on its R leading axes, where that is above a
        hundredth of sigma^2, and this hundredth elsewhere.

        Raises:
            ValueError: wrong shapes.
        """
        shapes = (tuple(mean.shape), tuple(covariance.shape))
        expected = ((self.features,), (self.features, self.features))
        if shapes != expected:
            raise ValueError(f"mean, covariance: expected {expected}, got {shapes}")
        values, vectors = torch.linalg.eigh(covariance.double())
        values, vectors = values.flip(0)[: self.rank], vectors.flip(1)[:, : self.rank]
        noise = self.noise_std.double().square()
        values = (values - noise).clamp(min=_LEAST * noise)
        # a lower triangular A with this A A': the transposed R of a QR decomposition
        lower = torch.linalg.qr((vectors * values.sqrt()).mT).R.mT
        self.weight.copy_(lower)
        if self.mean.requires_grad:
            self.mean.copy_(mean)

    def check_dimension(self, dimension: int | None) -> int:
        """K, all R axes for None.

        Raises:
            ValueError: it is no whole number of 0..R.
        """
        if dimension is None:
            return self.rank
        whole = isinstance(dimension, Integral) and not isinstance(dimension, bool)
        if not whole or not 0 <= dimension <= self.rank:
            raise ValueError(f"dimension: expected 0 to {self.rank}, got {dimension!r}")
        return int(dimension)
