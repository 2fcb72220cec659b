"""Several Gaussians of any rank: a prior for a union of manifolds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from flowzoo.interfaces import Prior
from flowzoo.priors.generalised_gaussian import GeneralisedGaussian
from flowzoo.validation import check_context, check_draw, check_positive, check_rows

_ROWS = 20_000  # of the codes that a start looks at


class GeneralisedGaussianMixture(Prior):
    r"""Gaussians of any rank, each on a plane of its own dimension, spread by the same noise.

    .. math:: p(\tilde z) = \sum_k \pi_k N(\tilde z;\ \mu_k,\ A_k A_k^\top + \sigma^2 I)

    exactly, by logsumexp. It is what Zhang et al. (2023), sections 5.2 and 7, leave to future work:
    data on several manifolds, whose dimensions are the ranks of the A_k. All parts start alike; a
    mixture must be told apart by ``start``.

    Args:
        features: D.
        components: K.
        rank: R, the columns of each A_k; D when None.
        noise_std: sigma, which is not learned.

    Raises:
        ValueError: K below 1, a rank outside 1..D, or sigma not positive.

    Example:
        >>> prior = GeneralisedGaussianMixture(3, components=2)
        >>> prior.eigenvalues().shape
        torch.Size([2, 3])
    """

    noise_knob: ClassVar[bool] = True

    def __init__(
        self,
        features: int,
        *,
        components: int = 2,
        rank: int | None = None,
        noise_std: float = 0.01,
    ) -> None:
        super().__init__(features)
        self.components = check_positive("components", components)
        self.parts = nn.ModuleList(
            GeneralisedGaussian(features, rank=rank, noise_std=noise_std, learn_mean=True)
            for _ in range(components)
        )
        self.logits = nn.Parameter(torch.zeros(components))

    @property
    def noise_std(self) -> Tensor:
        """sigma, ()."""
        return self.part(0).noise_std

    @property
    def noise_features(self) -> int:
        """One number chooses the part, R + D place the draw."""
        return 1 + self.part(0).noise_features

    def part(self, index: int) -> GeneralisedGaussian:
        """N(mu_k, A_k A_k' + sigma^2 I)."""
        part = self.parts[index]
        if not isinstance(part, GeneralisedGaussian):
            raise TypeError(f"parts: expected GeneralisedGaussian, got {type(part).__name__}")
        return part

    def log_prob(
        self, z: Tensor, context: Tensor | None = None, *, noise_std: Tensor | None = None
    ) -> Tensor:
        """log p(z) in nats, (N,), for z (N, D); ``noise_std`` replaces sigma.

        Raises:
            ValueError: z has the wrong shape, or a context is given.
        """
        check_context(context, self.context_features, len(z))
        return torch.logsumexp(self._joint(check_rows("z", z, self.features), noise_std), dim=1)

    def assign(self, z: Tensor) -> Tensor:
        """The part of highest posterior probability of each row, (N,) int64.

        Raises:
            ValueError: z has the wrong shape.
        """
        return self._joint(check_rows("z", z, self.features), None).argmax(dim=1)

    def sample(
        self,
        num: int,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        noise_scale: float = 1.0,
        generator: torch.Generator | None = None,
        dimensions: Sequence[int] | None = None,
    ) -> Tensor:
        """``num`` draws, (num, D): a part each, then as ``GeneralisedGaussian.sample``.

        ``dimensions`` are the K of each part.

        Raises:
            ValueError: as there, or not one dimension a part.
        """
        check_draw(num, temperature)
        check_context(context, self.context_features, num)
        kept = [None] * self.components if dimensions is None else list(dimensions)
        if len(kept) != self.components:
            raise ValueError(f"dimensions: expected {self.components}, got {len(kept)}")
        like = self.logits
        uniform = torch.rand(num, generator=generator, dtype=like.dtype, device=like.device)
        draws = [
            self.part(index).sample(
                num,
                temperature=temperature,
                noise_scale=noise_scale,
                generator=generator,
                dimension=dimension,
            )
            for index, dimension in enumerate(kept)
        ]
        return self._chosen(uniform, draws)

    def from_normal(self, noise: Tensor) -> Tensor:
        """Standard normal numbers (N, 1 + R + D) turned into draws (N, D)."""
        check_rows("noise", noise, self.noise_features)
        uniform = torch.special.ndtr(noise[:, 0])
        parts = range(self.components)
        return self._chosen(uniform, [self.part(k).from_normal(noise[:, 1:]) for k in parts])

    def eigenvalues(self) -> Tensor:
        """Of each A_k A_k', (K, D) float64, largest first."""
        return torch.stack([self.part(k).eigenvalues() for k in range(self.components)])

    @torch.no_grad()
    def start(
        self, z: Tensor, generator: torch.Generator, *, noise_variance: float | None = None
    ) -> None:
        """Take the mixture of full Gaussians that EM finds in codes z (N, D), in place.

        Args:
            z: codes.
            generator: of where EM starts.
            noise_variance: to add to that of the codes before the prior's noise is taken off: of
                noise that z does not have yet, by default all of the prior's; negative where z
                has more.

        Raises:
            ValueError: fewer rows than parts.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        if len(z) < self.components:
            raise ValueError(f"z: expected at least {self.components} rows, got {len(z)}")
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
        variance = float(self.noise_std) ** 2
        model = GaussianMixture(
            self.components,
            reg_covar=variance,  # which EM adds to each axis
            n_init=3,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a start, which training goes on
            chosen = torch.randperm(len(z), generator=generator, device=generator.device)[:_ROWS]
            model.fit(z[chosen.to(z.device)].double().cpu().numpy())
        means, covariances, weights = (
            torch.as_tensor(found).to(z)
            for found in (model.means_, model.covariances_, model.weights_)
        )
        if noise_variance is not None:
            covariances.diagonal(dim1=1, dim2=2).add_(noise_variance - variance)
        for index in range(self.components):
            self.part(index).start(means[index], covariances[index])
        self.logits.copy_(weights.log())

    def _joint(self, z: Tensor, noise_std: Tensor | None) -> Tensor:
        """log pi_k + log N_k, (N, K)."""
        each = [self.part(k).log_prob(z, noise_std=noise_std) for k in range(self.components)]
        return torch.stack(each, dim=1) + self.logits.log_softmax(dim=0)

    def _chosen(self, uniform: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """Of the parts' draws (N, D) each, the one that ``uniform`` (N,) falls to."""
        edges = self.logits.softmax(dim=0).cumsum(dim=0)[:-1]
        chosen = (uniform[:, None] > edges).sum(dim=1)
        out = draws[0]
        for index, draw in enumerate(draws[1:], start=1):
            out = torch.where((chosen == index)[:, None], draw, out)
        return out
