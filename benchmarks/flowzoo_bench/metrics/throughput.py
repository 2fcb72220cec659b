"""How fast a trained model samples and scores, and how many parameters it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter

import torch

from flowzoo.interfaces.metric import Metric, MetricValue, Trained
from flowzoo.interfaces.mixture import Mixture
from flowzoo.validation import check_positive


class Throughput(Metric):
    """Samples a second, test rows scored a second (default evaluation), and parameter count.

    One untimed warm-up of each, then the median of ``repeats`` timed calls; the device is
    synchronised around every clock. Non-parametric models keep their data in buffers: they have
    few ``parameters`` and many ``buffer_values``.

    Args:
        num_samples: samples drawn, and at most so many test rows scored, in a call.
        repeats: timed calls.

    Raises:
        ValueError: an option is not a positive integer.
    """

    def __init__(self, *, num_samples: int = 2500, repeats: int = 3) -> None:
        self.num_samples = check_positive("num_samples", num_samples)
        self.repeats = check_positive("repeats", repeats)

    def compute(self, trained: Trained) -> Sequence[MetricValue]:
        """Time sampling and scoring."""
        model = trained.model
        rows = trained.splits.test[: self.num_samples]

        def draw() -> object:
            return trained.sample(self.num_samples, trained.seed)

        def score() -> object:
            return trained.log_prob(rows, None)

        values = [
            MetricValue(
                "samples_per_second",
                self.num_samples / self._seconds(draw, model),
                "1/s",
                "max",
                n=self.repeats,
            )
        ]
        if len(rows):
            values.append(
                MetricValue(
                    "log_prob_rows_per_second",
                    len(rows) / self._seconds(score, model),
                    "1/s",
                    "max",
                    n=self.repeats,
                )
            )
        parameters = sum(parameter.numel() for parameter in model.parameters())
        buffers = sum(buffer.numel() for buffer in model.buffers())
        return [
            *values,
            MetricValue("parameters", float(parameters)),
            MetricValue("buffer_values", float(buffers)),
        ]

    def _seconds(self, call: Callable[[], object], model: Mixture) -> float:
        call()  # warm-up: allocation, caches, kernels
        times = []
        for _ in range(self.repeats):
            _synchronize(model)
            start = perf_counter()
            call()
            _synchronize(model)
            times.append(perf_counter() - start)
        return max(median(times), 1e-9)


def _synchronize(model: Mixture) -> None:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cuda":
            torch.cuda.synchronize(tensor.device)
            return
