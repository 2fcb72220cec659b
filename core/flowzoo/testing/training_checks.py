"""Checks of how a mixture is trained: stages, gradients, packs, resuming."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from flowzoo.interfaces import LEBESGUE, Mixture
from flowzoo.testing.instances import Shortened, train_briefly, trained, training_data
from flowzoo.testing.isolation import untouched
from flowzoo.testing.numerics import close, difference, finite, moons
from flowzoo.testing.outcome import NotApplicable, require
from flowzoo.testing.probe import scores
from flowzoo.testing.subject import Subject, trying


def trains(subject: Subject) -> None:
    """Its stages end well, equally for equal seeds, and leave everything else alone."""
    for features in subject.sizes():
        with trying(f"D={features}"):
            models = [subject.make(3, features=features).double() for _ in range(2)]
            train_briefly(
                models[0], features, seed=5
            )  # what this imports for the first time may stay
            with untouched("training"):
                train_briefly(models[1], features, seed=5)
            for (name, a), (_, b) in zip(*(m.state_dict().items() for m in models), strict=True):
                require(_equal(a, b), f"{name}: differs after two trainings from one seed")
            if features == subject.sizes()[0]:
                _learns_from_training_rows(subject, features, models[1])


def _learns_from_training_rows(subject: Subject, features: int, trained: nn.Module) -> None:
    """Other training rows beside the same validation rows end in another state."""
    start, other = (subject.make(3, features=features).double() for _ in range(2))
    if _same_state(start, trained):  # nothing to train
        return
    train_briefly(other, features, seed=5, shift=0.5)
    require(not _same_state(other, trained), "training does not depend on the training rows")


def _same_state(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(x.shape == y.shape and _equal(x, y) for x, y in pairs)


def gradients(subject: Subject) -> None:
    """Every stage with a loss gives each of its parameters a finite gradient."""
    tried = False
    for features in subject.sizes():
        with trying(f"D={features}"):
            model: Mixture = trained(subject, features)
            with Shortened(model, 1):
                tried |= stage_gradients(model, moons(64, features, seed=7))
    if not tried:
        raise NotApplicable("every stage is closed-form")


def stage_gradients(model: nn.Module, x: Tensor) -> bool:
    """Check the gradients of every stage of ``model`` that has a loss; whether any has."""
    found = False
    for stage in model.stages():  # type: ignore[operator]
        if stage.loss is None:
            continue
        found = True
        prefixes = [name for group in stage.groups for name in group.names]

        def inside(name: str, prefixes: list[str] = prefixes) -> bool:
            return any(not p or name == p or name.startswith(f"{p}.") for p in prefixes)

        model.eval()
        for name, module in model.named_modules():
            if inside(name):
                module.train()
        model.zero_grad()
        noise = torch.randn(len(x), stage.noise_features, dtype=x.dtype)
        with trying(f"stage {stage.name}"):
            loss = stage.loss(x, noise, 0.5)
            shaped = tuple(loss.shape), loss.dtype
            require(shaped == ((len(x),), x.dtype), f"loss: expected ({len(x)},) {x.dtype}")
            finite(loss, "loss")
            total = loss.mean()
            if stage.penalty is not None:
                total = total + stage.penalty()
            total.backward()
            trained_names = [
                n for n, p in model.named_parameters() if inside(n) and p.requires_grad
            ]
            require(bool(trained_names), "its groups name no parameter that is trained")
            for name, parameter in model.named_parameters():
                if name in trained_names:
                    require(parameter.grad is not None, f"{name}: no gradient")
                    finite(parameter.grad, f"gradient of {name}")  # type: ignore[arg-type]
    model.eval()
    return found


def packs(subject: Subject) -> None:
    """Two members trained as a pack equal the same two trained alone."""
    from flowzoo.training import TrainingData, train_pack
    from flowzoo.training.packing import is_packable

    for features in subject.sizes()[-1:]:
        with trying(f"D={features}"):
            together = [subject.make(s, features=features).double() for s in (0, 1)]
            if not is_packable(together[0]):
                raise NotApplicable("declares packable = False")
            alone = [subject.make(s, features=features).double() for s in (0, 1)]
            data = [TrainingData(*training_data(features, s)) for s in (0, 1)]
            train = _train_shortened(train_pack)
            train(together, data, [0, 1])
            for index, model in enumerate(alone):
                train([model], data[index : index + 1], [index])
            x = moons(20, features, seed=11)
            for index, (a, b) in enumerate(zip(together, alone, strict=True)):
                for name in a.evaluations:
                    with torch.no_grad():
                        found, expected = scores(a, x, name), scores(b, x, name)
                    close(found, expected, 1e-3, f"member {index}, {name}: packed against alone")


def learns_the_data(subject: Subject) -> None:
    """Trained a little longer, held-out rows are denser than under a Gaussian twice too wide."""
    features = next((d for d in subject.sizes() if d >= 2), None)
    if features is None:
        raise NotApplicable("declares no D >= 2")
    model: Mixture = subject.make(features=features).double()
    first = next(iter(model.evaluations))
    if model.evaluations[first].measure != LEBESGUE:
        raise NotApplicable("its first evaluation is no density on R^D")
    train_briefly(model, features, seed=6, steps=400, least_lr=5e-3)
    train, _ = training_data(features, 6)
    test = moons(500, features, seed=12)
    wide = torch.distributions.Normal(train.mean(dim=0), 2.0 * train.std(dim=0))
    with torch.no_grad():
        ours = float(scores(model, test, first).mean())
    theirs = float(wide.log_prob(test).sum(dim=1).mean())  # type: ignore[no-untyped-call]
    require(ours >= theirs, f"{ours:.3f} nat; a Gaussian twice too wide has {theirs:.3f}")


def resumes(subject: Subject) -> None:
    """Training that was stopped and resumed ends as training that was not."""
    from flowzoo.training import fit

    features = subject.sizes()[-1]
    train, valid = training_data(features)
    models = [subject.make(features=features).double() for _ in range(3)]
    stopped = False
    with TemporaryDirectory(prefix="flowzoo-check-") as folder:
        path = Path(folder) / "checkpoint"
        with Shortened(models[0], 12):
            fit(models[0], train, valid)
        with Shortened(models[1], 12):
            try:
                _fit_until(models[1], train, valid, path, events=2)
            except _Stopped:
                stopped = True
        with Shortened(models[2], 12):
            fit(models[2], train, valid, checkpoint=path)
    if not stopped:
        raise NotApplicable("its training ends before it can be stopped")
    for (name, a), (_, b) in zip(
        models[0].state_dict().items(), models[2].state_dict().items(), strict=True
    ):
        require(_equal(a, b), f"{name}: differs from training that was not stopped")


class _Stopped(Exception):
    """Stands for a kill."""


def _fit_until(model: nn.Module, train: Tensor, valid: Tensor, path: object, events: int) -> None:
    from flowzoo.training import TrainingData, train_pack

    seen = 0

    def progress(event: object) -> None:
        nonlocal seen
        seen += 1
        if seen > events:
            raise _Stopped

    train_pack(
        [model],
        [TrainingData(train, valid)],
        [0],
        checkpoint=path,  # type: ignore[arg-type]
        checkpoint_seconds=0.0,
        progress=progress,
    )


def _train_shortened(train_pack: Callable[..., object]) -> Callable[..., None]:
    def train(models: list[nn.Module], data: object, seeds: list[int]) -> None:
        with ExitStack() as stack:
            shared: type | None = None
            for model in models:
                stack.enter_context(Shortened(model, 15))
                if shared is None:
                    shared = type(model)
                model.__class__ = shared  # a pack's members are of one class
            train_pack(models, data, seeds)

    return train


def _equal(a: Tensor, b: Tensor) -> bool:
    return bool(torch.equal(a, b)) or (a.is_floating_point() and difference(a, b) == 0.0)
