"""What goes into training and what comes out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor


class TrainingData(NamedTuple):
    """The rows of one member, (N, D) each; members of a pack have equal shapes."""

    train: Tensor
    valid: Tensor


@dataclass(frozen=True)
class CurvePoint:
    """One epoch of a learning curve.

    Attributes:
        epoch: epochs done, from 1.
        step: optimiser steps done.
        train: mean training objective over the epoch, as it was when each batch was seen.
        valid: validation objective after the epoch.
        seconds: training time since the stage began, of the whole pack.
        monitored: means over the validation rows of what the stage monitors, by name.
    """

    epoch: int
    step: int
    train: float
    valid: float
    seconds: float
    monitored: dict[str, float] = field(default_factory=dict)


@dataclass
class StageResult:
    """What one stage did for one member; ``best_epoch`` 0 means a closed-form stage or no epoch.

    ``warnings`` holds what the stage's ``watch`` said, each message once.
    """

    name: str
    epochs: int = 0
    best_epoch: int = 0
    best_valid: float = float("inf")
    curve: list[CurvePoint] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class FitResult:
    """How the training of one member ended.

    Attributes:
        status: ``diverged`` when a loss became non-finite; the other members of a pack go on.
        reason: why, for ``diverged``; empty for ``ok``.
        stages: one entry per stage begun.
        seconds: training wall-clock of the member's whole pack, resumed parts added up.
        members: how many members shared those seconds.
        parameters: trainable parameters of the member.
    """

    status: Literal["ok", "diverged"] = "ok"
    reason: str = ""
    stages: list[StageResult] = field(default_factory=list)
    seconds: float = 0.0
    members: int = 1
    parameters: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain data, for checkpoints and records."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FitResult:
        """The inverse of ``to_json``."""
        stages = [
            StageResult(**{**stage, "curve": [CurvePoint(**point) for point in stage["curve"]]})
            for stage in data["stages"]
        ]
        return cls(**{**data, "stages": stages})
