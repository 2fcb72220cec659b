"""One run inside a worker: its data, its model, its measurements."""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowzoo import registry
from flowzoo.interfaces import LEBESGUE, MetricValue, Task, Trained
from flowzoo.task_validation import check_task_data
from flowzoo.training import FitResult
from flowzoo.training.checkpoint import write_atomically
from flowzoo_bench.records import ARRAYS, NO_PICTURES, WEIGHTS, finite, run_folder
from flowzoo_bench.runspec import RunSpec
from flowzoo_bench.tasks.coordinates import changes_measure, coordinates


class Member:
    """Builds everything a run needs; a failure here is this run's alone.

    Attributes:
        spec: the run.
        splits: the replicate's data in original units.
        labels: the classes of these rows; None without any.
        model: built under the run's own initialisation seed.
        coordinates: what the model sees of the data: scaled, their logit, or the data themselves.
        train, valid: what the model is trained on, in these coordinates.
    """

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.task: Task = registry.build("task", spec.task.name, **spec.task.options)
        fingerprint = self.task.fingerprint()
        if not spec.task.version.endswith(fingerprint):
            raise ValueError(
                f"task: expected the data that were planned for, {spec.task.version}, got others, "
                f"{fingerprint}"
            )
        self.splits, self.labels = check_task_data(self.task, spec.data_seed())
        self.coordinates = coordinates(self.task, self.splits.train)
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
        z = self.coordinates.encode(x.to("cpu", torch.float64))
        return z.to(device=device, dtype=self.dtype)

    def inside(self, x: Tensor) -> Tensor:
        """Rows in original units in the model's coordinates, dtype and device, (N, D)."""
        return self._into(x, self.device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            return tensor.device
        return torch.device("cpu")

    def log_prob(self, x: Tensor, evaluation: str | None) -> Tensor:
        """Model log-density in original units, float64, (N,)."""
        self._check_measure(evaluation)
        generator = torch.Generator(self.device).manual_seed(self.spec.seed_for("eval"))
        with torch.no_grad():
            scores = self.model.log_prob(self.inside(x), evaluation=evaluation, generator=generator)
        volume = self.coordinates.log_abs_det(x.to("cpu", torch.float64))
        return scores.to("cpu", torch.float64) + volume

    def sample(
        self, num: int, seed: int, *, temperature: float = 1.0, noise_scale: float | None = None
    ) -> Tensor:
        """Model samples in original units, float64, (num, D)."""
        generator = torch.Generator(self.device).manual_seed(seed)
        knobs: dict[str, Any] = {} if noise_scale is None else {"noise_scale": noise_scale}
        with torch.no_grad():
            z = self.model.sample(num, temperature=temperature, generator=generator, **knobs)
        expected = (num, self.task.features)
        if tuple(z.shape) != expected:
            raise ValueError(f"sample: expected shape {expected}, got {tuple(z.shape)}")
        return self.coordinates.decode(z.to("cpu", torch.float64))

    def reconstruct(self, x: Tensor) -> Tensor:
        """The model's reconstruction of x, in original units, float64, (N, D)."""
        reconstruct = getattr(self.model, "reconstruct")  # noqa: B009 - optional, not in the contract
        with torch.no_grad():
            point: Tensor = reconstruct(self.inside(x))
        if point.shape != x.shape:
            raise ValueError(
                f"reconstruct: expected shape {tuple(x.shape)}, got {tuple(point.shape)}"
            )
        return self.coordinates.decode(point.to("cpu", torch.float64))

    def embed(self, x: Tensor) -> Tensor:
        """Latent coordinates of x, given in original units, float64, (N, d)."""
        embed = getattr(self.model, "embed")  # noqa: B009 - optional, not in the contract
        with torch.no_grad():
            z: Tensor = embed(self.inside(x))
        if z.ndim != 2 or len(z) != len(x):
            raise ValueError(f"embed: expected shape ({len(x)}, d), got {tuple(z.shape)}")
        return z.to("cpu", torch.float64)

    def _check_measure(self, evaluation: str | None) -> None:
        """Coordinates change a density against Lebesgue measure by their log-det, others not so."""
        declared = self.model.evaluations
        name = next(iter(declared)) if evaluation is None else evaluation
        measure = declared[name].measure if name in declared else LEBESGUE
        if changes_measure(self.task) and measure != LEBESGUE:
            task = self.task
            scaled = "standardised data" if task.standardize else "levels over their number"
            seen = "the logit of data" if task.logit is not None else scaled
            raise ValueError(
                f"log_prob: expected a density against Lebesgue measure on {seen}, "
                f"got one against {measure}"
            )

    def about(self, fit: FitResult) -> dict[str, Any]:
        """The fields of a record that training alone decides."""
        curves = [
            {
                "stage": stage.name,
                "epochs": stage.epochs,
                "best_epoch": stage.best_epoch,
                "best_valid": finite(stage.best_valid),
                "warnings": list(stage.warnings),
                "points": [
                    {
                        "epoch": point.epoch,
                        "step": point.step,
                        "train": finite(point.train),
                        "valid": finite(point.valid),
                        "seconds": point.seconds,
                        "monitored": {n: finite(v) for n, v in point.monitored.items()},
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
                "levels": self.task.levels,
                "bits": self.task.bits,
                "shape": self.task.shape,
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
            reconstruct=self.reconstruct if "reconstruct" in self.model.capabilities else None,
            embed=self.embed if "embed" in self.model.capabilities else None,
            labels=self.labels,
            inside=self.inside,
        )
        began = time.perf_counter()
        rows, failures = self._measured(trained)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        fields["clocks"]["eval_s"] = time.perf_counter() - began
        fields["metrics"] = rows
        broken = [row["name"] for row in rows if row["value"] is None]
        if failures:
            fields["status"], fields["reason"] = "error", "; ".join(failures)
        elif broken:
            fields["status"] = "non_finite"
            fields["reason"] = f"not finite: {', '.join(broken)}"
        folder = run_folder(out, self.spec.run_id)
        self._save_weights(folder)
        try:
            notes = self._save_arrays(folder, trained)
        except Exception as error:  # pictures are no result: the numbers stand without them
            traceback.print_exc()
            notes = [f"{NO_PICTURES}: {one_line(error)}"]
        fields["reason"] = "; ".join(note for note in (fields["reason"], *notes) if note)
        return fields

    def _measured(self, trained: Trained) -> tuple[list[dict[str, Any]], list[str]]:
        """What the metrics found, and why some of them failed; one metric harms no other."""
        rows: dict[str, dict[str, Any]] = {}
        failures: list[str] = []
        for part in self.spec.metrics:
            try:
                values = registry.build("metric", part.name, **part.options).compute(trained)
                own = [_row(value) for value in values]
                names = [row["name"] for row in own]
                twice = [name for name in names if name in rows or names.count(name) > 1]
                if twice:
                    raise ValueError(f"expected names of its own, got {twice[0]!r} again")
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                failures.append(f"metric {part.name!r}: {one_line(error)}")
            else:
                rows.update(zip(names, own, strict=True))
        return list(rows.values()), failures

    def _save_arrays(self, folder: Path, trained: Trained) -> list[str]:
        """Write what figures are drawn from; what is asked for beyond the main part may fail."""
        from safetensors.torch import save

        from flowzoo_bench.figure_arrays import kept_parts, main_arrays, stored

        arrays = main_arrays(trained, self.spec)
        notes: list[str] = []
        for part, make in kept_parts(trained, self.spec).items():
            try:
                arrays.update(make())
            except Exception as error:
                traceback.print_exc()
                notes.append(f"no {part}: {one_line(error)}")
        held = {name: stored(value) for name, value in arrays.items()}
        write_atomically(folder / ARRAYS, save(held))
        return notes

    def _save_weights(self, folder: Path) -> None:
        """The model's state, if asked for."""
        from safetensors.torch import save

        if "model" in self.spec.keep:
            state = {
                name: value.cpu().contiguous().clone()
                for name, value in self.model.state_dict().items()
            }
            write_atomically(folder / WEIGHTS, save(state))


def one_line(error: BaseException) -> str:
    """An exception for a record."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


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
