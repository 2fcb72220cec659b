"""One run inside a worker: its data, its model, its measurements."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowzoo import registry
from flowzoo.interfaces import MetricValue, Task, Trained
from flowzoo.training import FitResult
from flowzoo.training.checkpoint import write_atomically
from flowzoo_bench.records import ARRAYS, WEIGHTS, finite, run_folder
from flowzoo_bench.runspec import RunSpec
from flowzoo_bench.tasks.standardize import Standardizer


class Member:
    """Builds everything a run needs; a failure here is this run's alone.

    Attributes:
        spec: the run.
        splits: the replicate's data in original units.
        model: built under the run's own initialisation seed.
        train, valid: what the model is trained on, standardised where the task says so.
    """

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.task: Task = registry.build("task", spec.task.name, **spec.task.options)
        self.splits = self.task.splits(spec.data_seed())
        self.scaling = (
            Standardizer.fit(self.splits.train)
            if self.task.standardize
            else Standardizer.identity(self.task.features)
        )
        self.dtype = getattr(torch, spec.precision)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed_for("init"))
            self.model = registry.build(
                "mixture", spec.method.name, features=self.task.features, **spec.method.options
            ).to(self.dtype)
        self.train = self._into(self.splits.train, "cpu")
        self.valid = self._into(self.splits.valid, "cpu")

    def _into(self, x: Tensor, device: torch.device | str) -> Tensor:
        """Original units (float64) to the model's coordinates, dtype and device."""
        return self.scaling.encode(x.to("cpu", torch.float64)).to(device=device, dtype=self.dtype)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            return tensor.device
        return torch.device("cpu")

    def log_prob(self, x: Tensor, evaluation: str | None) -> Tensor:
        """Model log-density in original units, float64, (N,)."""
        generator = torch.Generator(self.device).manual_seed(self.spec.seed_for("eval"))
        with torch.no_grad():
            scores = self.model.log_prob(
                self._into(x, self.device), evaluation=evaluation, generator=generator
            )
        return scores.to("cpu", torch.float64) + self.scaling.log_abs_det

    def sample(self, num: int, seed: int) -> Tensor:
        """Model samples in original units, float64, (num, D)."""
        generator = torch.Generator(self.device).manual_seed(seed)
        with torch.no_grad():
            z = self.model.sample(num, generator=generator)
        return self.scaling.decode(z.to("cpu", torch.float64))

    def about(self, fit: FitResult) -> dict[str, Any]:
        """The fields of a record that training alone decides."""
        curves = [
            {
                "stage": stage.name,
                "epochs": stage.epochs,
                "best_epoch": stage.best_epoch,
                "best_valid": finite(stage.best_valid),
                "points": [
                    {
                        "epoch": point.epoch,
                        "step": point.step,
                        "train": finite(point.train),
                        "valid": finite(point.valid),
                        "seconds": point.seconds,
                    }
                    for point in stage.curve
                ],
            }
            for stage in fit.stages
        ]
        return {
            "status": fit.status,
            "reason": fit.reason,
            "curves": curves,
            "parameters": fit.parameters,
            "clocks": {
                "train_s": fit.seconds / fit.members,
                "members": fit.members,
                "amortised": fit.members > 1,
            },
            "data": {
                "features": self.task.features,
                "train": len(self.splits.train),
                "valid": len(self.splits.valid),
                "test": len(self.splits.test),
                "bin_width": self.task.bin_width,
                "oracle": self.task.oracle is not None,
            },
        }

    def measure(self, fit: FitResult, out: Path) -> dict[str, Any]:
        """The record's fields: metrics for a model that was trained, and files for figures."""
        fields = self.about(fit)
        if fit.status != "ok":
            return fields
        self.model.eval()
        trained = Trained(
            task=self.task,
            splits=self.splits,
            model=self.model,
            log_prob=self.log_prob,
            sample=self.sample,
            seed=self.spec.seed_for("eval"),
        )
        began = time.perf_counter()
        values: list[MetricValue] = []
        for part in self.spec.metrics:
            values.extend(registry.build("metric", part.name, **part.options).compute(trained))
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        fields["clocks"]["eval_s"] = time.perf_counter() - began
        fields["metrics"] = [_row(value) for value in values]
        broken = [v.name for v in values if finite(v.value) is None]
        if broken:
            fields["status"] = "non_finite"
            fields["reason"] = f"not finite: {', '.join(broken)}"
        self._save_arrays(run_folder(out, self.spec.run_id))
        return fields

    def _save_arrays(self, folder: Path) -> None:
        """What figures are drawn from: data, samples, charts, layers; and the weights if asked."""
        from safetensors.torch import save

        num = self.spec.num_samples
        data = self.splits.test[:num]
        samples = self.sample(num, self.spec.seed_for("eval"))
        arrays = {"data": data, "samples": samples}
        inside = self._into(data, self.device)
        with torch.no_grad():
            if "assign" in self.model.capabilities:
                assign = getattr(self.model, "assign")  # noqa: B009 - optional, not in the contract
                arrays["data_charts"] = assign(inside)
                if bool(torch.isfinite(samples).all()):
                    arrays["sample_charts"] = assign(self._into(samples, self.device))
            transform = getattr(self.model, "transform_layers", None)
            if "layers" in self.spec.keep and transform is not None:
                for index, value in enumerate([inside, *transform(inside)]):
                    arrays[f"layers/{index:02d}"] = value
        held = {
            name: (value.to(torch.float32) if value.is_floating_point() else value.to(torch.int32))
            .cpu()
            .contiguous()
            .clone()
            for name, value in arrays.items()
        }
        write_atomically(folder / ARRAYS, save(held))
        if "model" in self.spec.keep:
            state = {
                name: value.cpu().contiguous().clone()
                for name, value in self.model.state_dict().items()
            }
            write_atomically(folder / WEIGHTS, save(state))


def _row(value: MetricValue) -> dict[str, Any]:
    return {
        "name": value.name,
        "value": finite(value.value),
        "unit": value.unit,
        "direction": value.direction,
        "likelihood": value.likelihood,
        "measure": value.measure,
        "n": value.n,
        "stderr": finite(value.stderr),
        "reference": finite(value.reference),
    }
