"""VQ-Flows: a mixture of local flows over the charts of a learned atlas."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from flowzoo.charts import Condition
from flowzoo.interfaces import (
    LOWER_BOUND,
    BaseFlow,
    Evaluation,
    Likelihood,
    Mixture,
    Partitioner,
    Prior,
    Stage,
    Step,
)
from flowzoo.interfaces.stage import within
from flowzoo.registry import build_part
from flowzoo.training.modes import evaluating
from flowzoo.training.options import TrainingOptions
from flowzoo.validation import (
    check_draw,
    check_finite,
    check_number,
    check_positive,
    check_rows,
)
from flowzoo_plugins.vq_flows import evaluation as scoring
from flowzoo_plugins.vq_flows import heads, inference, injective, leakage, objectives, sampling
from flowzoo_plugins.vq_flows.charts import ActiveCharts, active_charts
from flowzoo_plugins.vq_flows.frames import ChartFrames
from flowzoo_plugins.vq_flows.local import LocalFlows
from flowzoo_plugins.vq_flows.presets import PAPER_PARTITIONER, PAPER_TRAINING
from flowzoo_plugins.vq_flows.weights import ChartWeights, WeightKind

ELEMENTS_PER_CALL = 2**22  # numbers a flow call may gather per row for context and frames
NOT_COMPUTED = -1.0


class VQFlow(Mixture):
    r"""A mixture of local normalizing flows, one a chart, that share a conditional network.

    .. math:: p(x) = \sum_k p_k\, q(f_k(x))\, |\det J f_k(x)|

    A partitioner cuts the data into K charts U_k; chart weights p_k are counted, and the local
    flows f_k are trained by maximum likelihood on the charts that contain each row. Evaluations:
    ``full`` (all K charts; what ``sample`` draws from), ``truncated`` (only charts that contain x;
    a lower bound whose mass is sum p_k Z_k), ``elbo`` (expectation over the choice of chart) and
    ``renormalised`` (truncated, each flow divided by an estimate of Z_k).

    With an injection as base flow (VQ-CEF: ``cef``) these are densities in R^D of the thickened
    manifolds. With m = 1 and no margin there is also ``manifold``: the density of the nearest
    chart's flow against its surface at ``reconstruct(x)``, the number the paper's tables hold,
    which says nothing without the distance from x to there.

    With a noisy injective prior each chart is a plane with noise bent by its flow: ``sample`` takes
    ``noise_scale``, ``embed`` gives coordinates on the plane, ``reconstruct`` the nearest manifold
    point. With one a chart these are heads, and ``intrinsic_dimension`` is the charts' own.

    Source: Sidheekh et al. (2022), with the corrections listed in this plugin's README; chart
    frames are ours.

    Args:
        features: D.
        base_flow: the shared conditional flow.
        partitioner: where the charts are.
        prior: ``standard-normal`` or another prior's name, mapping or module, on the flow's latent
            space.
        prior_per_chart: whether each chart has a prior with parameters of its own.
        ard: weight of automatic relevance determination of a noisy injective prior, which empties
            the directions of its planes that the likelihood does not need, 1 is the posterior mode;
            it wants no frames, a volume-preserving flow, isotropic noise and fewer than D columns.
        overlap: m, how many nearest charts contain a point.
        margin: epsilon, which widens charts to distances (1 + epsilon) times the m-th smallest.
        max_active: with a margin, the most charts a point may lie in; None is K. Objective
            ``exact`` costs this many flow evaluations a row.
        weights: ``membership`` (eq. 14), ``consistent`` (frequencies of the choice q) or
            ``learned``.
        condition: what the flow is told about the chart: its ``code`` or ``one-hot`` index.
        objective: ``hard`` (nearest chart only; exact when m = 1), ``sampled`` (one chart drawn a
            row, eq. 17) or ``exact`` (sum over the active charts, eq. 18).
        frames: ``pca`` whitens each chart by its own moments first; ``none`` is the paper.
        frame_inflation: factor on the frames' covariance.
        frame_shrinkage: share of the mean variance mixed into the frames' covariance.
        leak_penalty: weight of the distance by which g_k(z) leaves chart k, in the training loss.
        leak_samples: draws for each chart behind Z_k.
        training: changes to the paper's optimiser and budget of the maximum-likelihood stage
            (``PAPER_TRAINING``).

    Raises:
        ValueError: an option out of range, or parts that do not fit together.

    Example:
        >>> model = VQFlow(2, partitioner={"name": "kmeans", "num_charts": 4}).eval()
        >>> model.log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample_and_log_prob", "embed", "assign"})

    inside: Tensor  # (K,) estimate of Z_k, or NOT_COMPUTED

    def __init__(
        self,
        features: int,
        *,
        base_flow: str | Mapping[str, Any] | BaseFlow = "realnvp",
        partitioner: str | Mapping[str, Any] | Partitioner = PAPER_PARTITIONER,
        prior: str | Mapping[str, Any] | Prior = "standard-normal",
        prior_per_chart: bool = False,
        ard: float = 0.0,
        overlap: int = 1,
        margin: float = 0.0,
        max_active: int | None = None,
        weights: WeightKind = "membership",
        condition: Condition = "code",
        objective: objectives.Objective = "hard",
        frames: Literal["none", "pca"] = "none",
        frame_inflation: float = 1.6,
        frame_shrinkage: float = 0.0,
        leak_penalty: float = 0.0,
        leak_samples: int = 1024,
        training: Mapping[str, Any] | TrainingOptions | None = None,
    ) -> None:
        super().__init__(features)
        self.partitioner = build_part("partitioner", partitioner, features=features)
        self.num_charts = self.partitioner.num_charts
        self.overlap = check_positive("overlap", overlap)
        if overlap > self.num_charts:
            raise ValueError(f"overlap: expected at most {self.num_charts} charts, got {overlap}")
        if max_active is not None and not (
            overlap <= check_positive("max_active", max_active) <= self.num_charts
        ):
            raise ValueError(
                f"max_active: expected {overlap} to {self.num_charts}, got {max_active}"
            )
        if objective not in get_args(objectives.Objective):
            raise ValueError(
                f"objective: expected one of {get_args(objectives.Objective)}, got {objective!r}"
            )
        if frames not in ("none", "pca"):
            raise ValueError(f"frames: expected 'none' or 'pca', got {frames!r}")
        self.margin, self.max_active = check_number("margin", margin), max_active
        self.objective = objective
        self.leak_penalty = check_number("leak_penalty", leak_penalty)
        self.leak_samples = check_positive("leak_samples", leak_samples)
        self.flow = LocalFlows(
            features,
            base_flow=base_flow,
            prior=prior,
            prior_per_chart=prior_per_chart,
            num_charts=self.num_charts,
            code_features=self.partitioner.code_features,
            condition=condition,
            frames=ChartFrames(
                features, self.num_charts, inflation=frame_inflation, shrinkage=frame_shrinkage
            )
            if frames == "pca"
            else None,
        )
        self.weights = ChartWeights(self.num_charts, weights)
        self.register_buffer("inside", torch.full((self.num_charts,), NOT_COMPUTED))
        self.training_options = TrainingOptions.of(training, PAPER_TRAINING)

        self.evaluations = {
            "full": Evaluation(),
            "truncated": Evaluation(LOWER_BOUND),
            "elbo": Evaluation(LOWER_BOUND),
            "renormalised": Evaluation(Likelihood("estimate", self.leak_samples)),
        }
        if self.flow.thickened is not None:
            injective.accept(self, self.flow.thickened.injection)
            self.capabilities = self.capabilities | {"reconstruct"}  # type: ignore[misc]
        self.ard = check_number("ard", ard)
        if heads.gaussian(self.flow.prior) is not None:
            self.capabilities = self.capabilities | heads.CAPABILITIES  # type: ignore[misc]
        if self.ard > 0.0:
            heads.check_ard(self)
        matrices = self.flow.frames is not None or self.flow.base.num_charts is not None
        width = self.flow.base.context_features + (features * features if matrices else features)
        width = max(width, heads.numbers_a_chart(self.flow.prior))
        self.rows_per_call = max(1, min(2**15, ELEMENTS_PER_CALL // width))

    # -- local flows -----------------------------------------------------------------------------

    def active(self, x: Tensor) -> ActiveCharts:
        """The charts that contain each row of x (N, D), nearest first."""
        distances = self.partitioner.distances(x).detach()
        return active_charts(distances, self.overlap, self.margin, self.max_active)

    def chart_encode(self, x: Tensor, chart: Tensor) -> Step:
        """f_k(x) and log|det J f_k(x)| for ``chart`` (N,) int64."""
        return self.flow.encode(x, chart, self.partitioner.codes)

    def chart_decode(self, z: Tensor, chart: Tensor) -> Step:
        """g_k(z) and log|det J f_k| there, for ``chart`` (N,) int64."""
        return self.flow.decode(z, chart, self.partitioner.codes)

    def chart_log_prob(self, x: Tensor, chart: Tensor) -> Tensor:
        """log p(x | k), (N,), nats, for ``chart`` (N,) int64."""
        return self.flow.log_prob(x, chart, self.partitioner.codes)

    # -- training --------------------------------------------------------------------------------

    def stages(self) -> tuple[Stage, ...]:
        """The partition, then chart weights and frames (closed form), then maximum likelihood.

        For an injection its own stages stand around the last one, see ``InjectiveTraining``.
        """
        partition = tuple(within(stage, "partitioner") for stage in self.partitioner.stages())
        latent = self.flow.prior.noise_features if self.leak_penalty > 0.0 else 0
        around = injective.training(self)
        groups = ("flow",) if around is None else (*around.trained(), "flow.prior")
        return (
            *partition,
            Stage(name="charts", groups=(), prepare=self._prepare_charts),
            *(() if around is None else around.before()),
            self.training_options.stage(
                "maximum-likelihood" if around is None else around.name(),
                self._loss,
                groups=(*groups, "weights") if self.weights.kind == "learned" else groups,
                noise_features=latent + (self.objective == "sampled"),
                penalty=partial(heads.ard_penalty, self) if self.ard > 0.0 else None,
            ),
            *(() if around is None else around.after()),
            *((Stage(name="prune", groups=(), prepare=self._prune),) if self.ard > 0.0 else ()),
        )

    def _prune(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        heads.prune(self)

    def _loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        return objectives.training_loss(self, x, noise)

    @torch.no_grad()
    def _prepare_charts(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        """Second pass over the training rows (section 4.2.2): weights, frames, heads' start."""
        with evaluating(self.partitioner):
            parts = [self.active(rows) for rows in torch.split(x_train, self.rows_per_call)]
        active = ActiveCharts(
            torch.cat([part.index for part in parts]),
            None if self.margin == 0.0 else torch.cat([part.present() for part in parts]),
        )
        self.weights.fit(active)
        if self.flow.frames is not None:
            self.flow.frames.fit(x_train, active.nearest)
        heads.start(self, x_train, active.nearest)
        self.inside.fill_(NOT_COMPUTED)

    # -- density ---------------------------------------------------------------------------------

    def log_prob(
        self,
        x: Tensor,
        *,
        evaluation: str | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """log p(x) in nats, (N,), by one of ``evaluations``; see ``Mixture.log_prob``.

        Raises:
            ValueError: an unknown evaluation, bad rows, or ``manifold`` where it is not defined.
        """
        injective.check_evaluation(self, evaluation)
        return super().log_prob(
            x, evaluation=evaluation, num_samples=num_samples, generator=generator
        )

    def _log_prob(
        self,
        x: Tensor,
        evaluation: str,
        num_samples: int | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        log_inside = None
        if evaluation == "renormalised":
            log_inside = self.chart_leak(num_samples=num_samples, generator=generator).log()
        if evaluation == "manifold":
            return injective.log_prob(self, x)
        return scoring.log_prob(self, x, evaluation, log_inside)

    def chart_leak(
        self, *, num_samples: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Z_k = P(g_k(z) in U_k), (K,): how much of its mass each local flow keeps in its chart.

        By default the estimate from ``leak_samples`` draws a chart, made once after training with a
        fixed seed and kept in the state dict (standard error sqrt(Z (1 - Z) / leak_samples)). With
        ``num_samples`` or ``generator`` a fresh estimate, which is not kept.

        Raises:
            ValueError: ``num_samples`` is not a positive integer.
        """
        if num_samples is not None or generator is not None:
            draws = self.leak_samples if num_samples is None else num_samples
            return leakage.inside_mass(self, check_positive("num_samples", draws), generator)
        if self.inside.device.type != "meta" and bool((self.inside < 0.0).any()):
            fixed = torch.Generator(device=self.inside.device).manual_seed(0)
            self.inside.copy_(leakage.inside_mass(self, self.leak_samples, fixed))
        return self.inside.clone()

    # -- sampling --------------------------------------------------------------------------------

    def sample(
        self,
        num: int,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        evaluation: str | None = None,
        noise_scale: float = 1.0,
    ) -> Tensor:
        """``num`` draws (num, D): z ~ q, k ~ p(k), x = g_k(z).

        Args:
            num: how many.
            temperature: scales the prior's spread; of a noisy injective prior that of its plane.
            generator: where randomness comes from.
            evaluation: which density to draw from: ``full`` (the default) or ``renormalised``, by
                rejection.
            noise_scale: factor on the standard deviation of a noisy injective prior's noise; at 0
                draws lie on the charts' manifolds.

        Raises:
            ValueError: an argument out of range, or a ``noise_scale`` where there is no noise.
        """
        if evaluation not in (None, "full", "renormalised"):
            raise ValueError(f"evaluation: expected 'full' or 'renormalised', got {evaluation!r}")
        check_draw(num, temperature)
        scale = heads.check_noise_scale(self, noise_scale)
        draw = sampling.rejected if evaluation == "renormalised" else sampling.draw
        return draw(self, num, temperature, scale, generator)

    def _sample(self, num: int, temperature: float, generator: torch.Generator | None) -> Tensor:
        return sampling.draw(self, num, temperature, 1.0, generator)

    @torch.no_grad()
    def sample_and_log_prob(
        self, num: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """``num`` draws (num, D) and their log-density (num,) under ``full``, in nats."""
        x = self.sample(num, generator=generator)
        return x, self._log_prob(x, "full", None, None)

    # -- inference -------------------------------------------------------------------------------

    def responsibilities(self, x: Tensor, *, evaluation: str | None = None) -> Tensor:
        """p(k | x), (N, K), under an evaluation; the default one when None.

        For ``elbo`` the choice q(k | x). NaN for a row to which the evaluation gives density 0.

        Raises:
            ValueError: an unknown evaluation, or bad rows.
        """
        if evaluation is None:
            evaluation = next(iter(self.evaluations))
        elif evaluation not in self.evaluations:
            raise ValueError(
                f"evaluation: expected one of {sorted(self.evaluations)}, got {evaluation!r}"
            )
        check_finite("x", check_rows("x", x, self.features, self._reference()))
        if evaluation == "manifold":
            evaluation = "truncated"  # one chart a point, whatever the measure
        log_inside = self.chart_leak().log() if evaluation == "renormalised" else None
        return scoring.posterior(self, x, evaluation, log_inside)

    def embed(
        self,
        x: Tensor,
        mode: inference.EmbedMode = "argmax",
        *,
        evaluation: str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Latent codes (N, d) of x (N, D).

        ``sample``: f_k(x) with k ~ p(k | x). ``mean``: sum p(k | x) f_k(x). ``argmax``: f_s(x) with
        s the most probable chart (section 4.2.3, eq. 19). With a noisy injective prior, instead of
        f_k(x), the posterior mean of the coordinates on chart k's plane.
        """
        probabilities = self.responsibilities(x, evaluation=evaluation)
        z = inference.embed(self, x, probabilities, mode, generator)
        return z[:, : self.flow.code_columns]

    def reconstruct(self, x: Tensor) -> Tensor:
        """The point of the charts' manifolds that x (N, D) is taken to, (N, D).

        With an injection that of the nearest chart's; with a noisy injective prior the nearest of
        those of all charts.

        Raises:
            TypeError: the charts have no manifold.
            ValueError: bad rows.
        """
        check_finite("x", check_rows("x", x, self.features, self._reference()))
        if heads.gaussian(self.flow.prior) is not None:
            return heads.reconstruct(self, x)
        return injective.reconstruct(self, x)

    def intrinsic_dimension(self, threshold: float = 1.0) -> Tensor:
        """Each chart's directions with over ``threshold`` times the noise's variance, (K,).

        They tell the data's dimension where the flow preserves volume, the noise is isotropic and
        there are no frames.

        Raises:
            TypeError: the prior is not noisy injective.
        """
        return (heads.signal_to_noise(self) > check_number("threshold", threshold)).sum(dim=1)

    def assign(self, x: Tensor) -> Tensor:
        """The nearest chart of each row of x (N, D), (N,) int64."""
        check_finite("x", check_rows("x", x, self.features, self._reference()))
        return self.active(x).nearest

    def transform_layers(self, x: Tensor) -> list[Tensor]:
        """x after each layer under its nearest chart; the chart's frame counts as the first layer.

        Raises:
            TypeError: the base flow cannot be taken apart.
        """
        return self.flow.trajectory(x, self.assign(x), self.partitioner.codes)
