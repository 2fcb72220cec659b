"""A stage of training, as data the trainer reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, float], Tensor]
Penalty = Callable[[], Tensor]
Validate = Callable[[Tensor, Tensor], Tensor]
Prepare = Callable[[Tensor, Tensor, torch.Generator], Sequence[str] | None]
AfterEpoch = Callable[[Tensor, torch.Generator], None]
Monitor = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
Watch = Callable[[Mapping[str, float]], str | None]
Schedule = Literal["constant", "cosine", "step"]


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters trained with one learning rate; those with ``requires_grad=False`` stay frozen.

    Attributes:
        names: dotted prefixes of parameter or module names, relative to the model; ``""`` is all.
        lr: learning rate.
        weight_decay: L2 coefficient as in Adam.
    """

    names: tuple[str, ...] = ("",)
    lr: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for field in ("lr", "weight_decay"):
            value = getattr(self, field)
            if not 0.0 <= value < math.inf:
                raise ValueError(f"{field}: expected a finite number >= 0, got {value}")


@dataclass(frozen=True)
class Stage:
    """One stage: what is minimised, over which parameters, for how long.

    Callables are bound methods of the model. ``loss``, ``penalty``, ``validate`` and ``monitor``
    run under vmap with swapped parameters: shapes must not depend on values, running state is
    updated in place. The others run per member, outside vmap; ``prepare`` and ``after_epoch`` may
    do anything to the model, ``watch`` sees it as ``prepare`` left it or later.

    Attributes:
        name: shown in logs and records.
        loss: ``loss(x, noise, progress) -> (N,)`` in nats per row; None for a closed-form stage.
            ``noise`` is (N, noise_features) standard normal; ``progress`` runs from 0 to 1.
        noise_features: standard-normal numbers one row of the loss consumes.
        penalty: ``penalty() -> scalar`` added to the mean loss.
        groups: the trained parameters, each in the first group that names it. Modules outside
            every group are in eval mode.
        epochs: passes over the data; exactly one of ``epochs`` and ``steps`` where there is a loss.
        steps: optimiser steps.
        batch_size: rows a step; batches of an epoch differ by at most one row, none is dropped.
        schedule: learning-rate schedule over the stage; ``step`` is
            lr x decay^floor(max(0, step - decay_after) / decay_every).
        decay: factor of schedule ``step``, in (0, 1].
        decay_every: optimiser steps between its reductions; given with ``step`` and only then.
        decay_after: optimiser steps before they are counted.
        patience: epochs without a better validation objective before stopping; None: never stop.
        clip_norm: gradient-norm clip of each member on its own.
        averaging: decay of an exponential weight average, which is then validated and kept.
        decoupled_decay: AdamW's weight decay instead of Adam's.
        prepare: ``prepare(x_train, x_valid, generator)`` once, before the first step. A list that
            it returns holds messages to warn of, with the member's results.
        after_epoch: ``after_epoch(x_train, generator)`` after each epoch.
        validate: ``validate(x, noise) -> (N,)``, fixed noise; by default the training objective.
        monitor: ``monitor(x, noise) -> {name: (N,)}``, logged beside the objectives: after each
            epoch, in eval mode, of the state, rows and noise that are validated, in batches of
            ``batch_size`` rows; then averaged over the rows.
        watch: ``watch({name: mean}) -> message | None`` after each epoch, of what ``monitor`` found
            and the objectives ``train`` and ``valid``. A message becomes a ``TrainingWarning``,
            once a member; messages that differ in their numbers only are one.
    """

    name: str
    loss: Loss | None = None
    noise_features: int = 0
    penalty: Penalty | None = None
    groups: tuple[ParameterGroup, ...] = (ParameterGroup(),)
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 128
    schedule: Schedule = "constant"
    decay: float = 0.9
    decay_every: int | None = None
    decay_after: int = 0
    patience: int | None = None
    clip_norm: float | None = None
    averaging: float | None = None
    decoupled_decay: bool = False
    prepare: Prepare | None = None
    after_epoch: AfterEpoch | None = None
    validate: Validate | None = None
    monitor: Monitor | None = None
    watch: Watch | None = None

    def __post_init__(self) -> None:
        if self.loss is not None and (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"stage {self.name!r}: expected exactly one of epochs and steps, "
                f"got epochs={self.epochs}, steps={self.steps}"
            )
        for field in ("epochs", "steps", "batch_size", "patience", "decay_every"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"stage {self.name!r}: expected {field} >= 1, got {value}")
        if self.schedule not in get_args(Schedule):
            raise ValueError(
                f"stage {self.name!r}: expected schedule in {get_args(Schedule)}, "
                f"got {self.schedule!r}"
            )
        if (self.schedule == "step") != (self.decay_every is not None):
            raise ValueError(
                f"stage {self.name!r}: expected decay_every with schedule 'step' and only then, "
                f"got decay_every={self.decay_every} with {self.schedule!r}"
            )
        if not 0.0 < self.decay <= 1.0:
            raise ValueError(f"stage {self.name!r}: expected decay in (0, 1], got {self.decay}")
        if self.decay_after < 0:
            raise ValueError(
                f"stage {self.name!r}: expected decay_after >= 0, got {self.decay_after}"
            )
        if self.clip_norm is not None and not self.clip_norm > 0.0:
            raise ValueError(f"stage {self.name!r}: expected clip_norm > 0, got {self.clip_norm}")
        if self.averaging is not None and not 0.0 <= self.averaging < 1.0:
            raise ValueError(
                f"stage {self.name!r}: expected averaging in [0, 1), got {self.averaging}"
            )


def within(stage: Stage, part: str) -> Stage:
    """A part's stage, as a stage of the model that holds the part under the name ``part``."""
    groups = tuple(
        ParameterGroup(
            tuple(f"{part}.{name}" if name else part for name in group.names),
            group.lr,
            group.weight_decay,
        )
        for group in stage.groups
    )
    return replace(stage, groups=groups)
