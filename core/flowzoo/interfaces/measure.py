"""What a reported density is a density of, and how exactly it is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Likelihood:
    """How a number relates to log p(x): exact, a lower bound, or an estimate from samples."""

    kind: Literal["exact", "lower_bound", "estimate"]
    num_samples: int | None = None

    def __post_init__(self) -> None:
        if (self.kind == "estimate") != (self.num_samples is not None):
            raise ValueError(
                f"num_samples: expected one exactly when kind is 'estimate', got {self}"
            )

    def __str__(self) -> str:
        return f"estimate({self.num_samples})" if self.kind == "estimate" else self.kind


@dataclass(frozen=True)
class Measure:
    """What a density is taken against; numbers of different measure are never ranked together.

    ``lebesgue`` on R^D; ``surface`` of a manifold of dimension ``dim``; ``smoothed`` with noise of
    standard deviation ``sigma``, only when the scored points carry that noise. A surface is
    ``learned`` when it is the model's own: points are scored where the model projects them to, so
    the number says nothing without their distance to it, and no two models share the surface.
    """

    kind: Literal["lebesgue", "surface", "smoothed"] = "lebesgue"
    dim: int | None = None
    sigma: float | None = None
    learned: bool = False

    def __post_init__(self) -> None:
        if self.learned and self.kind != "surface":
            raise ValueError(f"learned: expected a surface, got {self!r}")
        if (self.kind == "surface") != (self.dim is not None):
            raise ValueError(f"dim: expected one exactly when kind is 'surface', got {self!r}")
        if (self.kind == "smoothed") != (self.sigma is not None):
            raise ValueError(f"sigma: expected one exactly when kind is 'smoothed', got {self!r}")

    def __str__(self) -> str:
        if self.kind == "surface":
            return f"surface(dim={self.dim}{', learned' if self.learned else ''})"
        if self.kind == "smoothed":
            return f"smoothed(sigma={self.sigma:g})"
        return self.kind


EXACT = Likelihood("exact")
LOWER_BOUND = Likelihood("lower_bound")
LEBESGUE = Measure("lebesgue")


@dataclass(frozen=True)
class Evaluation:
    """One way a mixture scores points: likelihood kind and measure, which every table prints."""

    likelihood: Likelihood = EXACT
    measure: Measure = LEBESGUE
