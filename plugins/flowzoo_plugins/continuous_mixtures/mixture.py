"""What continuous and discrete index mixtures share: training, evaluations, draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from flowzoo.importance import ImportanceEstimate, Weights, weighted_draws
from flowzoo.interfaces import LOWER_BOUND, Evaluation, Likelihood, Mixture, Stage
from flowzoo.mixtures import Frame, build_frame, into_frame
from flowzoo.training.options import TrainingOptions
from flowzoo.validation import check_finite, check_positive, check_rows
from flowzoo_plugins.continuous_mixtures.charts import Charts, mixed
from flowzoo_plugins.continuous_mixtures.joint import Joint, Relax
from flowzoo_plugins.continuous_mixtures.objectives import Objective, bound, log_weights

TRAINING: Mapping[str, Any] = {"epochs": 300, "lr": 1e-3, "batch_size": 1000, "patience": 30}
"""Cornish et al. (2020), section 5 and appendix D.2."""


class IndexedMixture(Mixture):
    """A joint density of data and indices, known by bounds and by importance sampling.

    ``sample`` at temperature t scales the spread of z_0 and of every continuous u by t, and draws
    finite u and charts by p^{1/t}.

    Args:
        features: D.
        joint: log p(x, u) and log q(u|x).
        charts: a partition as a further index, or None.
        frame: see ``FlowOverPrior``.
        objective: see ``objectives``.
        training_samples: K, draws a row in training.
        validation_samples: draws a row of the bound ``importance`` that picks the best epoch.
        num_samples: S, draws a row in evaluations.
        training: changes to ``TRAINING``.

    Raises:
        ValueError: an option out of range.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"embed", "importance_estimate"})

    def __init__(
        self,
        features: int,
        *,
        joint: Joint,
        charts: Charts | None,
        frame: Frame,
        objective: Objective,
        training_samples: int,
        validation_samples: int,
        num_samples: int,
        training: Mapping[str, Any] | TrainingOptions | None,
    ) -> None:
        super().__init__(features)
        if objective not in get_args(Objective):
            raise ValueError(f"objective: expected one of {get_args(Objective)}, got {objective!r}")
        self.objective = objective
        self.training_samples = check_positive("training_samples", training_samples)
        self.validation_samples = check_positive("validation_samples", validation_samples)
        self.num_samples = check_positive("num_samples", num_samples)
        self.frame = build_frame(frame, features)
        self.joint = joint
        self.charts = charts
        if charts is not None:
            self.capabilities = self.capabilities | {"assign"}  # type: ignore[misc]
        self.training_options = TrainingOptions.of(training, TRAINING)
        self.evaluations = {
            "importance": Evaluation(Likelihood("estimate", self.num_samples)),
            "elbo": Evaluation(LOWER_BOUND),
        }

    # -- training --------------------------------------------------------------------------------

    def stages(self) -> tuple[Stage, ...]:
        """Charts and frame where there are any, then one stage by the objective."""
        charts = () if self.charts is None else self.charts.stages("charts")
        frame = () if self.frame is None else (Stage("frame", groups=(), prepare=self._fit_frame),)
        return (*charts, *frame, self._main_stage())

    def _main_stage(self) -> Stage:
        draws = max(self.training_samples, self.validation_samples)
        overlap = 1 if self.charts is None else self.charts.overlap
        return self.training_options.stage(
            self.objective,
            self._loss,
            groups=("joint",) if self.charts is None else ("joint", "charts.logits"),
            noise_features=draws * overlap * self.joint.noise_features,
            validate=self._validate,
        )

    @torch.no_grad()
    def _fit_frame(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        if self.frame is not None:
            self.frame.fit(x_train)

    def _loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        return -self._bound(x, noise, self.objective, self.training_samples)

    def _validate(self, x: Tensor, noise: Tensor) -> Tensor:
        return -self._bound(x, noise, "importance", self.validation_samples)

    def _bound(
        self,
        x: Tensor,
        noise: Tensor,
        objective: Objective,
        draws: int,
        relax: Relax | None = None,
    ) -> Tensor:
        """A bound of log p(x), (N,), from the first ``draws`` draws in the noise."""
        y, volume = self._framed(x)
        context = log_weight = None
        overlap = 1
        if self.charts is not None:
            chart = self.charts.nearest(x)
            overlap = self.charts.overlap
            context = self.charts.context(chart)
            log_weight = self.charts.log_prob()[chart]
        taken = noise[:, : draws * overlap * self.joint.noise_features]
        shaped = taken.reshape(len(x), overlap, draws, self.joint.noise_features)
        found = bound(
            self.joint,
            y,
            shaped,
            objective,
            context=context,
            log_weight=log_weight,
            relax=relax,
        )
        return found + volume

    # -- density ---------------------------------------------------------------------------------

    def _log_prob(
        self,
        x: Tensor,
        evaluation: str,
        num_samples: int | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        weights, volume = self._weights(x, num_samples, generator)
        return volume + (weights.mean_log() if evaluation == "elbo" else weights.log_mean())

    @torch.no_grad()
    def importance_estimate(
        self,
        x: Tensor,
        *,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> ImportanceEstimate:
        """The evaluation ``importance``, how many of its S draws count, and its bias, (N,) each.

        Without gradients, so memory does not grow with S.

        Raises:
            TypeError: a model that was trained by sums, and has nothing to draw from.
            ValueError: bad rows as in ``log_prob``, or ``num_samples`` is no count.
        """
        if "importance" not in self.evaluations:
            raise TypeError(
                f"importance_estimate: expected a {type(self).__name__} with an inference model, "
                f"got one trained by exact sums; its evaluations are {list(self.evaluations)}"
            )
        check_finite("x", check_rows("x", x, self.features, self._reference()))
        weights, volume = self._weights(x, num_samples, generator)
        found = weights.estimate()
        return found._replace(log_prob=found.log_prob + volume)

    def _weights(
        self, x: Tensor, num_samples: int | None, generator: torch.Generator | None
    ) -> tuple[Weights, Tensor]:
        """Weighted draws for rows of x, and the frame's volume term."""
        y, volume = self._framed(x)
        count = self.num_samples if num_samples is None else num_samples
        if self.charts is None:
            return self._of_chart(y, None, count, generator), volume
        parts = [
            self._of_chart(y, chart, count, generator) for chart in range(self.charts.num_charts)
        ]
        return mixed(parts, self.charts.log_prob()), volume

    def _of_chart(
        self, y: Tensor, chart: int | None, count: int, generator: torch.Generator | None
    ) -> Weights:
        def weigh(rows: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
            return log_weights(self.joint, rows, noise, self._context_of(chart, rows))

        return weighted_draws(weigh, y, self.joint.noise_features, count, generator=generator)

    def _context_of(self, chart: int | None, rows: Tensor) -> Tensor | None:
        if self.charts is None or chart is None:
            return None
        index = torch.full((len(rows),), chart, dtype=torch.int64, device=rows.device)
        return self.charts.context(index)

    # -- between data and latent space -----------------------------------------------------------

    def embed(self, x: Tensor) -> Tensor:
        """z_0 at the centre of every q(u_l|z_l), (N, D), by the nearest chart.

        Raises:
            ValueError: x has the wrong shape, dtype or device.
        """
        check_rows("x", x, self.features, self._reference())
        context = None if self.charts is None else self.charts.context(self.assign(x))
        return self.joint.centre(self._framed(x)[0], context).latent

    def assign(self, x: Tensor) -> Tensor:
        """The nearest chart of each row, (N,) int64.

        Raises:
            TypeError: there are no charts.
            ValueError: x has the wrong shape, dtype or device.
        """
        if self.charts is None:
            raise TypeError(f"{type(self).__name__}: expected a partitioner, it has no charts")
        check_rows("x", x, self.features, self._reference())
        return self.charts.nearest(x)[:, 0]

    @torch.no_grad()
    def _sample(self, num: int, temperature: float, generator: torch.Generator | None) -> Tensor:
        context = None
        if self.charts is not None:
            context = self.charts.context(self.charts.draw(num, temperature, generator))
        x = self.joint.sample(num, context, temperature=temperature, generator=generator)
        return x if self.frame is None else self.frame.decode(x).value

    def _framed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x in the frame (N, D), and its volume term (N,)."""
        return into_frame(self.frame, x)
