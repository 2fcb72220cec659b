"""The contract of a measurement made on a trained model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, Protocol

from torch import Tensor

from flowzoo.interfaces.mixture import Mixture
from flowzoo.interfaces.task import Splits, Task


class Sample(Protocol):
    """Draws samples in a task's original units."""

    def __call__(
        self, num: int, seed: int, *, temperature: float = 1.0, noise_scale: float | None = None
    ) -> Tensor:
        """``num`` rows (num, D) float64."""


def _as_given(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Trained:
    """What a metric may look at; data, densities and samples are in the task's original units.

    Attributes:
        task: the task.
        splits: the replicate's data, float64.
        model: the trained model, in the coordinates it was trained in.
        log_prob: ``log_prob(x, evaluation) -> (N,)`` nats in original units, float64; None is the
            default evaluation.
        sample: ``sample(num, seed, temperature=1.0, noise_scale=None) -> (num, D)`` float64 in
            original units; a ``noise_scale`` only for a model with that capability.
        seed: the run's evaluation seed.
        reconstruct: ``reconstruct(x) -> (N, D)`` float64 in original units; None for a model
            without that capability.
        embed: ``embed(x) -> (N, d)`` float64, latent coordinates of x in original units; None for
            a model without that capability.
        labels: classes of the rows of ``splits``, where the task has them.
        inside: ``inside(x) -> (N, D)``, rows in original units in the model's coordinates, of its
            dtype and on its device: what the model's own methods take. By default x itself.
    """

    task: Task
    splits: Splits
    model: Mixture
    log_prob: Callable[[Tensor, str | None], Tensor]
    sample: Sample
    seed: int
    reconstruct: Callable[[Tensor], Tensor] | None = None
    embed: Callable[[Tensor], Tensor] | None = None
    labels: Splits | None = None
    inside: Callable[[Tensor], Tensor] = _as_given


@dataclass(frozen=True)
class MetricValue:
    """One measured number.

    Attributes:
        name: column name, e.g. ``test_log_likelihood``.
        value: the number; may be non-finite, which the harness records as a status.
        unit: ``nats``, ``bits/dim``, ``s``, ...
        direction: whether larger (``max``) or smaller (``min``) is better; ``none`` for neither.
        likelihood: likelihood kind as text, for likelihoods.
        measure: measure as text, for likelihoods.
        n: how many points it is a mean of.
        stderr: standard error over those points.
        reference: the same score of held-out real data, or of the oracle, where there is one.
    """

    name: str
    value: float
    unit: str = ""
    direction: Literal["max", "min", "none"] = "none"
    likelihood: str | None = None
    measure: str | None = None
    n: int | None = None
    stderr: float | None = None
    reference: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no record can hold.

        Raises:
            ValueError: a field of the wrong type, or an unknown direction.
        """
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name: expected a text, got {self.name!r}")
        for field in ("value", "stderr", "reference"):
            number = getattr(self, field)
            if not isinstance(number, Real) and (number is not None or field == "value"):
                raise ValueError(f"{self.name}: {field}: expected a number, got {number!r}")
        for field, kind in (("unit", str), ("likelihood", str), ("measure", str), ("n", Integral)):
            given = getattr(self, field)
            if not isinstance(given, kind) and (given is not None or field == "unit"):
                raise ValueError(f"{self.name}: {field}: expected {kind.__name__}, got {given!r}")
        if self.direction not in ("max", "min", "none"):
            raise ValueError(
                f"{self.name}: direction: expected 'max', 'min' or 'none', got {self.direction!r}"
            )


class Metric(ABC):
    """A measurement; returns no values where it does not apply to the task or model."""

    @abstractmethod
    def compute(self, trained: Trained) -> Sequence[MetricValue]:
        """Measure one trained model."""
