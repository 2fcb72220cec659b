"""The Gaussian injection: a plane, and Gaussian noise around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flowzoo.interfaces import Prior
from flowzoo.low_rank import DenseLoading, Loading, principal_start
from flowzoo.priors.noisy_injective_gaussian import NoisyInjectiveGaussian, SampleNoise
from flowzoo.validation import check_context
from flowzoo_plugins.noisy_injective.injection import Inverse, NoisyInjection

_LEAST_NOISE = 0.05  # of a column's variance, at the start


class Plane(NoisyInjectiveGaussian):
    """The Gaussian of z and y as a conditional density p(y|z) = N(A z + b, Sigma)."""

    def draw(
        self, z: Tensor, noise: Tensor, noise_scale: float, context: Tensor | None = None
    ) -> Tensor:
        """y (N, D) given z (N, d), by standard normal numbers (N, D)."""
        bias, log_std = self._noise(check_context(context, self.context_features, len(z)))
        std = log_std.exp() if self.sample_noise == "learned" else torch.ones_like(log_std)
        plane: Tensor = self.loading(z) + bias
        return plane + noise_scale * std * noise

    def invert(
        self, y: Tensor, noise: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """K draws of q(z|y), (N, K, d), by noise (N, K, d), and the manifold term (N,).

        The factor of Lambda is made once for all K.
        """
        mean, factor, term = self._inverse(y, context)
        if context is None:
            around = factor.colour(noise.reshape(-1, self.latent_features)).reshape(noise.shape)
        else:  # a Lambda a row
            around = torch.stack([factor.colour(one) for one in noise.unbind(dim=1)], dim=1)
        return mean[:, None] + around, term


class GaussianInjection(NoisyInjection):
    r"""A plane in R^D and Gaussian noise around it.

    .. math:: p(y|z) = N(A z + b, \Sigma), \qquad q(z|y) = N(\Lambda^{-1} u, \Lambda^{-1}), \qquad
              \log\frac{p(y|z)}{q(z|y)} = \log\int p(y|z')\,dz'

    with diagonal :math:`\Sigma`, :math:`\Lambda = A^\top \Sigma^{-1} A` and
    :math:`u = A^\top \Sigma^{-1} (y - b)`: the weight of a draw does not depend on it.

    Source: Cunningham et al. (2020), eq. 8 and 9; up-sampling, A.6.

    A starts with orthogonal columns of length 1, and by the data it is started so that no direction
    of the plane has less signal than noise: with a Lambda near singular draws of q are useless.

    Args:
        features: D.
        latent_features: d; half of D, rounded up, or what the loading has, when None.
        loading: A: ``dense``, ``{"name": "up-sampling", ...}`` or a built loading of (D, d).
        isotropic: one standard deviation for all columns of y.
        noise_std: the standard deviations of the noise to start from.
        learn_noise: False keeps them.
        sample_noise: what ``draw`` adds: ``learned``, Sigma, or ``identity``, as their code does.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> GaussianInjection(3, 2).place(torch.zeros(4, 2)).shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        features: int,
        latent_features: int | None = None,
        *,
        loading: str | Mapping[str, Any] | Loading = "dense",
        isotropic: bool = False,
        noise_std: float = 1.0,
        learn_noise: bool = True,
        sample_noise: SampleNoise = "learned",
    ) -> None:
        plane = Plane(
            features,
            latent_features=latent_features,
            loading=loading,
            isotropic=isotropic,
            noise_std=noise_std,
            learn_noise=learn_noise,
            sample_noise=sample_noise,
        )
        super().__init__(features, plane.latent_features)
        self.plane = plane
        orthogonal_columns(plane)

    @property
    def marginal(self) -> Prior:
        """N(b, A A' + Sigma)."""
        return self.plane

    @torch.no_grad()
    def start(self, y: Tensor, x: Tensor) -> None:
        """Principal directions of codes y (N, D) of data x; a loading that is not dense stays."""
        if not isinstance(self.plane.loading, DenseLoading):
            return
        found = principal_start(y, x, self.latent_features)
        total = found.variance + found.loading.square().sum(dim=1)
        variance = torch.maximum(found.variance, _LEAST_NOISE * total)
        if not self.plane.log_std.requires_grad:
            variance = (2.0 * self.plane.log_std).exp().expand(self.features).to(variance)
        elif self.plane.isotropic:
            variance = variance.mean().expand(self.features)
        std = variance.sqrt()[:, None]
        left, values, right = torch.linalg.svd(found.loading / std, full_matrices=False)
        loading = std * (left * values.clamp(min=1.0)) @ right
        self.plane.start(found.bias, loading, variance)

    def _draw(self, z: Tensor, noise: Tensor, noise_scale: float) -> Tensor:
        return self.plane.draw(z, noise, noise_scale)

    def _invert(self, y: Tensor, noise: Tensor) -> Inverse:
        z, term = self.plane.invert(y, noise)
        return Inverse(z, term[:, None].expand(noise.shape[:2]))

    def _embed(self, y: Tensor) -> Tensor:
        return self.plane.embed(y, rule="pseudo-inverse")


class UpSamplingInjection(GaussianInjection):
    """Nearest-neighbour up-sampling of pictures, and Gaussian noise; all costs are O(D).

    Source: Cunningham et al. (2020), A.6.

    Args:
        features: D = C H W.
        latent_features: d, which shape and factor decide; None or the same.
        shape: (C, H, W).
        factor: width of the block a latent pixel is copied into.
        isotropic, noise_std, learn_noise, sample_noise: as ``GaussianInjection``.

    Raises:
        ValueError: an option out of range, or a shape that is not of D pixels.

    Example:
        >>> UpSamplingInjection(16, shape=(1, 4, 4)).latent_features
        4
    """

    def __init__(
        self,
        features: int,
        latent_features: int | None = None,
        *,
        shape: Sequence[int],
        factor: int = 2,
        isotropic: bool = False,
        noise_std: float = 1.0,
        learn_noise: bool = True,
        sample_noise: SampleNoise = "learned",
    ) -> None:
        super().__init__(
            features,
            latent_features,
            loading={"name": "up-sampling", "shape": tuple(shape), "factor": factor},
            isotropic=isotropic,
            noise_std=noise_std,
            learn_noise=learn_noise,
            sample_noise=sample_noise,
        )


def orthogonal_columns(plane: Plane) -> None:
    """Let a dense A start with orthogonal columns of length 1: Lambda is well-conditioned."""
    if isinstance(plane.loading, DenseLoading):
        torch.nn.init.orthogonal_(plane.loading.weight)
