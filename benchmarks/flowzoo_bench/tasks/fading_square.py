"""Images of one grey square on black, whose only coordinate is its grey value."""

from __future__ import annotations

from math import log, pi

import torch
from numpy.random import Generator
from torch import Tensor

from flowzoo.validation import check_finite, check_positive, check_rows
from flowzoo_bench.tasks.blurred_interval import blurred_interval
from flowzoo_bench.tasks.embedded import EmbeddedTask


class FadingSquare(EmbeddedTask):
    r"""side x side pixels, black but for a square of one grey value g ~ U[0, 1].

    Rubenstein et al. (2018); as in Zhang et al. (2023), section 5.1: 32 x 32 pixels, a square of 6,
    here from row and column 13. The images are a segment of length k = ``square``, u = k g its arc
    length and e its direction:

    .. math:: p(x) = 1 / k \quad \text{or} \quad
              \frac{\Phi(u / \sigma) - \Phi((u - k) / \sigma)}{k}
              N(x - u e;\ 0, \sigma^2 I_{D-1}), \; u = e^\top x

    without and with noise. Grey values are continuous, so there are no levels, nor bits per
    dimension. Models see the pixels as they are: scaled by training moments, the constant black
    ones would only be shifted, and with noise they would become as large as the square.

    Args:
        side: of the image, in pixels.
        square: side of the square, in pixels.
        start: first row and column of the square, counted from 0.
        noise: sigma, standard deviation of the noise added to each pixel; 0 for none.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: a count is not a positive integer, the square is not inside the image, or the
            noise is negative or not finite.

    Example:
        >>> task = FadingSquare(side=4, square=2, start=1)
        >>> task.place(torch.tensor([[0.5]]))[0, 4:8]  # the second row
        tensor([0.0000, 0.5000, 0.5000, 0.0000], dtype=torch.float64)
    """

    dimension = 1

    def __init__(
        self,
        *,
        side: int = 32,
        square: int = 6,
        start: int = 13,
        noise: float = 0.0,
        num_train: int = 5000,
        num_valid: int = 1000,
        num_test: int = 1000,
    ) -> None:
        side = check_positive("side", side)
        square = check_positive("square", square)
        if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start <= side - square:
            raise ValueError(
                f"start: expected 0 to side - square = {side - square}, so that the square is "
                f"inside the image, got {start!r}"
            )
        super().__init__(
            side**2, noise=noise, num_train=num_train, num_valid=num_valid, num_test=num_test
        )
        self.square = square
        self.shape = (1, side, side)
        image = torch.zeros(side, side, dtype=torch.float64)
        image[start : start + square, start : start + square] = 1
        self._white = image.flatten()

    def place(self, z: Tensor) -> Tensor:
        """The images with grey values z: (N, D) float64 for (N, 1).

        Raises:
            ValueError: z has the wrong shape or is not finite.
        """
        return check_finite("z", check_rows("z", z, 1)).to(torch.float64) * self._white

    def _support(self, num: int, rng: Generator) -> Tensor:
        return self.place(torch.as_tensor(rng.random((num, 1))))

    def _surface_log_prob(self, x: Tensor) -> Tensor:
        return torch.full_like(x[:, 0], -log(self.square))

    def _blurred_log_prob(self, x: Tensor) -> Tensor:
        along = self._along(x)
        residual = (x - along[:, None] * (self._white / self.square)).square().sum(dim=1)
        variance = self.noise**2
        across = residual / variance + (self.features - 1) * log(2 * pi * variance)
        return blurred_interval(along, self.square, self.noise) - 0.5 * across

    def _distance(self, x: Tensor) -> Tensor:
        grey = (self._along(x) / self.square).clamp(0, 1)
        norm: Tensor = torch.linalg.vector_norm(x - grey[:, None] * self._white, dim=1)
        return norm

    def _along(self, x: Tensor) -> Tensor:
        """u, the arc length of the nearest point of the segment's line, (N,)."""
        return x @ self._white / self.square
