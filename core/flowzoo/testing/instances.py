"""Instances in the state that checks look at: moved away from their start, or trained a little."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from flowzoo.interfaces import BaseFlow, Injection, Stage
from flowzoo.layers import Thickened
from flowzoo.testing.numerics import F64, moons, perturb, rows
from flowzoo.testing.outcome import CheckFailed
from flowzoo.testing.subject import Case, Subject

TRAIN_ROWS, VALID_ROWS = 192, 64
STEPS, LR = 40, 1e-2


def flow_at_work(subject: Subject, case: Case, dtype: torch.dtype = F64) -> BaseFlow:
    """A flow in eval mode with moved parameters, and running statistics of some data."""

    def make() -> BaseFlow:
        flow: BaseFlow = subject.make(**case.options()).double()
        perturb(flow)
        flow.train()
        with torch.no_grad():
            for batch in range(10):
                flow.encode(*flow_inputs(case, 64, seed=batch))
        perturb(flow, seed=1, size=0.1)  # as an optimiser's last step does, after the last batch
        return flow.eval()

    flow: BaseFlow = subject.keep(("flow", case), make)
    return flow.to(dtype)


def flow_inputs(
    case: Case, num: int, dtype: torch.dtype = F64, seed: int = 0, features: int | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """x (num, D), context and chart; ``features`` asks for another number of columns of x."""
    width = case.features if features is None else features
    x = rows(num, width, dtype, seed, scale=1.5)
    context = rows(num, case.context, dtype, seed + 500) if case.context else None
    chart = None if case.charts is None else torch.arange(num) % case.charts
    return x, context, chart


def views(flow: BaseFlow) -> Iterator[tuple[str, BaseFlow]]:
    """The flow and, for an injection, its thickened density in R^D, each with a label."""
    yield "", flow
    if isinstance(flow, Injection):
        dtype = next((p.dtype for p in flow.parameters()), F64)
        thick = Thickened(flow).to(dtype).train(flow.training)
        with torch.no_grad():
            thick.log_thickness.fill_(-0.7)
        yield ", thickened", thick


def row_of(value: Tensor | None, n: int) -> Tensor | None:
    """Row n as a batch of one; None for None."""
    return None if value is None else value[n : n + 1]


def trained(subject: Subject, features: int, dtype: torch.dtype = F64, seed: int = 0) -> Any:
    """A mixture or partitioner in eval mode, taken through all its stages in a few steps."""

    def make() -> Any:
        model = subject.make(seed, features=features).double()
        train_briefly(model, features, seed)
        return model

    return subject.keep(("trained", features, seed), make).to(dtype)


def training_data(features: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Training and validation rows."""
    x = moons(TRAIN_ROWS + VALID_ROWS, features, seed=seed)
    return x[:TRAIN_ROWS], x[TRAIN_ROWS:]


def train_briefly(
    model: nn.Module,
    features: int,
    seed: int = 0,
    *,
    steps: int = STEPS,
    least_lr: float = LR,
    shift: float = 0.0,
) -> None:
    """Take ``model`` through its stages with few steps, large enough to leave the start.

    The training rows, but not the validation rows, are moved by ``shift``.

    Raises:
        CheckFailed: training diverges.
    """
    from flowzoo.training import fit

    train, valid = training_data(features, seed)
    train = train + shift
    copies = train.clone(), valid.clone()
    with Shortened(model, steps, least_lr):
        result = fit(model, train, valid, seed=seed)
    if not (torch.equal(train, copies[0]) and torch.equal(valid, copies[1])):
        raise CheckFailed("training writes into the rows it was given")
    if result.status != "ok":
        raise CheckFailed(f"training on {len(train)} rows: {result.status}: {result.reason}")
    model.eval()


class Shortened:
    """While open, ``model.stages()`` asks for ``steps`` steps at a rate of at least ``least_lr``.

    The class is replaced by one derived from it, so that a copy of the model, as training makes
    them, is shortened as well and its stages' methods are its own.
    """

    def __init__(self, model: nn.Module, steps: int, least_lr: float = 0.0) -> None:
        self.model, self.steps, self.least_lr = model, steps, least_lr

    def __enter__(self) -> nn.Module:
        original: Any = type(self.model)
        steps, least_lr = self.steps, self.least_lr

        def stages(model: Any) -> tuple[Stage, ...]:
            return tuple(_short(stage, steps, least_lr) for stage in original.stages(model))

        self.original = original
        names = {"stages": stages, "__module__": original.__module__, "__doc__": original.__doc__}
        self.model.__class__ = type(original.__name__, (original,), names)
        return self.model

    def __exit__(self, *_: object) -> None:
        self.model.__class__ = self.original


def _short(stage: Stage, steps: int, least_lr: float) -> Stage:
    if stage.loss is None:
        return stage
    return replace(
        stage,
        epochs=None,
        steps=steps,
        batch_size=min(stage.batch_size, 64),
        groups=tuple(replace(group, lr=max(group.lr, least_lr)) for group in stage.groups),
        patience=None,
        averaging=None,
    )
