"""A flow over a Gaussian of any rank and its noise: dimension, manifold, density, draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowzoo.dimension import SpectrumRank, rank_of_spectrum
from flowzoo.interfaces import EXACT, BaseFlow, Evaluation, Injection, Measure
from flowzoo.layers import Whitening
from flowzoo.mixtures import FlowOverPrior, Frame
from flowzoo.priors import GeneralisedGaussian, GeneralisedGaussianMixture
from flowzoo.registry import build_part
from flowzoo.validation import check_draw, check_finite, check_number, check_rows
from flowzoo_plugins.spread_flows.annealing import Annealing
from flowzoo_plugins.spread_flows.atlas import Atlas, SpreadPrior
from flowzoo_plugins.spread_flows.dimension import (
    deviations,
    rank_around,
    rank_of_rows,
    some_of_each,
)
from flowzoo_plugins.spread_flows.geometry import pushed_lengths

CENTRES = 256
"""Training rows kept, for the entropy in validation and for the dimension."""


class ManifoldFlow(FlowOverPrior):
    """A bijection over N(mu, A A' + sigma^2 I), or several: what such a model says and draws.

    Args:
        features: D.
        base_flow: the bijection, unconditional.
        frame: see ``FlowOverPrior``.
        noise: sigma, of which the last is the model's.
        data_noise: of more noise on the data in training, which is in the model's density.
        rank: columns of A; D when None.
        components: parts of the prior.
        learn_mean: of one part, whether mu is learned or 0.
        threshold: variance over sigma^2 below which an axis is noise.

    Raises:
        ValueError: an option out of range, or a flow that does not fit.

    Source: Zhang et al. (2023), section 3: prior, spectrum, projection. Ours: the dimension around
    rows, several parts, the area in the density on the manifold.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {
            "sample_and_log_prob",
            "embed",
            "reconstruct",
            "noise_scale",
            "intrinsic_dimension",
            "local_dimension",
            "spectrum",
            "codes",
        }
    )

    centres: Tensor  # (M, D), training rows
    kept: Tensor  # (K,) int64, axes of each part that span its manifold

    def __init__(
        self,
        features: int,
        *,
        base_flow: Mapping[str, Any] | str | BaseFlow,
        frame: Frame,
        noise: Annealing,
        data_noise: Annealing,
        rank: int | None,
        components: int,
        learn_mean: bool,
        threshold: float,
    ) -> None:
        flow: BaseFlow = build_part("base-flow", base_flow, features=features)
        if isinstance(flow, Injection):
            raise ValueError(f"base_flow: expected a bijection of R^{features}, got an injection")
        check_number("noise", noise.end, strict=True)
        prior = {"name": "generalised-gaussian", "rank": rank, "noise_std": noise.end}
        if components > 1:
            prior |= {"name": "generalised-gaussian-mixture", "components": components}
        else:
            prior |= {"learn_mean": learn_mean}
        super().__init__(features, base_flow=flow, prior=prior, frame=frame)
        self.noise, self.data_noise = noise, data_noise
        self.threshold = check_number("threshold", threshold, strict=True)
        if components > 1:
            self.capabilities = self.capabilities | {"assign"}  # type: ignore[misc]
        self.register_buffer("centres", torch.zeros(CENTRES, features))
        self.register_buffer("kept", torch.full((components,), rank or features))

    def atlas(self, dimension: int | None = None) -> Atlas:
        """The parts of the prior, each with the axes that span its manifold: K, by default kept.

        Raises:
            ValueError: K is outside 0..R.
        """
        kept: list[int] = self.kept.tolist()
        return Atlas(self._prior(), kept if dimension is None else [dimension] * len(kept))

    @property
    def evaluations(self) -> Mapping[str, Evaluation]:  # type: ignore[override]
        """``exact``, and ``manifold`` of as many axes as A A' was found to have, if any."""
        found = {"exact": Evaluation()}
        if self.kept.is_meta or len(self.kept) > 1 or int(self.kept) == 0:
            return found
        surface = Measure("surface", dim=int(self.kept), learned=True)
        return {**found, "manifold": Evaluation(EXACT, surface)}

    def _prior(self) -> SpreadPrior:
        if not isinstance(self.prior, GeneralisedGaussian | GeneralisedGaussianMixture):
            raise TypeError(f"prior: expected GeneralisedGaussian, got {type(self.prior).__name__}")
        return self.prior

    # -- dimension -------------------------------------------------------------------------------

    @torch.no_grad()
    def spectrum(self) -> Tensor:
        """Eigenvalues of A A' over sigma^2, largest first, (D,), or (K, D) with K parts."""
        prior = self._prior()
        ratios = prior.eigenvalues() / prior.noise_std.double().square()
        return ratios.to(prior.noise_std.dtype)

    def spectrum_rank(self) -> SpectrumRank:
        """Axes of A A' before the widest gap of its spectrum above the noise: () or (K,).

        What the paper reads the dimension off: see ``flowzoo.dimension`` for the rule.
        """
        return rank_of_spectrum(self.spectrum(), self.threshold)

    def intrinsic_dimension(self) -> Tensor:
        """Of the density around training rows, (), or (K,) of its parts: see ``dimension_rank``."""
        return self.dimension_rank().dimension

    @torch.no_grad()
    def dimension_rank(self, x: Tensor | None = None) -> SpectrumRank:
        """The dimension, () or (K,), by the density around rows x, and how far to trust it.

        The rule of ``spectrum_rank`` for the eigenvalues of ``local_dimension``, of each the
        median over the rows: of x, (N, D), or of some of the training rows, O(D^3) each. Of a part
        that none of them belongs to it is what the eigenvalues of A A' say.

        Raises:
            ValueError: x has the wrong shape, dtype or device, no row, or a non-finite one; or the
                inverse of f has no finite Jacobian at one.
        """
        if x is None:
            chart = self.assign(self.centres)
            x = self.centres[some_of_each(chart, len(self.kept), self.features)]
        elif len(x) == 0:
            raise ValueError("x: expected at least one row, got none")
        return rank_around(*self._around(x), self._floor(), self.spectrum_rank())

    @torch.no_grad()
    def local_dimension(self, x: Tensor) -> Tensor:
        r"""Dimension of the model's density around each row, (N,), by its covariance there.

        .. math:: J (A A^\top + \sigma^2 I) J^\top, \quad J = \partial f^{-1} / \partial z

        O(D^3) a row. NaN where J is not finite.

        Raises:
            ValueError: x has the wrong shape, dtype or device, or a non-finite row.
        """
        return rank_of_rows(self._around(x)[0], self._floor()).to(x.dtype)

    def _around(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Deviations of the density around rows, (N, D) float64, and the rows' parts, (N,)."""
        z, atlas = self.codes(self._checked(x)), self.atlas()
        whitened = isinstance(self.frame, Whitening) and self.frame.scaling == "axes"
        decode = self._decode_whitened if whitened else self._decode_rows  # where noise is equal
        return deviations(atlas, z, decode), atlas.assign(z)

    def _floor(self) -> float:
        """The variance below which that of the density is noise: it has the noise in it."""
        return (1.0 + self.threshold) * math.hypot(self.noise.end, self.data_noise.end) ** 2

    # -- codes and the manifold ------------------------------------------------------------------

    def assign(self, x: Tensor) -> Tensor:
        """The part of highest posterior probability, (N,) int64."""
        return self.atlas().assign(self.codes(self._checked(x)))

    def embed(self, x: Tensor, dimension: int | None = None) -> Tensor:
        """Coordinates of f(x) along the K leading axes of A A', (N, K).

        K is that of ``spectrum_rank`` when training ended, or given. Of several parts those of the
        row's own, with zeros up to the largest K.

        Raises:
            ValueError: x has the wrong shape, dtype or device, a non-finite row, or K is outside
                0..R.
        """
        return self.atlas(dimension).coordinates(self.codes(self._checked(x)))

    def reconstruct(self, x: Tensor, dimension: int | None = None) -> Tensor:
        """The point of the manifold of K dimensions whose code is nearest to f(x), (N, D).

        Raises:
            ValueError: x has the wrong shape, dtype or device, a non-finite row, or K is outside
                0..R.
        """
        return self._decode_rows(self.atlas(dimension).onto(self.codes(self._checked(x))))

    # -- density and draws -----------------------------------------------------------------------

    def _log_prob(
        self,
        x: Tensor,
        evaluation: str,
        num_samples: int | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        if evaluation != "manifold":
            return super()._log_prob(x, evaluation, num_samples, generator)
        part, dimension = self.atlas().parts[0], int(self.kept)
        with torch.no_grad():
            coordinates = part.project(self._encode(x)[0], dimension)
            directions = part.axes().vectors[:, :dimension]
            lengths = pushed_lengths(self._decode_rows, part.place(coordinates), directions)
            log_area = lengths.log().sum(dim=1).to(x.dtype)
            return part.projected_log_prob(coordinates) - log_area

    def sample(
        self,
        num: int,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        noise_scale: float = 1.0,
        dimension: int | None = None,
    ) -> Tensor:
        """``num`` draws, (num, D), at ``temperature`` along the manifold, ``noise_scale`` around.

        ``dimension`` is the K of the manifold in place of that of ``spectrum_rank``; all draws of
        the model at temperature and noise_scale 1 have one law, whatever K.

        Raises:
            ValueError: ``num`` or ``noise_scale`` is negative, ``temperature`` not positive, or K
                outside 0..R.
        """
        check_draw(num, temperature)
        scale = check_number("noise_scale", noise_scale)
        with torch.no_grad():
            z = self.atlas(dimension).sample(num, temperature, scale, generator)
            return self._decode_rows(z)

    def _sample(self, num: int, temperature: float, generator: torch.Generator | None) -> Tensor:
        return self.sample(num, temperature=temperature, generator=generator)

    def _checked(self, x: Tensor) -> Tensor:
        return check_finite("x", check_rows("x", x, self.features, self._reference()))

    def _decode_rows(self, z: Tensor) -> Tensor:
        return self._decode(z)[0]

    def _decode_whitened(self, z: Tensor) -> Tensor:
        return self.base_flow.decode(z).value
