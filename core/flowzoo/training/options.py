"""Optimiser and budget settings, as a user writes them in Python or TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flowzoo.interfaces.stage import Loss, ParameterGroup, Schedule, Stage
from flowzoo.options import check_options


@dataclass(frozen=True)
class TrainingOptions:
    """How a maximum-likelihood stage is trained; see ``Stage`` for the meaning of each field.

    Raises:
        ValueError: a value that no stage takes.

    Example:
        >>> TrainingOptions.of({"epochs": 90, "lr": 1e-3, "schedule": "cosine"}).epochs
        90
    """

    epochs: int | None = 100
    steps: int | None = None
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.0
    decoupled_decay: bool = False
    schedule: Schedule = "constant"
    decay: float = 0.9
    decay_every: int | None = None
    decay_after: int = 0
    patience: int | None = None
    clip_norm: float | None = None
    averaging: float | None = None

    def __post_init__(self) -> None:
        self.stage("training", _no_loss)  # refuses bad values now, not after the stages before

    @classmethod
    def of(
        cls,
        options: TrainingOptions | Mapping[str, Any] | None,
        defaults: Mapping[str, Any] | None = None,
    ) -> TrainingOptions:
        """Options from a mapping, over a method's own ``defaults``.

        Naming ``steps`` drops the default ``epochs``. ``patience = 0`` means never to stop early
        and ``decay_every = 0`` no such schedule, for TOML, which has no null.

        Raises:
            ValueError: an unknown key, named with the nearest known one, or a wrong type.
        """
        if isinstance(options, TrainingOptions):
            return options
        if options is not None and not isinstance(options, Mapping):
            raise ValueError(f"training: expected a table of options, got {options!r}")
        given = check_options(cls, options or {}, "training")
        merged = {**(defaults or {}), **given}
        if given.get("steps") is not None and "epochs" not in given:
            merged["epochs"] = None
        for field in ("patience", "decay_every"):
            if merged.get(field) == 0:
                merged[field] = None
        return cls(**merged)

    def stage(
        self,
        name: str,
        loss: Loss,
        *,
        groups: tuple[str, ...] | tuple[ParameterGroup, ...] = ("",),
        **extra: Any,
    ) -> Stage:
        """A Stage that minimises ``loss`` over the parameters under ``groups``.

        Names make one group of these options' ``lr`` and ``weight_decay``; groups keep their own.

        Raises:
            TypeError: ``groups`` mixes names and groups.
        """
        return Stage(
            name=name,
            loss=loss,
            groups=self._groups(groups),
            epochs=self.epochs,
            steps=self.steps,
            batch_size=self.batch_size,
            schedule=self.schedule,
            decay=self.decay,
            decay_every=self.decay_every,
            decay_after=self.decay_after,
            patience=self.patience,
            clip_norm=self.clip_norm,
            averaging=self.averaging,
            decoupled_decay=self.decoupled_decay,
            **extra,
        )

    def _groups(
        self, groups: tuple[str, ...] | tuple[ParameterGroup, ...]
    ) -> tuple[ParameterGroup, ...]:
        names = tuple(group for group in groups if isinstance(group, str))
        ready = tuple(group for group in groups if isinstance(group, ParameterGroup))
        if len(names) + len(ready) != len(groups) or (names and ready):
            raise TypeError(f"groups: expected names or ParameterGroups, got {groups!r}")
        return ready or (ParameterGroup(names, self.lr, self.weight_decay),)


def _no_loss(x: Tensor, noise: Tensor, progress: float) -> Tensor:
    return x.new_zeros(len(x))
