"""Checks of tasks: their splits, their true density, their support."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowzoo.interfaces import Splits, Task
from flowzoo.testing.distribution import draws_follow
from flowzoo.testing.isolation import untouched
from flowzoo.testing.numerics import F64, SAME, close, finite
from flowzoo.testing.outcome import NotApplicable, require
from flowzoo.testing.refusals import refuses
from flowzoo.testing.subject import Subject

_PROPOSALS = 20_000


def builds(subject: Subject) -> None:
    """Builds with its defaults and says how many columns it has."""
    task: Task = subject.make()
    require(
        isinstance(task.features, int) and task.features >= 1, "features: expected a whole number"
    )
    require(isinstance(task.fingerprint(), str), "fingerprint: expected a text")
    require(
        task.fingerprint() == subject.make().fingerprint(), "fingerprint: differs between instances"
    )
    for name in ("noise_scale", "bin_width"):
        value = getattr(task, name)
        require(value is None or value > 0, f"{name}: expected None or > 0, got {value}")


def splits_are(subject: Subject) -> None:
    """Three float64 sets of finite rows (N, D), none empty."""
    task, splits = _data(subject)
    require(isinstance(splits, Splits), f"splits: expected Splits, got {type(splits).__name__}")
    for name, x in zip(splits._fields, splits, strict=True):
        require(
            x.ndim == 2 and x.shape[1] == task.features and len(x) > 0,
            f"{name}: expected (N, {task.features}) with N > 0, got {tuple(x.shape)}",
        )
        require(x.dtype == F64, f"{name}: expected float64, got {x.dtype}")
        require(not x.requires_grad, f"{name}: expected no gradient graph")
        finite(x, name)


def seeds(subject: Subject) -> None:
    """Equal seeds give equal data, whatever the global streams hold; others give other data."""
    task, splits = _data(subject)
    torch.manual_seed(99)
    with untouched("splits"):
        again = subject.make().splits(0)
    for name, a, b in zip(splits._fields, splits, again, strict=True):
        require(torch.equal(a, b), f"{name}: one seed gives two results")
    other = task.splits(1)
    same = all(torch.equal(a, b) for a, b in zip(splits, other, strict=True))
    if subject.capabilities.get("fixed_splits", False):
        require(same, "splits: declared fixed, and differ from seed to seed")
    else:
        require(not same, "splits: ignores the seed, and fixed_splits is not declared")
    task.splits(0).train.zero_()  # what a caller does to its copy is not seen by the next
    require(torch.equal(task.splits(0).train, splits.train), "splits: hands out its own storage")


def rows_are_distinct(subject: Subject) -> None:
    """No test row has a copy among the training rows, unless the data repeat themselves."""
    _, splits = _data(subject)
    train = splits.train
    if len(torch.unique(train, dim=0)) < len(train):
        raise NotApplicable("the data repeat rows")
    both = torch.unique(torch.cat([train, splits.test]), dim=0)
    copies = len(train) + len(torch.unique(splits.test, dim=0)) - len(both)
    require(copies == 0, f"{copies} test rows are training rows as well")


def oracle(subject: Subject) -> None:
    """The true density scores rows (N,), each as alone; without one, log_prob raises TypeError."""
    task, splits = _data(subject)
    x = splits.test[:50].clone()
    if task.oracle is None:
        refuses("", task.log_prob, x)  # the message is free
        raise NotApplicable("the truth is not known")
    with untouched("log_prob", x):
        log_prob = task.log_prob(x)
    require(
        tuple(log_prob.shape) == (len(x),) and log_prob.dtype == F64,
        f"log_prob: expected float64 ({len(x)},), got {log_prob.dtype} {tuple(log_prob.shape)}",
    )
    finite(log_prob, "log_prob of test rows")
    require(tuple(task.log_prob(x[:0]).shape) == (0,), "log_prob of no row: expected shape (0,)")
    for n in range(5):
        close(task.log_prob(x[n : n + 1])[0], log_prob[n], SAME[F64], f"row {n} alone")


def oracle_normalised(subject: Subject) -> None:
    """The true density has mass 1, and the data follow it.

    By quadrature for D <= 2. Beyond, by importance sampling from a kernel density around data rows.
    """
    task, splits = _data(subject)
    if task.oracle is None or task.oracle.measure.kind != "lebesgue":
        raise NotApplicable("no true density on R^D")
    rows = torch.cat(splits)
    if task.features <= 2:
        draws_follow(task.log_prob, rows, tolerance=1e-2)
        return
    if task.features > 5:
        raise NotApplicable("too many columns to integrate over")
    width = _bandwidth(task, rows)
    generator = torch.Generator().manual_seed(1)
    centres = rows[torch.randperm(len(rows), generator=generator)[:2000]]
    pick = torch.randint(len(centres), (_PROPOSALS,), generator=generator)
    noise = torch.randn(_PROPOSALS, task.features, generator=generator, dtype=F64)
    x = centres[pick] + width * noise
    proposal = _kernel_density(x, centres, width)
    ratio = (task.log_prob(x) - proposal).exp()
    mass, error = float(ratio.mean()), float(ratio.std()) / _PROPOSALS**0.5
    require(error < 0.1, f"total mass: too rough to tell, {mass:.3f} +- {error:.3f}")
    # the kernels cover the data, a little of the truth lies outside
    allowed = 4.0 * error + 0.03
    require(abs(mass - 1.0) <= allowed, f"total mass: expected 1, got {mass:.4f} (+- {error:.4f})")


def support(subject: Subject) -> None:
    """Distances to the support are (N,), non-negative, of the size of the noise."""
    task, splits = _data(subject)
    x = splits.test[:200].clone()
    try:
        with untouched("distance", x):
            distance = task.distance(x)
    except TypeError:
        raise NotApplicable("the support is not known") from None
    require(tuple(distance.shape) == (len(x),), f"distance: expected ({len(x)},)")
    finite(distance, "distance")
    require(bool((distance >= 0).all()), "distance: expected none below 0")
    far = task.distance(x + 1e3)
    require(bool((far > distance).all()), "distance: rows far away are not farther")
    if task.noise_scale is not None:
        typical = float(distance.square().mean().sqrt())
        most = 3.0 * task.noise_scale * math.sqrt(task.features)
        require(
            typical <= most, f"distance of the data: {typical:.3g}, the noise allows {most:.3g}"
        )


def refuses_bad_input(subject: Subject) -> None:
    """Wrong shapes raise ValueError naming x."""
    task, splits = _data(subject)
    if task.oracle is None:
        raise NotApplicable("takes no rows")
    x = splits.test[:4]
    for wrong in (x[0], x[None], torch.cat([x, x], dim=1), x.long()):
        refuses("x", task.log_prob, wrong)


def _data(subject: Subject) -> tuple[Task, Splits]:
    task: Task = subject.make()
    key = "splits"
    splits: Splits = subject.keep(key, lambda: task.splits(0))
    return task, splits


def _bandwidth(task: Task, rows: Tensor) -> float:
    if task.noise_scale is not None:
        return 1.5 * task.noise_scale
    nearest = torch.cdist(rows[:500], rows[500:]).min(dim=1).values
    return 1.5 * float(nearest.median())


def _kernel_density(x: Tensor, centres: Tensor, width: float) -> Tensor:
    parts = []
    for chunk in x.split(2000):  # type: ignore[no-untyped-call]
        square = torch.cdist(chunk, centres, compute_mode="donot_use_mm_for_euclid_dist").square()
        parts.append((-0.5 * square / width**2).logsumexp(dim=1))
    constant = math.log(len(centres)) + x.shape[1] * math.log(width * math.sqrt(2.0 * math.pi))
    return torch.cat(parts) - constant
