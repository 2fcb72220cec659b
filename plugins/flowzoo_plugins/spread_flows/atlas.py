"""The planes of a prior's parts, and where rows of codes stand to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowzoo.priors import GeneralisedGaussian, GeneralisedGaussianMixture

SpreadPrior = GeneralisedGaussian | GeneralisedGaussianMixture


class Atlas:
    """The prior's parts, each with the K leading axes that span its plane.

    Args:
        prior: one Gaussian or several.
        dimensions: K of each part.

    Raises:
        ValueError: a K that is no whole number of 0..R.
    """

    def __init__(self, prior: SpreadPrior, dimensions: Sequence[int]) -> None:
        self.prior = prior
        self.dimensions = [
            part.check_dimension(each) for part, each in zip(self.parts, dimensions, strict=True)
        ]

    @property
    def parts(self) -> tuple[GeneralisedGaussian, ...]:
        """The Gaussians."""
        if isinstance(self.prior, GeneralisedGaussian):
            return (self.prior,)
        return tuple(self.prior.part(index) for index in range(self.prior.components))

    def assign(self, z: Tensor) -> Tensor:
        """The part each row belongs to, (N,) int64."""
        if isinstance(self.prior, GeneralisedGaussian):
            return torch.zeros(len(z), dtype=torch.int64, device=z.device)
        return self.prior.assign(z)

    def coordinates(self, z: Tensor) -> Tensor:
        """Along the axes of each row's own plane, with zeros up to the largest K: (N, K)."""
        found = z.new_zeros(len(z), max(self.dimensions))
        for rows, part, dimension in self._split(z):
            found[rows, :dimension] = part.project(z[rows], dimension)
        return found

    def onto(self, z: Tensor) -> Tensor:
        """The nearest point of each row's own plane, (N, D)."""
        found = torch.empty_like(z)
        for rows, part, dimension in self._split(z):
            found[rows] = part.place(part.project(z[rows], dimension))
        return found

    def sample(
        self, num: int, temperature: float, noise_scale: float, generator: torch.Generator | None
    ) -> Tensor:
        """Codes, (num, D), at temperature t along the planes and ``noise_scale`` s around them."""
        if isinstance(self.prior, GeneralisedGaussian):
            return self.prior.sample(
                num,
                temperature=temperature,
                noise_scale=noise_scale,
                generator=generator,
                dimension=self.dimensions[0],
            )
        return self.prior.sample(
            num,
            temperature=temperature,
            noise_scale=noise_scale,
            generator=generator,
            dimensions=self.dimensions,
        )

    def _split(self, z: Tensor) -> list[tuple[Tensor, GeneralisedGaussian, int]]:
        chart = self.assign(z)
        return [
            (torch.nonzero(chart == index)[:, 0], part, dimension)
            for index, (part, dimension) in enumerate(zip(self.parts, self.dimensions, strict=True))
        ]
