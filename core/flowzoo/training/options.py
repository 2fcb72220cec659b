"""Optimiser and budget settings, as a user writes them in Python or TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal

from flowzoo.interfaces.stage import Loss, ParameterGroup, Stage


@dataclass(frozen=True)
class TrainingOptions:
    """How a maximum-likelihood stage is trained; see ``Stage`` for the meaning of each field.

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
    schedule: Literal["constant", "cosine"] = "constant"
    patience: int | None = None
    clip_norm: float | None = None
    averaging: float | None = None

    @classmethod
    def of(cls, options: TrainingOptions | Mapping[str, Any] | None) -> TrainingOptions:
        """Options from a mapping; naming ``steps`` drops the default ``epochs``.

        Raises:
            ValueError: an unknown key, named with the nearest known one.
        """
        if isinstance(options, TrainingOptions):
            return options
        given: dict[str, Any] = dict(options or {})
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"training: unknown option {key!r}, expected one of {known}{hint}")
        if given.get("steps") is not None:
            given.setdefault("epochs", None)
        return cls(**given)

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
