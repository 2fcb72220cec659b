"""What is kept of a run for its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import flowzoo_bench.figure_arrays as figure_arrays
from flowzoo.interfaces import Evaluation, Mixture, Splits, Task, Trained
from flowzoo_bench.discriminant import discriminant_plane
from flowzoo_bench.figure_arrays import kept_parts, main_arrays, stored
from flowzoo_bench.records import ARRAYS, find_record, run_folder
from flowzoo_bench.runspec import PackSpec, Part, RunSpec
from flowzoo_bench.worker import PackRun


class Line(Mixture):
    """A line in space with noise beside it: x = (t z, s e, 0)."""

    evaluations: ClassVar = {"full": Evaluation()}
    capabilities = frozenset({"noise_scale", "embed", "reconstruct"})

    def stages(self) -> Any:
        return ()

    def _log_prob(self, x: Tensor, *_: Any) -> Tensor:
        return x.sum(dim=1)

    def _sample(self, *_: Any) -> Tensor:
        raise AssertionError("drawn through the run, in original units")


class Noiseless(Line):
    capabilities = frozenset({"embed"})


class Labelled(Task):
    """Rows whose class shows in the second column only, behind a large first."""

    def __init__(self, shape: tuple[int, int, int] | None = None) -> None:
        super().__init__(3)
        self.shape = shape

    def splits(self, seed: int) -> Splits:
        draw = torch.randn(180, 3, dtype=torch.float64, generator=_generator(seed))
        draw = draw * torch.tensor([50.0, 0.1, 1.0])
        draw[:, 1] += torch.cat(self.labels(seed))
        return Splits(*draw.split(60))

    def labels(self, seed: int) -> Splits:
        return Splits(*(torch.arange(180) % 3).split(60))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(task: Task, model: Mixture) -> Trained:
    def sample(
        num: int, seed: int, *, temperature: float = 1.0, noise_scale: float | None = None
    ) -> Tensor:
        noise = torch.randn(num, 3, dtype=torch.float64, generator=_generator(seed))
        scale = 1.0 if noise_scale is None else noise_scale
        return noise * torch.tensor([temperature, scale, 0.0])

    return Trained(
        task=task,
        splits=task.splits(0),
        model=model,
        log_prob=lambda x, evaluation: x.sum(dim=1),
        sample=sample,
        seed=5,
        reconstruct=(lambda x: x * torch.tensor([1.0, 0.0, 0.0]))
        if "reconstruct" in model.capabilities
        else None,
        embed=lambda x: x[:, 1:],
        labels=task.labels(0),
    )


def spec(**changes: Any) -> RunSpec:
    given: dict[str, Any] = {
        "task": Part(name="blob"),
        "method": Part(name="shift", options={"epochs": 1}),
        "num_samples": 40,
        "keep": ("embeddings", "knobs", "reconstructions"),
        "temperatures": (0.5, 2.0),
        "noise_scales": (0.0, 1.0),
    }
    return RunSpec(**{**given, **changes})


def made(run: Trained, item: RunSpec) -> dict[str, Tensor]:
    arrays = main_arrays(run, item)
    for make in kept_parts(run, item).values():
        arrays |= make()
    return arrays


def test_samples_at_two_knobs_differ_by_the_knob_alone() -> None:
    got = made(trained(Labelled(), Line(3)), spec())
    cold, warm = got["temperature/0.5"], got["temperature/2.0"]
    assert torch.allclose(warm[:, 0], 4 * cold[:, 0]) and torch.equal(warm[:, 1], cold[:, 1])
    on, off = got["noise_scale/0.0"], got["noise_scale/1.0"]
    assert torch.equal(on[:, 0], off[:, 0]) and not on[:, 1].any() and off[:, 1].all()
    cold, warm = got["manifold_temperature/0.5"], got["manifold_temperature/2.0"]
    assert torch.allclose(warm[:, 0], 4 * cold[:, 0]) and not warm[:, 1].any()
    assert torch.equal(off, got["samples"])  # 1 is the model as it was trained
    assert torch.equal(got["reconstructions"][:, 0], got["data"][:, 0])


def test_only_what_is_asked_for_and_the_model_has() -> None:
    run = trained(Labelled(), Noiseless(3))
    assert set(kept_parts(run, spec())) == {"knobs", "embeddings"}
    own = ("noise_scale/", "manifold_temperature/")
    assert not any(name.startswith(own) for name in made(run, spec()))
    assert kept_parts(trained(Labelled(), Line(3)), spec(keep=("layers", "model"))) == {}


def test_few_images_are_kept_and_more_points() -> None:
    assert len(made(trained(Labelled((1, 1, 3)), Line(3)), spec())["temperature/0.5"]) == 24
    assert len(made(trained(Labelled(), Line(3)), spec())["temperature/0.5"]) == 40


def test_embeddings_part_the_classes_that_the_data_hide() -> None:
    got = made(trained(Labelled(), Line(3)), spec())
    classes = got["embeddings/classes"]
    assert torch.equal(classes, torch.arange(40) % 3)
    for name in ("embeddings/plane", "embeddings/data_plane"):
        first = got[name][:, 0]
        centres = torch.stack([first[classes == k].mean() for k in range(3)])
        within = torch.stack([first[classes == k].std() for k in range(3)]).max()
        assert got[name].shape == (40, 2)
        assert (centres.sort().values.diff() > 4 * within).all()


def test_rows_of_one_class_have_no_embeddings_to_part() -> None:
    run = trained(Labelled(), Line(3))
    assert run.labels is not None
    run.labels.train.fill_(1)
    assert set(kept_parts(run, spec())) == {"knobs", "reconstructions"}


def test_the_plane_is_fitted_on_training_rows() -> None:
    """Test rows named at random have no plane of their own that parts them."""
    run = trained(Labelled(), Line(3))
    expected = made(run, spec())
    assert run.labels is not None
    run.labels.test.copy_(torch.randint(0, 3, (60,), generator=_generator(4)))
    got = made(run, spec())
    for name, inside in (
        ("embeddings/plane", lambda x: x[:, 1:]),
        ("embeddings/data_plane", lambda x: x),
    ):
        assert torch.equal(got[name], expected[name])
        train, test = run.splits.train, run.splits.test[:40]
        plane = discriminant_plane(inside(train), run.labels.train, inside(test))
        assert torch.equal(got[name], plane)


def test_the_axis_of_two_gaussians_is_fishers() -> None:
    covariance = torch.tensor([[2.0, 0.9, 0.0], [0.9, 1.0, 0.3], [0.0, 0.3, 0.5]]).double()
    apart = torch.tensor([1.0, -1.0, 2.0]).double()
    classes = torch.arange(20000) % 2
    noise = torch.randn(20000, 3, dtype=torch.float64, generator=_generator(0))
    fit = noise @ torch.linalg.cholesky(covariance).T + classes[:, None] * apart
    plane = discriminant_plane(fit, classes, torch.eye(3).double())
    origin = discriminant_plane(fit, classes, torch.zeros(1, 3).double())
    axis, fisher = (plane - origin)[:, 0], torch.linalg.solve(covariance, apart)
    assert abs(torch.cosine_similarity(axis, fisher, dim=0)) > 0.999
    assert not plane[:, 1].any()


def test_rows_that_are_no_numbers_stay_so_and_spoil_no_axis() -> None:
    classes = torch.arange(60) % 3
    fit = torch.nn.functional.one_hot(classes).double()
    fit = fit + 0.1 * torch.randn(60, 3, dtype=torch.float64, generator=_generator(1))
    rows = fit[:6].clone()
    rows[2, 1] = float("inf")
    bad = torch.cat([fit, torch.full((1, 3), float("nan"))])
    plane = discriminant_plane(bad, torch.cat([classes, classes[:1]]), rows)
    others = [0, 1, 3, 4, 5]
    assert plane[2].isnan().all()
    assert torch.equal(plane[others], discriminant_plane(fit, classes, rows)[others])
    with pytest.raises(ValueError, match="classes: expected at least two"):
        discriminant_plane(fit, torch.zeros(60, dtype=torch.int64), rows)


def test_what_is_kept_is_small() -> None:
    whole = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    assert stored(whole[:, 1:]).dtype == torch.float32
    assert stored(torch.arange(3)).dtype == torch.int32
    assert stored(whole[:1]).untyped_storage().nbytes() == 12


@pytest.mark.parametrize("broken", [False, True])
def test_a_run_keeps_them_and_a_part_that_fails_costs_no_other(
    faulty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("not today")

    if broken:
        monkeypatch.setattr(figure_arrays, "_knobs", fail)
    item = spec(metrics=(Part(name="log-likelihood"),))
    pack = PackSpec.of([item])
    (tmp_path / "packs" / pack.pack_id).mkdir(parents=True)
    assert PackRun(tmp_path / "packs" / pack.pack_id, pack).run() == 0
    found = find_record(tmp_path, item.run_id)
    assert found is not None and found.status == "ok"
    held = load_file(run_folder(tmp_path, item.run_id) / ARRAYS)
    if broken:
        assert found.reason == "no knobs: RuntimeError: not today"
        assert set(held) == {"data", "samples"}
    else:
        assert found.reason == ""
        assert set(held) == {"data", "samples", "temperature/0.5", "temperature/2.0"}
        mean = (held["temperature/2.0"] - 4 * held["temperature/0.5"]) / -3
        assert torch.allclose(mean, mean[0].expand(40, 2), atol=1e-5)
