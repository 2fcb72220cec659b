"""One stage of one pack, epoch by epoch; everything a resume needs is in ``snapshot``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowzoo.interfaces.stage import Stage
from flowzoo.training.optimizer import PackOptimizer
from flowzoo.training.packing import Pack, State, copy_state, named_state
from flowzoo.training.randomness import generator_for, global_stream
from flowzoo.training.results import CurvePoint, StageResult, TrainingData
from flowzoo.training.watching import watch_stage


@dataclass
class _Progress:
    """Where a stage stands; plain data."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches done in the running epoch
    step: int = 0  # optimiser steps done
    seconds: float = 0.0


class StageRun:
    """Trains the members of one pack through one stage with a loss.

    Each member has its own data order, noise, early stopping, best state and gradient clip. One
    that stops keeps its slot, ignored, until an eighth of the slots idle; then the pack compacts.

    Args:
        models: all models of the training, on their device; only ``members`` are touched.
        members: indices of the models this stage trains.
        data: rows of every model, of the models' dtype and device.
        seeds: seed of every model.
        index: which stage.
        results: this stage's result of every member, filled as training goes.
        on_stop: called with a member's index once its model holds its best state; the second
            argument is the reason it diverged, or None.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        members: Sequence[int],
        data: Sequence[TrainingData],
        seeds: Sequence[int],
        index: int,
        results: dict[int, StageResult],
        on_stop: Callable[[int, str | None], None],
    ) -> None:
        self.models, self.seeds, self.index = models, seeds, index
        self.results, self.on_stop = results, on_stop
        self.slots = list(members)
        self.running = set(members)
        # by the size of the whole training: a member left alone computes as it did in company
        self.pack = Pack([models[m] for m in members], index, stacked=len(models) > 1)
        self.stage: Stage = self.pack.stage
        self.data = data
        self.progress = _Progress()
        # each member's own: it may compare with what prepare wrote into its model
        self._watches = {m: models[m].stages()[index].watch for m in members}  # type: ignore[operator]
        self._stale = dict.fromkeys(members, 0)  # epochs since the best one
        state = self.pack.state
        self._moving = [*self.pack.trained, *(n for n, _ in models[members[0]].named_buffers())]
        self._best = {name: state[name].clone() for name in self._moving}
        self._average = (
            {name: state[name].clone() for name in self._moving}
            if self.stage.averaging is not None
            else None
        )
        self._loss_sum = torch.zeros(len(self.slots), dtype=torch.float64, device=self._device)
        self._gather_data()
        self._optimizer = PackOptimizer(self.pack)

    # -- sizes ---------------------------------------------------------------------------------

    @property
    def _device(self) -> torch.device:
        return next(iter(self.pack.state.values())).device

    @property
    def batches(self) -> int:
        """Batches an epoch; they differ by at most one row."""
        return max(1, math.ceil(self._x.shape[1] / self.stage.batch_size))

    @property
    def total_steps(self) -> int:
        """Optimiser steps the stage takes if nothing stops it."""
        if self.stage.steps is not None:
            return self.stage.steps
        return (self.stage.epochs or 0) * self.batches

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return not self.running

    # -- training ------------------------------------------------------------------------------

    def run(self, between_steps: Callable[[], None], after_epoch: Callable[[], None]) -> None:
        """Train until every member has stopped, calling back between steps and after epochs."""
        try:
            while not self.finished:
                self._epoch(between_steps)
                after_epoch()
        finally:  # an interrupted model must not stay half frozen
            self.pack.release()

    def _epoch(self, between_steps: Callable[[], None]) -> None:
        position = self.progress
        rows = self._x.shape[1]
        order = self._order()
        edges = [rows * i // self.batches for i in range(self.batches + 1)]
        while position.batch < self.batches and position.step < self.total_steps:
            began = time.perf_counter()
            chosen = order[:, edges[position.batch] : edges[position.batch + 1]]
            self._step(chosen)
            position.batch += 1
            position.step += 1
            position.seconds += time.perf_counter() - began
            between_steps()
        began = time.perf_counter()
        stopping = self._end_epoch(edges[position.batch])
        position.seconds += time.perf_counter() - began
        for slot, diverged in stopping:  # callers measure members here: not training time
            self._stop(slot, diverged)
        if self.running and 8 * (len(self.slots) - len(self.running)) >= len(self.slots):
            self._compact()

    def _step(self, chosen: Tensor) -> None:
        slots = torch.arange(len(self.slots), device=self._device)[:, None]
        x = self._x[slots, chosen]
        fraction = self.progress.step / max(1, self.total_steps)
        noise = self._noise(x.shape[1], "noise", self.progress.step)
        with self._own_stream("loss", self.progress.step):
            losses = self.pack.loss(x, noise, fraction)
        torch.autograd.backward(
            losses.sum()
        )  # members share no parameter: each gets its own gradient
        if self.stage.clip_norm is not None:
            self.pack.clip_gradients(self.stage.clip_norm)
        self._optimizer.step(self.progress.step, self.total_steps)
        self._loss_sum += losses.detach().double() * x.shape[1]
        self._update_average()

    def _own_stream(self, *purpose: str | int) -> AbstractContextManager[None]:
        """For a lone model's own randomness (dropout); vmap refuses what is not in ``noise``."""
        if self.pack.stacked:
            return nullcontext()
        return global_stream(self._device, self.seeds[self.slots[0]], self.index, *purpose)

    def _update_average(self) -> None:
        if self._average is None or self.stage.averaging is None:
            return
        step = self.progress.step
        # a short memory at first, so that the average does not drag the initial weights along
        keep = min(self.stage.averaging, (1 + step) / (10 + step))
        state = self.pack.state
        trained = [*self.pack.trained]
        torch._foreach_lerp_(
            [self._average[name] for name in trained], [state[name] for name in trained], 1 - keep
        )
        for name in self._moving[len(trained) :]:
            average, now = self._average[name], state[name]
            if average.is_floating_point():
                # equal entries stay as they are: infinities would turn into NaN
                average.copy_(torch.where(average == now, average, average.lerp(now, 1 - keep)))
            else:
                average.copy_(now)

    # -- end of an epoch -----------------------------------------------------------------------

    def _end_epoch(self, rows_seen: int) -> list[tuple[int, str | None]]:
        """Validate and keep what is best; the slots that stop now, each with why it diverged."""
        position = self.progress
        position.epoch += 1
        position.batch = 0
        self._after_epoch()
        candidate = self._candidate()
        noise = self._noise(self._x_valid.shape[1], "validate")
        state = {**self.pack.state, **candidate}
        with self._own_stream("validate", position.epoch):
            valid = self.pack.validate(self._x_valid, noise, state).tolist()
        monitored = self._monitored(noise, state)
        train = (self._loss_sum / max(1, rows_seen)).tolist()
        self._loss_sum.zero_()
        over = position.step >= self.total_steps
        improved = []
        for slot, member in enumerate(self.slots):
            if member not in self.running:
                continue
            result = self.results[member]
            result.epochs = position.epoch
            numbers = (train[slot], valid[slot], position.seconds)
            point = CurvePoint(position.epoch, position.step, *numbers, monitored[slot])
            result.curve.append(point)
            self._watch(member, point)
            if valid[slot] < result.best_valid:
                result.best_valid, result.best_epoch = valid[slot], position.epoch
                self._stale[member] = 0
                improved.append(slot)
            else:
                self._stale[member] += 1
        if improved:
            index = torch.tensor(improved, device=self._device)
            for name, best in self._best.items():
                best.index_copy_(0, index, candidate[name].index_select(0, index))
        patience = self.stage.patience
        stopping: list[tuple[int, str | None]] = []
        for slot, member in enumerate(self.slots):
            if member not in self.running:
                continue
            stale = patience is not None and self._stale[member] >= patience
            if not math.isfinite(train[slot]):
                reason = f"non-finite training loss in epoch {position.epoch}"
                stopping.append((slot, reason))
            elif (over or stale) and not math.isfinite(self.results[member].best_valid):
                stopping.append((slot, "the validation objective was never finite"))
            elif over or stale:
                stopping.append((slot, None))
        return stopping

    def _after_epoch(self) -> None:
        """Let each member's model change its own state between epochs (dead-code restart)."""
        if self.stage.after_epoch is None:
            return
        state = self.pack.state
        for slot, member in enumerate(self.slots):
            if member not in self.running:
                continue
            model = self.models[member]
            if self.pack.stacked:
                self.pack.store(slot, model, state)
            own = model.stages()[self.index].after_epoch  # type: ignore[operator]
            generator = generator_for(
                self.seeds[member], "after_epoch", self.index, self.progress.epoch
            )
            was_training = {name: m.training for name, m in model.named_modules()}
            model.eval()
            purpose = ("after_epoch", self.index, self.progress.epoch)
            with torch.no_grad(), global_stream(self._device, self.seeds[member], *purpose):
                own(self.data[member].train, generator)
            for name, module in model.named_modules():
                module.training = was_training[name]
            if self.pack.stacked:
                for name, tensor in named_state(model).items():
                    state[name][slot].copy_(tensor)

    def _monitored(self, noise: Tensor, state: State) -> list[dict[str, float]]:
        """Means of what the stage monitors, of each slot."""
        if self.stage.monitor is None:
            return [{} for _ in self.slots]
        with self._own_stream("monitor", self.progress.epoch):
            means = self.pack.monitor(self._x_valid, noise, state)
        columns = {name: value.tolist() for name, value in means.items()}
        return [{name: c[slot] for name, c in columns.items()} for slot in range(len(self.slots))]

    def _watch(self, member: int, point: CurvePoint) -> None:
        watch = self._watches[member]
        if watch is not None:
            means = {"train": point.train, "valid": point.valid, **point.monitored}
            named = member if len(self.models) > 1 else None
            watch_stage(watch, self.results[member], means, named)

    def _candidate(self) -> State:
        """What is validated and kept: the weight average where there is one."""
        if self._average is not None:
            return self._average
        state = self.pack.state
        return {name: state[name] for name in self._moving}

    def _stop(self, slot: int, diverged: str | None) -> None:
        member = self.slots[slot]
        self.running.discard(member)
        model = self.models[member]
        best = {name: tensor[slot] for name, tensor in self._best.items()}
        rest = {name: t[slot] for name, t in self.pack.state.items() if name not in best}
        copy_state(model, {**rest, **best})
        model.eval()
        self.on_stop(member, diverged)

    def _compact(self) -> None:
        keep = [slot for slot, member in enumerate(self.slots) if member in self.running]
        index = torch.tensor(keep, device=self._device)
        held = self._optimizer.tensors()
        self.slots = [self.slots[slot] for slot in keep]
        self.pack.take(index)
        self._best = {name: t.index_select(0, index) for name, t in self._best.items()}
        if self._average is not None:
            self._average = {n: t.index_select(0, index) for n, t in self._average.items()}
        self._loss_sum = self._loss_sum.index_select(0, index)
        self._gather_data()
        self._optimizer = PackOptimizer(self.pack)
        self._optimizer.restore(
            {n: t if n.endswith("/step") else t.index_select(0, index) for n, t in held.items()}
        )

    # -- data ----------------------------------------------------------------------------------

    def _gather_data(self) -> None:
        self._x = torch.stack([self.data[m].train for m in self.slots])
        self._x_valid = torch.stack([self.data[m].valid for m in self.slots])

    def _order(self) -> Tensor:
        rows = self._x.shape[1]
        orders = [
            torch.randperm(
                rows,
                generator=generator_for(self.seeds[m], "order", self.index, self.progress.epoch),
            )
            for m in self.slots
        ]
        return torch.stack(orders).to(self._device)

    def _noise(self, rows: int, *purpose: str | int) -> Tensor:
        features = self.stage.noise_features
        if features == 0:
            return self._x.new_zeros(len(self.slots), rows, 0)
        draws = [
            torch.randn(
                rows,
                features,
                dtype=self._x.dtype,
                generator=generator_for(self.seeds[m], self.index, *purpose),
            )
            for m in self.slots
        ]
        return torch.stack(draws).to(self._device)

    # -- resume --------------------------------------------------------------------------------

    def snapshot(self) -> tuple[State, dict[str, Any]]:
        """Tensors and plain data from which ``restore`` goes on as if nothing had happened."""
        tensors: State = {f"state/{n}": t for n, t in self.pack.state.items()}
        tensors.update((f"best/{n}", t) for n, t in self._best.items())
        tensors.update((f"average/{n}", t) for n, t in (self._average or {}).items())
        tensors.update((f"optimizer/{n}", t) for n, t in self._optimizer.tensors().items())
        tensors["loss_sum"] = self._loss_sum
        plain = {
            "progress": vars(self.progress).copy(),
            "slots": self.slots,
            "running": sorted(self.running),
            "stale": [[m, n] for m, n in self._stale.items()],
        }
        return tensors, plain

    def restore(self, tensors: State, plain: dict[str, Any]) -> None:
        """Go on from a ``snapshot``; the run was made with the snapshot's slots as members."""
        self.progress = _Progress(**plain["progress"])
        self.running = set(plain["running"])
        self._stale = {int(m): int(n) for m, n in plain["stale"]}
        held = {name: tensor.to(self._device) for name, tensor in tensors.items()}
        for name, tensor in self.pack.state.items():
            tensor.copy_(held[f"state/{name}"])
        for name, best in self._best.items():
            best.copy_(held[f"best/{name}"])
        for name, average in (self._average or {}).items():
            average.copy_(held[f"average/{name}"])
        self._loss_sum.copy_(held["loss_sum"])
        self._optimizer.restore(
            {n.removeprefix("optimizer/"): t for n, t in held.items() if n.startswith("optimizer/")}
        )
