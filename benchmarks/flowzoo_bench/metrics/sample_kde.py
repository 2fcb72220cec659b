"""How likely generated samples are under a kernel density estimate of the training data."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from flowzoo.interfaces.metric import Metric, MetricValue, Trained
from flowzoo.validation import check_positive
from flowzoo_bench.metrics.kernel_density import (
    Bandwidth,
    kde_log_prob,
    leave_one_out_bandwidth,
)
from flowzoo_bench.metrics.rows import count_non_finite, on_finite_rows, row_mean
from flowzoo_bench.tasks.coordinates import coordinates

_log = logging.getLogger(__name__)
_PAPER_BANDWIDTH = 0.1
_LOW, _HIGH, _STEPS = 1e-3, 10.0, 65
_LEAVE_OUT_ROWS = 500
_CACHE_SIZE = 32
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
# numbers, not data, keyed by a hash of the data: methods on one data set share them
_bandwidths: OrderedDict[str, Bandwidth] = OrderedDict()
_references: OrderedDict[tuple[str, str, float], float] = OrderedDict()


class SampleKDE(Metric):
    """Mean log-likelihood of generated samples under a Gaussian KDE fitted on the training rows.

    Two bandwidths: ``sample_kde_paper`` has h = 0.1, the edge of the coarse grid that the VQ-Flows
    tables fit best (Sidheekh et al. 2022, section 5; inferred), and ``sample_kde_cv`` the one of
    best leave-one-out likelihood on a log grid from 1e-3 to 10, itself reported as
    ``sample_kde_bandwidth`` (a warning is logged when it is at an edge of the grid). Each has as
    ``reference`` the same score of the held-out test rows: a model that matches the data scores
    *like* them. More is not better (samples collapsed to the densest spot score highest), so the
    direction is ``none``.

    Distances are taken in the coordinates that models see (scaled by training moments, or logit),
    and the score is the density in the original units. Samples that are not finite are counted in
    ``sample_non_finite_rows`` and make the score NaN.

    Args:
        num_samples: how many samples are drawn.
        bandwidths: which of ``paper`` and ``cv``.

    Raises:
        ValueError: ``num_samples`` is not a positive integer, or a bandwidth has another name.
    """

    def __init__(
        self, *, num_samples: int = 2500, bandwidths: Sequence[str] = ("paper", "cv")
    ) -> None:
        self.num_samples = check_positive("num_samples", num_samples)
        for name in bandwidths:
            if name not in ("paper", "cv"):
                raise ValueError(f"bandwidths: expected 'paper' or 'cv', got {name!r}")
        self.bandwidths = tuple(bandwidths)

    def compute(self, trained: Trained) -> Sequence[MetricValue]:
        """Draw samples and score them; fewer than two training rows have no ``cv`` bandwidth."""
        train, test = trained.splits.train, trained.splits.test
        seen = coordinates(trained.task, train)
        samples = trained.sample(self.num_samples, trained.seed).to("cpu", torch.float64)
        if samples.shape != (self.num_samples, trained.task.features):
            raise ValueError(
                f"sample: expected shape ({self.num_samples}, {trained.task.features}), "
                f"got {tuple(samples.shape)}"
            )
        centres = seen.encode(train)
        values = [
            MetricValue(
                "sample_non_finite_rows",
                float(count_non_finite(samples)),
                "rows",
                "min",
                n=self.num_samples,
            )
        ]
        key = _digest(centres)
        for name in self.bandwidths:
            if name == "paper":
                h = _PAPER_BANDWIDTH
            elif len(train) < 2:
                continue
            else:
                chosen = _cv_bandwidth(key, centres)
                if chosen.at_edge:
                    _log.warning(
                        "sample-kde: the cross-validated bandwidth %g is at the edge of its grid "
                        "[%g, %g]; are there duplicate rows?",
                        chosen.value,
                        _LOW,
                        _HIGH,
                    )
                h = chosen.value
                values.append(MetricValue("sample_kde_bandwidth", h, n=len(train)))

            def score(x: Tensor, h: float = h) -> Tensor:
                return kde_log_prob(seen.encode(x), centres, h) + seen.log_abs_det(x)

            mean = row_mean(on_finite_rows(score, samples))
            place = (key, _digest(test), h)
            if place not in _references:
                _remember(_references, place, float(score(test).mean()))
            values.append(
                MetricValue(
                    f"sample_kde_{name}",
                    mean.mean,
                    "nats",
                    n=mean.n,
                    stderr=mean.stderr,
                    reference=_references[place],
                )
            )
        return values


def _cv_bandwidth(key: str, centres: Tensor) -> Bandwidth:
    if key not in _bandwidths:
        found = leave_one_out_bandwidth(centres, _LOW, _HIGH, _STEPS, _LEAVE_OUT_ROWS)
        _remember(_bandwidths, key, found)
    return _bandwidths[key]


def _digest(x: Tensor) -> str:
    return hashlib.sha256(repr(x.shape).encode() + x.contiguous().numpy().tobytes()).hexdigest()


def _remember(cache: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    cache[key] = value
    while len(cache) > _CACHE_SIZE:
        cache.popitem(last=False)
