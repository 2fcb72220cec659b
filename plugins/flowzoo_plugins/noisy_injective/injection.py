"""Noisy maps across dimensions that can be inverted at random."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from flowzoo.interfaces import Prior
from flowzoo.validation import check_number, check_positive, check_rows


class Inverse(NamedTuple):
    """K draws z of the stochastic inverse q(z|y) of each of N rows y.

    Attributes:
        z: (N, K, d).
        log_weight: log p(y|z) - log q(z|y), (N, K), nats.
    """

    z: Tensor
    log_weight: Tensor


class NoisyInjection(nn.Module, ABC):
    r"""A conditional density p(y|z) of y in R^D given z in R^d, d <= D, and its stochastic inverse.

    With y = f(z) + noise it is :math:`q(z|y) = p(y|z) / \int p(y|z')\,dz'`, the likelihood
    normalised in z (Cunningham et al. (2020), eq. 6). Whatever the density of z is,

    .. math:: \int p_z(z)\, p(y|z)\, dz
              = E_{q(z|y)}\left[ p_z(z)\, \frac{p(y|z)}{q(z|y)} \right]

    Subclasses implement ``_draw``, ``_invert`` and ``_embed``.

    Args:
        features: D.
        latent_features: d.

    Raises:
        ValueError: d below 1 or above D.
    """

    def __init__(self, features: int, latent_features: int) -> None:
        super().__init__()
        self.features = check_positive("features", features)
        self.latent_features = check_positive("latent_features", latent_features)
        if latent_features > features:
            raise ValueError(
                f"latent_features: expected at most features={features}, got {latent_features}"
            )

    @property
    def numbers_per_draw(self) -> int:
        """How many numbers a draw of the stochastic inverse holds in memory at once."""
        return self.latent_features

    @property
    def marginal(self) -> Prior | None:
        """The density of y for a standard normal z, where it has a closed form."""
        return None

    def draw(self, z: Tensor, noise: Tensor, *, noise_scale: float = 1.0) -> Tensor:
        """y given z (N, d), (N, D), from standard normal numbers ``noise`` (N, D).

        ``noise_scale`` multiplies the standard deviation of the noise; 0 gives ``place(z)``.

        Raises:
            ValueError: a wrong shape, or a negative scale.
        """
        check_rows("z", z, self.latent_features)
        check_rows("noise", noise, self.features)
        return self._draw(z, noise, check_number("noise_scale", noise_scale))

    def place(self, z: Tensor) -> Tensor:
        """The point of the manifold at z (N, d), (N, D): what is drawn without noise."""
        return self.draw(z, z.new_zeros(len(z), self.features), noise_scale=0.0)

    def invert(self, y: Tensor, noise: Tensor) -> Inverse:
        """Draws of q(z|y) for y (N, D), from standard normal numbers ``noise`` (N, K, d).

        Differentiable in everything.

        Raises:
            ValueError: wrong shapes.
        """
        check_rows("y", y, self.features)
        if noise.ndim != 3 or noise.shape[::2] != (len(y), self.latent_features):
            expected = f"({len(y)}, K, {self.latent_features})"
            raise ValueError(f"noise: expected shape {expected}, got {tuple(noise.shape)}")
        return self._invert(y, noise)

    def embed(self, y: Tensor) -> Tensor:
        """The pseudo-inverse of y (N, D), (N, d): z itself where y = ``place(z)``.

        Raises:
            ValueError: wrong shape.
        """
        return self._embed(check_rows("y", y, self.features))

    def start(self, y: Tensor, x: Tensor) -> None:
        """Take a start from codes y (N, D) of data x, in place; by default none."""

    @abstractmethod
    def _draw(self, z: Tensor, noise: Tensor, noise_scale: float) -> Tensor: ...

    @abstractmethod
    def _invert(self, y: Tensor, noise: Tensor) -> Inverse: ...

    @abstractmethod
    def _embed(self, y: Tensor) -> Tensor: ...
