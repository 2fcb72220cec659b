"""Test log-likelihood with its kind and measure, beside the oracle on the same points."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import log

import torch
from torch import Tensor

from flowzoo.interfaces.measure import Evaluation
from flowzoo.interfaces.metric import Metric, MetricValue, Trained
from flowzoo_bench.metrics.reconstruction import reconstruction_error
from flowzoo_bench.metrics.rows import LN2, count_non_finite, row_mean
from flowzoo_bench.tasks.coordinates import changes_measure

_log = logging.getLogger(__name__)


class LogLikelihood(Metric):
    """Mean test log-likelihood in nats for every evaluation the model declares.

    The default evaluation gives ``test_log_likelihood``, another one ``test_log_likelihood[name]``;
    so for all names below.

    * ``test_log_likelihood``: its ``reference`` is the oracle's mean on the same test points, where
      the task knows its density against the same measure.
    * ``test_log_likelihood_median``: of the rows' scores, the lower of the middle two where their
      number is even. Far below it, the mean is that of a few rows which the model gives almost
      no density.
    * ``gap_to_oracle``: oracle minus model, mean over the points, standard error paired. Negative
      beyond three standard errors cannot be for an exact density.
    * ``test_bits_per_dim``: for dequantised data with bins of width w,
      ``-(log p / D + ln w) / ln 2``; its unit says at how many bits a level, for only at equal ones
      do numbers compare.
    * ``test_non_finite_rows``: rows scored NaN or infinite. They stay in the mean, which is then
      not finite either.

    A density against a surface the model has learned has direction ``none``: a worse projection can
    raise it, and no two models share the surface, so it ranks nothing. It comes with its other
    half, ``reconstruction_error``, the root mean squared distance of the rows to that surface. On
    standardised data, or their logit, such a density is not known in original units (that would
    take the stretch of the surface, row by row): where it is not the default evaluation it is left
    out, with a warning in the log; as the default it is an error.

    Args:
        all_evaluations: also score the evaluations that are not the default.
    """

    def __init__(self, *, all_evaluations: bool = True) -> None:
        self.all_evaluations = all_evaluations

    def compute(self, trained: Trained) -> Sequence[MetricValue]:
        """Score the test rows.

        Raises:
            ValueError: there are no test rows, or the model does not return one number a row.
        """
        test = trained.splits.test
        if len(test) == 0:
            raise ValueError("splits.test: expected at least one row, got none")
        truth: Tensor | None = None
        values: list[MetricValue] = []
        for index, (name, evaluation) in enumerate(trained.model.evaluations.items()):
            if index > 0 and not self.all_evaluations:
                break
            if (
                index > 0
                and changes_measure(trained.task)
                and evaluation.measure.kind != "lebesgue"
            ):
                _log.warning(
                    "log-likelihood: %r left out, a density against %s is not known in the "
                    "original units of transformed data",
                    name,
                    evaluation.measure,
                )
                continue
            scores = trained.log_prob(test, None if index == 0 else name)
            if scores.shape != (len(test),):
                raise ValueError(
                    f"log_prob: expected shape ({len(test)},), got {tuple(scores.shape)}"
                )
            oracle = None
            if (
                trained.task.oracle is not None
                and trained.task.oracle.measure == evaluation.measure
            ):
                if truth is None:
                    truth = trained.task.log_prob(test).to("cpu", torch.float64)
                oracle = truth
            suffix = "" if index == 0 else f"[{name}]"
            scores = scores.detach().to("cpu", torch.float64)
            values += self._values(suffix, evaluation, scores, oracle, trained)
        return values + reconstruction_error(trained)

    def _values(
        self,
        suffix: str,
        evaluation: Evaluation,
        scores: Tensor,
        oracle: Tensor | None,
        trained: Trained,
    ) -> list[MetricValue]:
        likelihood, measure = str(evaluation.likelihood), str(evaluation.measure)
        mean = row_mean(scores)
        values = [
            MetricValue(
                f"test_log_likelihood{suffix}",
                mean.mean,
                "nats",
                "none" if evaluation.measure.learned else "max",
                likelihood,
                measure,
                mean.n,
                mean.stderr,
                None if oracle is None else float(oracle.mean()),
            ),
            MetricValue(
                f"test_log_likelihood_median{suffix}",
                float(scores.median()),
                "nats",
                "none" if evaluation.measure.learned else "max",
                likelihood,
                measure,
                mean.n,
            ),
            MetricValue(
                f"test_non_finite_rows{suffix}",
                float(count_non_finite(scores)),
                "rows",
                "min",
                n=mean.n,
            ),
        ]
        if oracle is not None:
            gap = row_mean(oracle - scores)
            values.append(
                MetricValue(
                    f"gap_to_oracle{suffix}",
                    gap.mean,
                    "nats",
                    "min",
                    likelihood,
                    measure,
                    gap.n,
                    gap.stderr,
                )
            )
        width = trained.task.bin_width
        if width is not None and evaluation.measure.kind == "lebesgue":
            features, bits = trained.task.features, trained.task.bits
            values.append(
                MetricValue(
                    f"test_bits_per_dim{suffix}",
                    -(mean.mean / features + log(width)) / LN2,
                    "bits/dim" if bits is None else f"bits/dim at {bits} bits",
                    "min",
                    likelihood,
                    measure,
                    mean.n,
                    None if mean.stderr is None else mean.stderr / features / LN2,
                )
            )
        return values
