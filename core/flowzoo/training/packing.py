"""Many models of one architecture as one: stacked state, and losses evaluated with vmap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from flowzoo.interfaces.stage import ParameterGroup, Stage

State = dict[str, Tensor]


def is_packable(model: nn.Module) -> bool:
    """Whether vmap can run the model: no module in it declares ``packable = False``."""
    return all(getattr(module, "packable", True) for module in model.modules())


def covers(group: ParameterGroup, name: str) -> bool:
    """Whether a parameter or module of this dotted name belongs to the group."""
    return any(
        prefix == "" or name == prefix or name.startswith(prefix + ".") for prefix in group.names
    )


def named_state(model: nn.Module) -> State:
    """Every parameter and buffer by name, detached but sharing storage."""
    state = {name: tensor.detach() for name, tensor in model.named_parameters()}
    state.update((name, tensor.detach()) for name, tensor in model.named_buffers())
    return state


def copy_state(model: nn.Module, state: State) -> None:
    """Copy tensors into the model's parameters and buffers of the same names, in place."""
    own = named_state(model)
    for name, tensor in state.items():
        own[name].copy_(tensor)


class _StageCall(nn.Module):
    """Makes a stage's functions reachable through ``forward``, which functional_call needs."""

    def __init__(self, model: nn.Module, stage: Stage) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self._seen: set[str] = set()  # objectives whose buffers have been watched once

    def forward(self, name: str, x: Tensor, noise: Tensor, progress: float) -> Any:
        """Of one member on its rows: mean training loss, or summed validation, scalar.

        For ``monitor`` a mapping of sums.
        """
        compute = self._monitored if name == "monitor" else self._objective
        if name in self._seen:
            return compute(name, x, noise, progress)
        before = dict(self.model.named_buffers())
        value = compute(name, x, noise, progress)
        for key, buffer in self.model.named_buffers():
            if before.get(key) is not buffer:
                raise ValueError(
                    f"stage {self.stage.name!r}: buffer {key!r} was replaced during training; "
                    "update it in place (copy_, mul_, add_), or the training forgets it"
                )
        self._seen.add(name)
        return value

    def _objective(self, name: str, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        stage = self.stage
        if name == "validate" and stage.validate is not None:
            return self._per_row(stage.validate(x, noise), x, "a validation objective").sum()
        if stage.loss is None:
            raise TypeError(f"stage {stage.name!r} has no loss")
        loss = self._per_row(stage.loss(x, noise, progress), x, "a loss")
        total = loss.mean() if name == "loss" else loss.sum()
        if stage.penalty is not None:
            penalty = stage.penalty()
            if penalty.ndim != 0:
                raise ValueError(
                    f"stage {stage.name!r}: expected a scalar penalty, "
                    f"got shape {tuple(penalty.shape)}"
                )
            total = total + (penalty if name == "loss" else penalty * x.shape[0])
        return total

    def _monitored(self, name: str, x: Tensor, noise: Tensor, progress: float) -> dict[str, Tensor]:
        stage = self.stage
        found: object = {} if stage.monitor is None else stage.monitor(x, noise)
        if not isinstance(found, Mapping) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()
        ):
            raise TypeError(f"stage {stage.name!r}: expected monitor to map names to tensors")
        taken = sorted({"train", "valid"} & found.keys())
        if taken:
            raise ValueError(
                f"stage {stage.name!r}: expected other names from monitor than {taken}"
            )
        return {
            key: self._per_row(value, x, f"a monitored {key!r}").sum()
            for key, value in found.items()
        }

    def _per_row(self, value: Tensor, x: Tensor, what: str) -> Tensor:
        if value.shape != x.shape[:1]:
            raise ValueError(
                f"stage {self.stage.name!r}: expected {what} of shape {tuple(x.shape[:1])}, "
                f"got {tuple(value.shape)}"
            )
        return value


class Pack:
    """The members that train together in one stage, with a leading member dimension M everywhere.

    A pack of one keeps its model's own tensors and calls the stage directly; a larger pack stacks
    copies, leaves the models alone until ``store`` and calls the stage through vmap.

    Args:
        models: the members' models, of one class and equal tensor shapes.
        stage_index: which of the models' stages is trained.
        stacked: whether state is stacked and vmap used; by default for more than one model.
    """

    def __init__(
        self, models: Sequence[nn.Module], stage_index: int, stacked: bool | None = None
    ) -> None:
        self.stacked = len(models) > 1 if stacked is None else stacked
        self._stage_index = stage_index
        model = deepcopy(models[0]).to("meta") if self.stacked else models[0]
        self._model = model
        self._call = _StageCall(model, _stages(model)[stage_index])
        self.stage = self._call.stage
        self._state = self._stack(models)
        trained = [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and self._group_of(name) is not None
        ]
        self.trained = tuple(trained)
        self.parameter_groups: list[tuple[ParameterGroup, list[str]]] = [
            (group, [name for name in trained if self._group_of(name) is group])
            for group in self.stage.groups
        ]
        if not trained:
            raise ValueError(
                f"stage {self.stage.name!r}: no trainable parameter matches the groups "
                f"{[group.names for group in self.stage.groups]}"
            )
        self._require_grad()

    @property
    def members(self) -> int:
        """How many members are stacked now."""
        return next(iter(self._state.values())).shape[0]

    @property
    def state(self) -> State:
        """Parameters and buffers with a leading M; writing in place changes the pack."""
        return {name: tensor.detach() for name, tensor in self._state.items()}

    def leaf(self, name: str) -> Tensor:
        """The tensor the optimiser updates: (M, ...) stacked, or the parameter itself."""
        return self._state[name] if self.stacked else self._parameters[name]

    def gradient(self, name: str) -> Tensor | None:
        """Gradient of a trained parameter with a leading M."""
        gradient = self.leaf(name).grad
        return gradient if gradient is None or self.stacked else gradient.unsqueeze(0)

    def clip_gradients(self, limit: float) -> None:
        """Scale each member's gradient down to this norm where it is longer."""
        gradients = [g for name in self.trained if (g := self.gradient(name)) is not None]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        factors = (limit / (norms + 1e-12)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))

    def loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        """Mean training objective of each member on x (M, B, D), noise (M, B, F): (M,)."""
        mean: Tensor = self._run("loss", x, noise, progress, None)
        return mean

    @torch.no_grad()
    def validate(self, x: Tensor, noise: Tensor, state: State, rows: int = 16384) -> Tensor:
        """Mean validation objective (M,) under ``state`` (leading M), ``rows`` at a time in all."""
        chunk = max(1, rows // len(x))
        with self._evaluating():
            parts = zip(torch.split(x, chunk, 1), torch.split(noise, chunk, 1), strict=True)
            sums = [self._run("validate", *part, 1.0, state).double() for part in parts]
        return torch.stack(sums).sum(0) / x.shape[1]

    @torch.no_grad()
    def monitor(self, x: Tensor, noise: Tensor, state: State) -> dict[str, Tensor]:
        """Mean of each monitored quantity (M,) under ``state`` (leading M).

        In batches of the training's size, whatever the number of members: a quantity of a batch
        (an entropy estimate) is then that of a batch in training.
        """
        batches = max(1, -(-x.shape[1] // self.stage.batch_size))
        parts = zip(x.tensor_split(batches, 1), noise.tensor_split(batches, 1), strict=True)
        with self._evaluating():
            sums = [self._run("monitor", *part, 1.0, state) for part in parts]
        return {
            name: torch.stack([part[name].double() for part in sums]).sum(0) / x.shape[1]
            for name in sums[0]
        }

    def store(self, position: int, model: nn.Module, state: State) -> None:
        """Copy the member at ``position`` of ``state`` (leading M) into ``model``."""
        copy_state(model, {name: tensor[position] for name, tensor in state.items()})

    def take(self, positions: Tensor) -> None:
        """Keep only the members at these positions."""
        if not self.stacked:
            raise TypeError("a pack of one has nothing to leave out")
        self._state = {
            name: tensor.detach().index_select(0, positions) for name, tensor in self._state.items()
        }
        self._require_grad()

    def release(self) -> None:
        """Give a lone model its own requires_grad flags back and put it in eval mode."""
        if not self.stacked:
            for name, parameter in self._parameters.items():
                parameter.requires_grad_(self._required[name])
                parameter.grad = None
            self._model.eval()

    def _stack(self, models: Sequence[nn.Module]) -> State:
        if self.stacked:
            every = [named_state(model) for model in models]
            return {name: torch.stack([state[name] for state in every]) for name in every[0]}
        self._parameters = dict(self._model.named_parameters())
        self._required = {name: p.requires_grad for name, p in self._parameters.items()}
        return {name: tensor.unsqueeze(0) for name, tensor in named_state(self._model).items()}

    def _require_grad(self) -> None:
        self._train_mode()
        if self.stacked:
            for name in self.trained:
                self._state[name].requires_grad_(True)
        else:
            for name, parameter in self._parameters.items():
                parameter.requires_grad_(name in self.trained)

    def _group_of(self, name: str) -> ParameterGroup | None:
        return next((group for group in self.stage.groups if covers(group, name)), None)

    def _train_mode(self) -> None:
        for name, module in self._model.named_modules():
            module.training = self._group_of(name) is not None

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        self._model.eval()
        try:
            yield
        finally:
            self._train_mode()

    def _run(
        self, name: str, x: Tensor, noise: Tensor, progress: float, state: State | None
    ) -> Any:
        """What the stage's call gives, a tensor or a mapping of tensors, with a leading M."""
        if not self.stacked:
            if state is None:
                return _lead(self._call(name, x[0], noise[0], progress))
            held = {f"model.{key}": tensor[0] for key, tensor in state.items()}
            alone = functional_call(self._call, held, (name, x[0], noise[0], progress))
            return _lead(alone)

        def member(own: State, rows: Tensor, own_noise: Tensor) -> Any:
            return functional_call(self._call, own, (name, rows, own_noise, progress))

        source = self._state if state is None else state
        stacked = {f"model.{key}": tensor for key, tensor in source.items()}
        return vmap(member)(stacked, x, noise)


def _lead(value: Any) -> Any:
    """A tensor, or each of a mapping, with a leading dimension of one."""
    if isinstance(value, dict):
        return {key: _lead(part) for key, part in value.items()}
    return value.unsqueeze(0)


def _stages(model: nn.Module) -> tuple[Stage, ...]:
    stages = getattr(model, "stages", None)
    if stages is None:
        raise TypeError(f"model: expected a method stages(), {type(model).__name__} has none")
    result: tuple[Stage, ...] = tuple(stages())
    return result


def stages_of(models: Sequence[nn.Module]) -> tuple[tuple[Stage, ...], ...]:
    """The stages of every model.

    Raises:
        TypeError: a model has no ``stages``.
        ValueError: the models' classes or stage names differ.
    """
    every = tuple(_stages(model) for model in models)
    first = models[0]
    for model, stages in zip(models, every, strict=True):
        if type(model) is not type(first):
            raise ValueError(
                f"models: expected one class, got {type(first).__name__} and {type(model).__name__}"
            )
        if [stage.name for stage in stages] != [stage.name for stage in every[0]]:
            raise ValueError("models: expected the same stages in every model")
    return every
