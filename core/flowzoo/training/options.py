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

        Naming ``steps`` drops the default ``epochs``. ``patience = 0`` means never to stop early,
        for TOML, which has no null.

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
        if merged.get("patience") == 0:
            merged["patience"] = None
        return cls(**merged)

    def stage(
        self, name: str, loss: Loss, *, groups: tuple[str, ...] = ("",), **extra: Any
    ) -> Stage:
        """A Stage that minimises ``loss`` over the parameters under ``groups``."""
        return Stage(
            name=name,
            loss=loss,
            groups=(ParameterGroup(groups, self.lr, self.weight_decay),),
            epochs=self.epochs,
            steps=self.steps,
            batch_size=self.batch_size,
            schedule=self.schedule,
            patience=self.patience,
            clip_norm=self.clip_norm,
            averaging=self.averaging,
            decoupled_decay=self.decoupled_decay,
            **extra,
        )


def _no_loss(x: Tensor, noise: Tensor, progress: float) -> Tensor:
    return x.new_zeros(len(x))
