"""Measurements made on trained models, and the statistics over replicates."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowzoo_bench.metrics.embedding_separability import (
        EmbeddingSeparability as EmbeddingSeparability,
    )
    from flowzoo_bench.metrics.image_quality import ImageQuality as ImageQuality
    from flowzoo_bench.metrics.importance import Importance as Importance
    from flowzoo_bench.metrics.intrinsic_dimension import IntrinsicDimension as IntrinsicDimension
    from flowzoo_bench.metrics.log_likelihood import LogLikelihood as LogLikelihood
    from flowzoo_bench.metrics.sample_kde import SampleKDE as SampleKDE
    from flowzoo_bench.metrics.statistics import Interval as Interval
    from flowzoo_bench.metrics.statistics import mean_and_t_interval as mean_and_t_interval
    from flowzoo_bench.metrics.statistics import paired_difference as paired_difference
    from flowzoo_bench.metrics.support_distance import SupportDistance as SupportDistance
    from flowzoo_bench.metrics.throughput import Throughput as Throughput
    from flowzoo_bench.metrics.two_sample import TwoSample as TwoSample

_HOME = {
    "EmbeddingSeparability": "embedding_separability",
    "ImageQuality": "image_quality",
    "Importance": "importance",
    "Interval": "statistics",
    "IntrinsicDimension": "intrinsic_dimension",
    "LogLikelihood": "log_likelihood",
    "SampleKDE": "sample_kde",
    "SupportDistance": "support_distance",
    "Throughput": "throughput",
    "TwoSample": "two_sample",
    "mean_and_t_interval": "statistics",
    "paired_difference": "statistics",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
