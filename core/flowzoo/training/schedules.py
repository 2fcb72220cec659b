"""Learning-rate schedules."""

from __future__ import annotations

import math

from flowzoo.interfaces.stage import Stage


def rate_factor(stage: Stage, step: int, total_steps: int) -> float:
    """What the learning rates of ``stage`` are multiplied by at its step, counted from 0."""
    if stage.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * (step / max(1, total_steps))))
    if stage.schedule == "step" and stage.decay_every is not None:
        return stage.decay ** (max(0, step - stage.decay_after) // stage.decay_every)
    return 1.0
