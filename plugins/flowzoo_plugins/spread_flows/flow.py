"""A base flow over a prior of any rank, trained by the spread divergence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from flowzoo.dimension import SpectrumRank, rank_of_spectrum
from flowzoo.interfaces import EXACT, BaseFlow, Evaluation, Injection, Measure, Stage
from flowzoo.interfaces.stage import ParameterGroup
from flowzoo.layers import Whitening
from flowzoo.mixtures import FlowOverPrior, Frame
from flowzoo.priors import GeneralisedGaussian, GeneralisedGaussianMixture
from flowzoo.registry import build_part
from flowzoo.training.modes import as_in_training
from flowzoo.training.options import TrainingOptions
from flowzoo.validation import check_draw, check_finite, check_number, check_positive, check_rows
from flowzoo_plugins.spread_flows.annealing import Annealing
from flowzoo_plugins.spread_flows.atlas import Atlas, SpreadPrior
from flowzoo_plugins.spread_flows.collapse import (
    collapse_message,
    dimension_messages,
    disagreements,
)
from flowzoo_plugins.spread_flows.dimension import (
    deviations,
    rank_around,
    rank_of_rows,
    rows_to_look_at,
)
from flowzoo_plugins.spread_flows.entropy import mixture_log_prob
from flowzoo_plugins.spread_flows.geometry import pushed_lengths
from flowzoo_plugins.spread_flows.objective import (
    Entropy,
    Spread,
    SpreadRows,
    objective_of,
    spread_rows,
    watched,
)
from flowzoo_plugins.spread_flows.start import start_prior

Start = Literal["principal", "identity"]
_ROWS = 20_000  # of the training data that a start looks at
_CENTRES = 256  # training rows kept, for the entropy in validation and for the dimension
_FLOW: Mapping[str, Any] = {"name": "gin", "order": "rotation"}
_TRAINING: Mapping[str, Any] = {"epochs": 100, "batch_size": 256, "schedule": "cosine"}


class SpreadFlow(FlowOverPrior):
    r"""A bijection f over N(0, A A'), A of the rank that the data need: flows on manifolds.

    Data and model are both spread by noise, so that their divergence is finite on any manifold.
    With codes z = f(x) the paper adds it to the codes, ``spread="latent"``, and minimises

    .. math:: \mathrm{KL}(\tilde q \,\|\, \tilde p) = -H(z + \sigma\epsilon) - E \log N(z +
              \sigma\epsilon; 0, A A^\top + \sigma^2 I) - E \log\lvert\det J_f(x)\rvert

    and with ``entropy="drop"`` leaves out H. That rewards squeezing the manifold and A together,
    down to the noise, where the dimension is lost: the loss falls to its floor H(sigma epsilon),
    and training warns. ``entropy="kde"`` keeps H as estimated by the batch (its eq. 36-39), which
    stops the squeezing where rows come within a few sigma of one another, and is blind before.

    ``spread="data"``, ours and the default, adds it to the data. The entropy is then none of
    f's, dropping it changes nothing, and squeezing gains nothing: plain maximum likelihood of

    .. math:: \log p(x) = \log N(f(x); 0, A A^\top + \sigma^2 I) + \log\lvert\det J_f(x)\rvert

    at x + sigma epsilon, bounded for any f.

    ``intrinsic_dimension`` is that of the density around training rows. The eigenvalues of A A',
    which the paper reads it off, tell that of the codes: as many axes as hold them where they stay
    bent, as those of a sphere must, and fewer or more where f stretches them and A follows.
    ``spectrum_rank`` counts these; training warns where the two differ.

    Evaluations: ``exact``, the density in R^D of :math:`f^{-1}(\tilde z)`, which ``sample`` draws
    from; ``manifold``, the density against surface area at ``reconstruct(x)``, where the learned
    manifold is the image of the leading axes of A A'. Their number is that of ``spectrum_rank``
    when training ends, and D before. ``sample`` takes ``temperature`` for the spread along these
    axes and ``noise_scale`` for that around them; at 0 draws lie on the manifold.

    Source: Zhang et al. (2023), Spread Flows for Manifold Modelling. Ours: noise on the data, the
    dimension and its rule, the start, several parts, the warnings.

    Args:
        features: D.
        base_flow: name, ``{"name": ..., **options}`` or a built, unconditional bijection. Of one
            that keeps volume (``nice``, ``gin``, ``conv-gin``) the spectrum can tell the dimension;
            any other trades noise for signal freely and, without noise on the data, stretches what
            has no width without end.
        frame: ``similarity`` turns the data to their principal axes and divides them by the
            standard deviation along the longest, so that their unit changes nothing; ``rotation``
            only turns them, ``pca`` whitens them, ``none`` leaves them, as images need it.
        noise: sigma, in units of the data (of whitened data for ``pca``): far below their extent,
            above what noise they have. Or ``{"start", "end", "hold", "until"}``, see ``Annealing``.
        data_noise: the same, of more noise added to the data in training; 0 for none, as for
            ``pca``.
        spread: ``data``, ``latent``, or ``offset``: sigma itself added to every code, as the
            paper's code does. None is ``latent`` where ``entropy`` is given or codes are whitened,
            else ``data``.
        entropy: ``drop`` or ``kde``; None is ``drop`` for noise on the data, else ``kde``.
        rank: columns of A; D when None.
        components: parts of the prior, N(mu_k, A_k A_k'), one dimension each.
        start: ``principal`` takes the codes' moments for A (parts: by EM); ``identity`` is the
            paper's A = I, for one part.
        decay_on_prior: whether ``training``'s weight decay acts on A too.
        prior_lr: learning rate of the prior; that of the flow when None.
        threshold: variance over sigma^2 below which an axis is noise.
        training: changes to 100 epochs of Adam at 1e-3, batches of 256, cosine schedule, without
            early stopping.

    Raises:
        ValueError: an option out of range, or a flow that does not fit.

    Example:
        >>> from flowzoo.training import fit
        >>> model = SpreadFlow(3, base_flow={"name": "nice", "layers": 2, "hidden": [8]})
        >>> x = torch.randn(300, 1) * torch.tensor([1.0, 0.5, 0.0])
        >>> _ = fit(model, x, seed=0)
        >>> int(model.intrinsic_dimension())
        1
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
        base_flow: Mapping[str, Any] | str | BaseFlow = _FLOW,
        frame: Frame = "similarity",
        noise: float | Mapping[str, Any] | Annealing = 0.01,
        data_noise: float | Mapping[str, Any] | Annealing = 0.0,
        spread: Spread | None = None,
        entropy: Entropy | None = None,
        rank: int | None = None,
        components: int = 1,
        start: Start = "principal",
        decay_on_prior: bool = False,
        prior_lr: float | None = None,
        threshold: float = 1.0,
        training: Mapping[str, Any] | TrainingOptions | None = None,
    ) -> None:
        self.spread, self.entropy = objective_of(spread, entropy, frame == "pca")
        if start not in get_args(Start):
            raise ValueError(f"start: expected one of {get_args(Start)}, got {start!r}")
        if check_positive("components", components) > 1 and start != "principal":
            raise ValueError("start: expected 'principal' with components, or all stay alike")
        self.data_noise = Annealing.of(data_noise, "data_noise")
        if frame == "pca" and (self.spread == "data" or self.data_noise.start > 0.0):
            raise ValueError(
                "frame: expected 'none', 'rotation' or 'similarity' for noise on the data, "
                "which whitening changes"
            )
        flow: BaseFlow = build_part("base-flow", base_flow, features=features)
        if isinstance(flow, Injection):
            raise ValueError(f"base_flow: expected a bijection of R^{features}, got an injection")
        self.noise = Annealing.of(noise, "noise")
        check_number("noise", self.noise.end, strict=True)
        prior = {"name": "generalised-gaussian", "rank": rank, "noise_std": self.noise.end}
        if components > 1:
            prior |= {"name": "generalised-gaussian-mixture", "components": components}
        else:
            prior |= {"learn_mean": start == "principal"}
        super().__init__(features, base_flow=flow, prior=prior, frame=frame)
        self.training_options = TrainingOptions.of(training, _TRAINING)
        self.start, self.decay_on_prior = start, decay_on_prior
        self.prior_lr = self.training_options.lr
        if prior_lr is not None:
            self.prior_lr = check_number("prior_lr", prior_lr, strict=True)
        self.threshold = check_number("threshold", threshold, strict=True)
        if components > 1:
            self.capabilities = self.capabilities | {"assign"}  # type: ignore[misc]
        self.register_buffer("centres", torch.zeros(_CENTRES, features))
        self.register_buffer("kept", torch.full((components,), rank or features))

    def atlas(self, dimension: int | None = None) -> Atlas:
        """The parts of the prior, each with the axes that span its manifold: K, by default found.

        Raises:
            ValueError: K is outside 0..R.
        """
        kept: list[int] = self.kept.tolist()
        return Atlas(self._prior(), kept if dimension is None else [dimension] * len(kept))

    @property
    def evaluations(self) -> Mapping[str, Evaluation]:  # type: ignore[override]
        """``exact``, and ``manifold`` of the dimension found, where there is one."""
        found = {"exact": Evaluation()}
        if self.kept.is_meta or len(self.kept) > 1 or int(self.kept) == 0:
            return found
        surface = Measure("surface", dim=int(self.kept), learned=True)
        return {**found, "manifold": Evaluation(EXACT, surface)}

    # -- training --------------------------------------------------------------------------------

    def _flow_stages(self) -> tuple[Stage, ...]:
        options = self.training_options
        decay = options.weight_decay
        noisy = self.data_noise.start > 0.0 and self.spread != "data"  # with noise of its own
        training = options.stage(
            "maximum-likelihood",
            self._loss,
            groups=(
                ParameterGroup(("base_flow",), options.lr, decay),
                ParameterGroup(("prior",), self.prior_lr, decay if self.decay_on_prior else 0.0),
            ),
            noise_features=self.features * (1 + noisy),
            validate=self._objective,
            monitor=self._monitor,
            watch=collapse_message,
        )
        return (
            Stage(name="start", groups=(), prepare=self._place),
            training,
            Stage(name="dimension", groups=(), prepare=self._count),
        )

    @torch.no_grad()
    def _place(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        """Take sigma to the units of the codes, choose the centres, and A by the codes' moments."""
        if isinstance(self.frame, Whitening) and self.frame.scaling == "longest":
            unit = torch.linalg.vector_norm(self.frame.colour[0].double())
            for part in self.atlas().parts:
                part.noise_std.copy_(self.noise.end / unit)
        order = torch.randperm(len(x_train), generator=generator, device=generator.device)
        order = order.to(x_train.device)
        self.centres.copy_(x_train[order[torch.arange(_CENTRES, device=order.device) % len(order)]])
        if self.start == "identity":
            return
        x = x_train[order[:_ROWS]]
        noise = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
        with as_in_training(self):
            z = self._encode(x + self._data_std(0.0) * noise)[0]
        variance = float(self._prior().noise_std) ** 2
        if self.spread == "data":  # which z has, and at the first level
            variance *= 1.0 - (self.noise.at(0.0) / self.noise.end) ** 2
        start_prior(self._prior(), z, variance, generator)

    @torch.no_grad()
    def _count(
        self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator
    ) -> Sequence[str] | None:
        """Keep the dimension found, and say where it tells nothing."""
        self.kept.copy_(self.spectrum_rank().dimension.reshape(-1))
        rank, parts = self.atlas().parts[0].rank, len(self.kept)
        rows = [len(x_train)] * parts
        if len(x_train) <= _ROWS:
            rows = torch.bincount(self.assign(x_train), minlength=parts).tolist()
        limit, axes = (rank if rank < self.features else None), self.kept.tolist()
        around = self.intrinsic_dimension().reshape(-1).tolist()
        return dimension_messages(axes, rows, limit) + disagreements(axes, around)

    def _loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        rows = self._spread(x, noise, progress)
        if self.entropy == "kde":
            std = self._std(self.noise.at(progress))
            return rows.surrogate + mixture_log_prob(rows.z, std)
        return rows.surrogate

    def _objective(self, x: Tensor, noise: Tensor) -> Tensor:
        """What is validated: the loss at the final noise, its entropy that of the centres.

        The entropy of the rows themselves would depend on how many are looked at together.
        """
        value = self._spread(x, noise, 1.0).surrogate
        if self.entropy == "kde":
            centres = self._encode(self.centres)[0]
            value = value + mixture_log_prob(centres, self._std(self.noise.end)).mean()
        return value

    def _monitor(self, x: Tensor, noise: Tensor) -> Mapping[str, Tensor]:
        std = self._std(self.noise.end)
        if self.spread == "data":  # whose units are its own
            std = torch.tensor(self._data_std(1.0), dtype=x.dtype, device=x.device)
        return watched(self._spread(x, noise, 1.0), x, noise, self.spread, std)

    def _spread(self, x: Tensor, noise: Tensor, progress: float) -> SpreadRows:
        std, data_std = self._std(self.noise.at(progress)), self._data_std(progress)
        return spread_rows(self._encode, self._prior(), x, noise, self.spread, std, data_std)

    def _data_std(self, progress: float) -> float:
        """Of all noise on the data at a share ``progress`` of the training."""
        spread = self.noise.at(progress) if self.spread == "data" else 0.0
        return math.hypot(spread, self.data_noise.at(progress))

    def _std(self, value: float) -> Tensor:
        """sigma in units of the codes, of the prior's dtype and device: its own, scaled."""
        return self._prior().noise_std * (value / self.noise.end)

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
        median over the rows: of x, (N, D), or of training rows, by default. Of a part that none of
        them belongs to it is what the eigenvalues of A A' say.

        Raises:
            ValueError: x has the wrong shape, dtype or device, or a non-finite row; or the inverse
                of f has no finite Jacobian at one.
        """
        x = self.centres[: rows_to_look_at(self.features)] if x is None else x
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
        """Coordinates of f(x) along the K leading axes of A A', (N, K); K as found, or given.

        Of several parts those of the row's own, with zeros up to the largest K.

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

        ``dimension`` is the K of the manifold in place of the one found; all draws of the model at
        temperature and noise_scale 1 have one law, whatever K.

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
