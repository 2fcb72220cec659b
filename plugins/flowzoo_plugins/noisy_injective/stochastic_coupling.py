"""Stochastic coupling: two Gaussian injections that condition one another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowzoo.priors.noisy_injective_gaussian import SampleNoise
from flowzoo_plugins.noisy_injective.gaussian import Plane, orthogonal_columns
from flowzoo_plugins.noisy_injective.injection import Inverse, NoisyInjection


class StochasticCoupling(NoisyInjection):
    r"""A curved manifold by two planes whose place and noise depend on the other half.

    .. math:: y_2 \sim N(A_2 z_2 + b_2(z_1), \Sigma_2(z_1)), \qquad
              y_1 \sim N(A_1 z_1 + b_1(y_2), \Sigma_1(y_2))

    Its inverse draws z_1 from the stochastic inverse of the second line, then z_2 from that of the
    first, and the weight of a draw is the product of what either has:

    .. math:: \frac{p(y|z)}{q(z|y)} = \int p(y_1|z_1'; y_2)\,dz_1' \int p(y_2|z_2'; z_1)\,dz_2'

    The last factor depends on the draw z_1, so there is no closed form as the plane has. The
    first half of the columns is y_1, the larger one where D is odd; the same with z. b and Sigma
    are networks that start as constants; the standard deviations move by factors in (e^-5, e^5).
    A draw holds O(D d) numbers in memory: a Lambda is factored for each.

    Source: Cunningham et al. (2020), A.7, eq. 40.

    Args:
        features: D, at least 2.
        latent_features: d, 2 to D; half of D, rounded up, but at least 2, when None.
        hidden: widths of the two networks.
        isotropic: one standard deviation for all columns of a half.
        noise_std: the standard deviations of the noise to start from.
        learn_noise: False keeps them.
        sample_noise: what ``draw`` adds: ``learned``, Sigma, or ``identity``.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> StochasticCoupling(4, 2).place(torch.zeros(3, 2)).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        features: int,
        latent_features: int | None = None,
        *,
        hidden: Sequence[int] = (64,),
        isotropic: bool = False,
        noise_std: float = 1.0,
        learn_noise: bool = True,
        sample_noise: SampleNoise = "learned",
    ) -> None:
        latent = max(2, (features + 1) // 2) if latent_features is None else latent_features
        if min(features, latent) < 2:
            name = "features" if features < 2 else "latent_features"
            raise ValueError(
                f"{name}: expected at least 2, a column a half, got {(features, latent)}"
            )
        super().__init__(features, latent)
        self.split = (features + 1) // 2  # columns of y_1
        self.latent_split = (latent + 1) // 2
        self.first, self.second = (
            Plane(
                columns,
                latent_features=latent_columns,
                context_features=context,
                hidden=hidden,
                isotropic=isotropic,
                noise_std=noise_std,
                learn_noise=learn_noise,
                sample_noise=sample_noise,
            )
            for columns, latent_columns, context in (
                (self.split, self.latent_split, features - self.split),
                (features - self.split, latent - self.latent_split, self.latent_split),
            )
        )
        for plane in (self.first, self.second):
            orthogonal_columns(plane)

    @property
    def numbers_per_draw(self) -> int:
        """The scaled loadings of the second half, of a draw."""
        return (self.features - self.split) * max(1, self.latent_features - self.latent_split)

    def _draw(self, z: Tensor, noise: Tensor, noise_scale: float) -> Tensor:
        z1, z2 = z[:, : self.latent_split], z[:, self.latent_split :]
        y2 = self.second.draw(z2, noise[:, self.split :], noise_scale, z1)
        y1 = self.first.draw(z1, noise[:, : self.split], noise_scale, y2)
        return torch.cat([y1, y2], dim=1)

    def _invert(self, y: Tensor, noise: Tensor) -> Inverse:
        y1, y2 = y[:, : self.split], y[:, self.split :]
        num, draws = noise.shape[:2]
        z1, first = self.first.invert(y1, noise[..., : self.latent_split], y2)
        flat = y2[:, None].expand(num, draws, y2.shape[1]).reshape(num * draws, y2.shape[1])
        z2, second = self.second.invert(
            flat,
            noise[..., self.latent_split :].reshape(num * draws, 1, self.second.latent_features),
            z1.reshape(num * draws, self.latent_split),
        )
        z = torch.cat([z1, z2.reshape(num, draws, self.second.latent_features)], dim=2)
        return Inverse(z, first[:, None] + second.reshape(num, draws))

    def _embed(self, y: Tensor) -> Tensor:
        y1, y2 = y[:, : self.split], y[:, self.split :]
        z1 = self.first.embed(y1, y2, rule="pseudo-inverse")
        z2 = self.second.embed(y2, z1, rule="pseudo-inverse")
        return torch.cat([z1, z2], dim=1)
