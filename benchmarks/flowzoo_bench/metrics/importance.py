"""How far log-likelihoods that are estimated by importance sampling may be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flowzoo.importance import ImportanceEstimate
from flowzoo.interfaces.metric import Metric, MetricValue, Trained
from flowzoo.validation import check_positive
from flowzoo_bench.metrics.rows import count_non_finite, row_mean
from flowzoo_bench.tasks.coordinates import coordinates

_SEED = 0  # rows are chosen alike for all methods
_LOW = 0.05  # quantile over rows


class Importance(Metric):
    r"""Diagnostics of models with ``importance_estimate``; no values for others.

    With S draws u of q(u|x) for each of N test rows and their weights w = p(x, u) / q(u|x),

    .. math:: L_n = \log \frac1S \sum_s w_{ns}, \quad
              \mathrm{ESS}_n = \frac{(\sum_s w_{ns})^2}{\sum_s w_{ns}^2}

    * ``effective_sample_size``: mean of ESS over rows, in draws, 1 to S; and
      ``effective_sample_size_low``, its 5 % quantile over rows.
    * ``importance_bias``: mean over rows of the estimated bias of L, in nats. Below 0: the true
      log-likelihood is higher by so much.
    * ``importance_spread``: standard deviation of the mean of L over independent repeats, in nats;
      ``importance_relative_spread`` divides it by \|mean of L\|.
    * ``elbo_gap``: mean of L minus the evaluation ``elbo`` by as many draws, in nats, and
      ``elbo_relative_gap``, the same over \|mean of L\|. Only of models with that evaluation.
    * ``importance_non_finite_rows``: rows whose estimate is NaN or infinite. They stay in the
      means, which are then not finite either.

    Only the relative numbers depend on the units of the data: their mean of L is that in the task's
    original units. No number ranks models: all are of the estimate. A q that misses a part of the
    posterior looks well in all of them.

    Cornish et al. (2020), section 5.2 of the first version (Localised Generative Flows): relative
    gap of the ELBO, and relative standard deviation over three repeats of S = 1000.

    Args:
        num_samples: S.
        max_rows: at most so many test rows, drawn with a fixed seed.
        repeats: independent estimates of all rows.

    Raises:
        ValueError: an option is not a positive integer, or ``num_samples`` or ``repeats`` is 1.
    """

    def __init__(self, *, num_samples: int = 1000, max_rows: int = 2000, repeats: int = 3) -> None:
        self.num_samples = _at_least_two("num_samples", num_samples)
        self.max_rows = check_positive("max_rows", max_rows)
        self.repeats = _at_least_two("repeats", repeats)

    def compute(self, trained: Trained) -> Sequence[MetricValue]:
        """Estimate the log-density of test rows several times.

        Raises:
            ValueError: there are no test rows, or the model does not return one number a row.
        """
        if "importance_estimate" not in trained.model.capabilities:
            return []
        test = trained.splits.test
        if len(test) == 0:
            raise ValueError("splits.test: expected at least one row, got none")
        chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(_SEED))
        rows = test[chosen[: self.max_rows]]
        x = trained.inside(rows)
        generator = torch.Generator(x.device).manual_seed(trained.seed)
        with torch.no_grad():
            found = [self._estimate(trained, x, generator) for _ in range(self.repeats)]
        scores = torch.stack([estimate.log_prob for estimate in found], dim=1)
        volume = coordinates(trained.task, trained.splits.train).log_abs_det(rows)
        means = (scores + volume[:, None]).mean(dim=0)
        level, spread = means.mean().abs(), means.std()
        size, bias = found[0].effective_sample_size, row_mean(found[0].bias)
        mean, low = row_mean(size), float(torch.quantile(size, _LOW))
        bad = float(count_non_finite(scores))
        values = [
            MetricValue("effective_sample_size", mean.mean, "draws", n=mean.n, stderr=mean.stderr),
            MetricValue("effective_sample_size_low", low, "draws", n=mean.n),
            MetricValue("importance_bias", bias.mean, "nats", n=bias.n, stderr=bias.stderr),
            MetricValue("importance_spread", float(spread), "nats", n=self.repeats),
            MetricValue("importance_relative_spread", float(spread / level), n=self.repeats),
            MetricValue("importance_non_finite_rows", bad, "rows", "min", n=mean.n),
        ]
        if "elbo" in trained.model.evaluations:
            generator.manual_seed(trained.seed)  # the first estimate's draws: less noise in the gap
            with torch.no_grad():
                bound = trained.model.log_prob(
                    x, evaluation="elbo", num_samples=self.num_samples, generator=generator
                )
            gap = row_mean(scores[:, 0] - _checked("log_prob", bound, len(x)))
            values += [
                MetricValue("elbo_gap", gap.mean, "nats", n=gap.n, stderr=gap.stderr),
                MetricValue("elbo_relative_gap", float(gap.mean / level), n=gap.n),
            ]
        return values

    def _estimate(
        self, trained: Trained, x: Tensor, generator: torch.Generator
    ) -> ImportanceEstimate:
        """Of rows in the model's coordinates, float64 on the CPU."""
        ask: Callable[..., ImportanceEstimate] = getattr(  # noqa: B009 - optional, no contract
            trained.model, "importance_estimate"
        )
        found = ask(x, num_samples=self.num_samples, generator=generator)
        return ImportanceEstimate(
            *(
                _checked(f"importance_estimate: {name}", value, len(x))
                for name, value in found._asdict().items()
            )
        )


def _checked(name: str, value: Tensor, rows: int) -> Tensor:
    """One number a row, float64 on the CPU."""
    if value.shape != (rows,):
        raise ValueError(f"{name}: expected shape ({rows},), got {tuple(value.shape)}")
    return value.to("cpu", torch.float64)


def _at_least_two(name: str, value: int) -> int:
    if check_positive(name, value) < 2:
        raise ValueError(f"{name}: expected at least 2, got {value}")
    return value
