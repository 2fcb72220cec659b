"""Trains a pack of models through all their stages, resumably."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowzoo.training.checkpoint import load_checkpoint, save_checkpoint
from flowzoo.training.identity import difference, settings_of
from flowzoo.training.packing import is_packable, named_state, stages_of
from flowzoo.training.randomness import generator_for, global_stream
from flowzoo.training.results import FitResult, StageResult, TrainingData
from flowzoo.training.stage_run import StageRun
from flowzoo.training.watching import warn_of
from flowzoo.validation import check_finite


@dataclass(frozen=True)
class TrainingEvent:
    """Where training stands, for a progress display; objectives are means over running members."""

    stage: str
    step: int
    total_steps: int
    running: int
    members: int
    valid: float | None


OnEvent = Callable[[TrainingEvent], None]
OnMemberEnd = Callable[[int, FitResult], None]


def train_pack(
    models: Sequence[nn.Module],
    data: Sequence[TrainingData],
    seeds: Sequence[int],
    *,
    device: torch.device | str | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 30.0,
    packed: bool | None = None,
    progress: OnEvent | None = None,
    on_member_end: OnMemberEnd | None = None,
) -> list[FitResult]:
    """Train every model on its own data, as one program where the models allow it.

    Members keep their own data order, noise, early stopping, best state and fate; each equals the
    same model trained alone up to rounding, which training amplifies: in float64 to some 1e-10, in
    float32 with batch-norm to some 1e-3 nat within a few steps. Afterwards every model holds its
    best state by validation, in eval mode, on ``device``.

    Args:
        models: models with ``stages()``, of one class and equal shapes.
        data: training and validation rows of each model, (N, D); equal shapes in a pack.
        seeds: one per model: data order, noise and closed-form fits follow from it.
        device: where to train; by default where the first model is.
        checkpoint: file to save to and to resume from; a lone-member training that is one of
            several gets its index appended.
        checkpoint_seconds: training time between saves.
        packed: stack the models with vmap; by default when there are several and they allow it.
        progress: called a few times a second at most, and after every epoch.
        on_member_end: called with a member's index and result once its model is final; after a
            resume it is called again for members that had ended.

    Raises:
        ValueError: bad data, shapes that do not match, or a checkpoint of another training.
        TypeError: a model has no ``stages``, or ``packed=True`` for one that vmap cannot run.
    """
    if not len(models) == len(data) == len(seeds) or not models:
        raise ValueError(
            "models, data, seeds: expected equal lengths of at least 1, "
            f"got {len(models)}, {len(data)}, {len(seeds)}"
        )
    packable = all(map(is_packable, models))
    if packed and not packable:
        raise TypeError("packed: vmap cannot run these models (packable is False)")
    if packed is None:
        packed = packable
    if len(models) > 1 and not packed:
        return [
            _Training(
                [models[m]],
                [data[m]],
                [seeds[m]],
                device,
                None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}.{m}"),
                checkpoint_seconds,
                progress,
                None if on_member_end is None else _Renumbered(m, on_member_end),
            ).run()[0]
            for m in range(len(models))
        ]
    return _Training(
        models, data, seeds, device, checkpoint, checkpoint_seconds, progress, on_member_end
    ).run()


@dataclass(frozen=True)
class _Renumbered:
    """Reports a lone training under its index among several."""

    index: int
    report: OnMemberEnd

    def __call__(self, _: int, result: FitResult) -> None:
        self.report(self.index, result)


class _Training:
    """The whole training of one pack: its stages in order, its results and its checkpoint."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        data: Sequence[TrainingData],
        seeds: Sequence[int],
        device: torch.device | str | None,
        checkpoint: Path | None,
        checkpoint_seconds: float,
        progress: OnEvent | None,
        on_member_end: OnMemberEnd | None,
    ) -> None:
        self.models, self.seeds = list(models), list(seeds)
        reference = _reference(models[0], data[0].train)
        target = torch.device(device) if device is not None else reference.device
        for model in models:
            model.to(target)
            model.eval()
        self.data = [_check_data(pair, index, reference, target) for index, pair in enumerate(data)]
        self.stages = stages_of(models)
        settings = [settings_of(*pair) for pair in zip(models, self.stages, strict=True)]
        if len(models) > 1:
            _check_equal(settings, self.data)
        self.settings = settings[0]  # as it was before training
        self.checkpoint, self.checkpoint_seconds = checkpoint, checkpoint_seconds
        self.progress, self.on_member_end = progress, on_member_end
        self._several = len(models) > 1
        self.results = [
            FitResult(members=len(models), parameters=_trainable(model)) for model in models
        ]
        self.stage_index = 0
        self.run_state: StageRun | None = None
        self.seconds = 0.0
        self.ended: set[int] = set()
        self._saved_at = time.monotonic()
        self._shown_at = 0.0

    def run(self) -> list[FitResult]:
        """Train from the start or from the checkpoint."""
        if self.checkpoint is not None and self.checkpoint.exists():
            self._resume(self.checkpoint)
        while self.stage_index < len(self.stages[0]):
            if self.run_state is None and not self._begin_stage():
                self.stage_index += 1
                self._save()
                continue
            run = self.run_state
            if run is not None:
                run.run(self._between_steps, self._after_epoch)
                self.seconds += run.progress.seconds
            self.run_state = None
            self.stage_index += 1
            self._save()
        for member in self._alive():
            self._end(member)
        return self.results

    def _alive(self) -> list[int]:
        return [m for m, result in enumerate(self.results) if result.status == "ok"]

    def _begin_stage(self) -> bool:
        """Prepare every member; False when the stage is over with that."""
        members = self._alive()
        began = time.perf_counter()
        index = self.stage_index
        for member in members:
            stage = self.stages[member][index]
            self.results[member].stages.append(StageResult(stage.name))
            if stage.prepare is not None:
                pair = self.data[member]
                generator = generator_for(self.seeds[member], "prepare", index)
                purpose = ("prepare", index)
                with (
                    torch.no_grad(),
                    global_stream(pair.train.device, self.seeds[member], *purpose),
                ):
                    said = stage.prepare(pair.train, pair.valid, generator)
                warn_of(said, self.results[member].stages[-1], member if self._several else None)
        self.seconds += time.perf_counter() - began
        if not members or self.stages[0][index].loss is None:
            return False
        self.run_state = self._stage_run(members)
        return True

    def _stage_run(self, members: Sequence[int]) -> StageRun:
        results = {m: self.results[m].stages[-1] for m in self._alive()}
        return StageRun(
            self.models, members, self.data, self.seeds, self.stage_index, results, self._on_stop
        )

    def _on_stop(self, member: int, diverged: str | None) -> None:
        if diverged is not None:
            result = self.results[member]
            result.status = "diverged"
            result.reason = f"stage {result.stages[-1].name!r}: {diverged}"
            self._end(member)
        elif self.stage_index == len(self.stages[0]) - 1:
            self._end(member)

    def _end(self, member: int) -> None:
        if member in self.ended:
            return
        self.ended.add(member)
        running = 0.0 if self.run_state is None else self.run_state.progress.seconds
        self.results[member].seconds = self.seconds + running
        if self.on_member_end is not None:
            self.on_member_end(member, self.results[member])

    # -- callbacks of a stage ------------------------------------------------------------------

    def _between_steps(self) -> None:
        if time.monotonic() - self._saved_at >= self.checkpoint_seconds:
            self._save()
        if time.monotonic() - self._shown_at >= 0.25:
            self._show()

    def _after_epoch(self) -> None:
        self._show()

    def _show(self) -> None:
        run = self.run_state
        if self.progress is None or run is None:
            return
        self._shown_at = time.monotonic()
        curves = [run.results[m].curve for m in run.running]
        last = [curve[-1].valid for curve in curves if curve]
        self.progress(
            TrainingEvent(
                stage=run.stage.name,
                step=run.progress.step,
                total_steps=run.total_steps,
                running=len(run.running),
                members=len(self.models),
                valid=sum(last) / len(last) if last else None,
            )
        )

    # -- checkpoint ----------------------------------------------------------------------------

    def _fingerprint(self) -> str:
        """Tells this training from any other: models and their options, stages, seeds and data."""
        described = {"settings": self.settings, "seeds": self.seeds}
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        for pair in self.data:
            for rows in pair:
                digest.update(str(tuple(rows.shape)).encode())
                digest.update(rows.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        tensors: dict[str, Tensor] = {
            f"models/{index}/{name}": tensor
            for index, model in enumerate(self.models)
            for name, tensor in model.state_dict().items()
        }
        meta: dict[str, Any] = {
            "fingerprint": self._fingerprint(),
            "stage": self.stage_index,
            "seconds": self.seconds,
            "results": [result.to_json() for result in self.results],
            "run": None,
        }
        if self.run_state is not None:
            state, meta["run"] = self.run_state.snapshot()
            tensors.update((f"run/{name}", tensor) for name, tensor in state.items())
        save_checkpoint(self.checkpoint, tensors, meta)
        self._saved_at = time.monotonic()

    def _resume(self, path: Path) -> None:
        tensors, meta = load_checkpoint(path)
        if meta["fingerprint"] != self._fingerprint():
            raise ValueError(
                f"checkpoint: {path} belongs to another training (model, options, stages, seeds "
                "or data differ); remove it to start afresh"
            )
        for index, model in enumerate(self.models):
            prefix = f"models/{index}/"
            model.load_state_dict(
                {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            )
        self.results = [FitResult.from_json(result) for result in meta["results"]]
        self.stage_index = meta["stage"]
        self.seconds = meta["seconds"]
        if meta["run"] is not None:
            run = self._stage_run(meta["run"]["slots"])
            run.restore(
                {n.removeprefix("run/"): t for n, t in tensors.items() if n.startswith("run/")},
                meta["run"],
            )
            self.run_state = run
        self._report_ended()

    def _report_ended(self) -> None:
        run = self.run_state
        last = self.stage_index >= len(self.stages[0]) - 1
        for member, result in enumerate(self.results):
            stopped = run is not None and last and member not in run.running
            if result.status == "diverged" or stopped:
                self._end_again(member)

    def _end_again(self, member: int) -> None:
        self.ended.add(member)
        if self.on_member_end is not None:
            self.on_member_end(member, self.results[member])


def _reference(model: nn.Module, rows: Tensor) -> Tensor:
    """What tells dtype and device: the model's state, or the data where it has none."""
    for tensor in named_state(model).values():
        if tensor.is_floating_point():
            return tensor
    return rows if isinstance(rows, Tensor) and rows.is_floating_point() else torch.empty(0)


def _trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _check_data(
    pair: TrainingData, index: int, reference: Tensor, device: torch.device
) -> TrainingData:
    checked = []
    for name, rows in zip(("train", "valid"), pair, strict=True):
        label = f"data[{index}].{name}"
        if not isinstance(rows, Tensor):
            raise TypeError(f"{label}: expected a torch.Tensor, got {type(rows).__name__}")
        if rows.ndim != 2 or len(rows) == 0:
            raise ValueError(f"{label}: expected shape (N, D) with N >= 1, got {tuple(rows.shape)}")
        if not rows.is_floating_point():
            raise ValueError(f"{label}: expected a floating dtype, got {rows.dtype}")
        check_finite(label, rows)
        converted = rows.detach().to(device=device, dtype=reference.dtype)
        if reference.dtype != rows.dtype:
            check_finite(f"{label} as {reference.dtype}", converted)
        checked.append(converted)
    if checked[0].shape[1] != checked[1].shape[1]:
        raise ValueError(
            f"data[{index}]: expected equal columns in train and valid, "
            f"got {checked[0].shape[1]} and {checked[1].shape[1]}"
        )
    return TrainingData(*checked)


def _check_equal(settings: Sequence[dict[str, str]], data: Sequence[TrainingData]) -> None:
    shapes = {(tuple(pair.train.shape), tuple(pair.valid.shape)) for pair in data}
    if len(shapes) > 1:
        raise ValueError(f"data: expected equal shapes in a pack, got {sorted(shapes)}")
    for other in settings[1:]:  # the pack runs them all through the first one's code
        found = difference(settings[0], other)
        if found is not None:
            raise ValueError(f"models: expected equal models and options in a pack, {found}")
