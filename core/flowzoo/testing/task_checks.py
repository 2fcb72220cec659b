"""Checks of tasks: their splits, their true density, their support."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from typing import cast

import torch
from torch import Tensor

from flowzoo.interfaces import Splits, Task
from flowzoo.task_validation import (
    check_description,
    check_dimensions,
    check_labels,
    check_splits,
)
from flowzoo.testing.distribution import check_overlap, draws_follow
from flowzoo.testing.isolation import untouched
from flowzoo.testing.numerics import F64, SAME, close, finite
from flowzoo.testing.outcome import CheckFailed, NotApplicable, require
from flowzoo.testing.refusals import refuses
from flowzoo.testing.subject import Subject, trying

_DIGITS = 9  # to which rows are compared
_COARSER = 4  # digits fewer, to see how often rows come close by chance
_AMBIGUOUS = 0.05  # share of rows that are another row's equal by chance, and of another class


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
    require(len(task.splits(2).train) == len(splits.train), "splits: sizes depend on the seed")
    other = task.splits(1)
    same = all(torch.equal(a, b) for a, b in zip(splits, other, strict=True))
    if subject.capabilities.get("fixed_splits", False):
        require(same, "splits: declared fixed, and differ from seed to seed")
    else:
        require(not same, "splits: ignores the seed, and fixed_splits is not declared")
    task.splits(0).train.zero_()  # what a caller does to its copy is not seen by the next
    require(torch.equal(task.splits(0).train, splits.train), "splits: hands out its own storage")


def rows_are_distinct(subject: Subject) -> None:
    """No split shares rows with another, beyond chance and the rate at which data repeat."""
    _, splits = _data(subject)
    scale = splits.train.abs().amax(dim=0).clamp(min=1e-300)
    fine, coarse = (
        {n: _counted(x / scale, digits) for n, x in zip(splits._fields, splits, strict=True)}
        for digits in (_DIGITS, _DIGITS - _COARSER)
    )
    train = fine["train"]
    repeated = len(splits.train) - len(train)
    by_chance = _likely(_self_pairs(train), _self_pairs(coarse["train"]))
    repeats = 0.0 if repeated <= by_chance else repeated / len(splits.train)
    for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
        size = sum(fine[second].values())
        shared = sum(num for row, num in fine[second].items() if row in fine[first])
        allowed = _likely(
            _pairs(fine[first], fine[second]), _pairs(coarse[first], coarse[second])
        ) + (0.0 if repeats == 0.0 else (3.0 * repeats + 0.05) * size)
        require(shared <= allowed, f"{shared} {second} rows are {first} rows as well")


def _likely(fine: int, coarse: int) -> float:
    """How many equal pairs chance explains, all but once in a million.

    Of a density, at most 1 in 10^4 of the pairs that are as close as the coarse cells' width are as
    close as the fine cells': their difference is spread over at least one dimension. Pairs that are
    copies are equal in both.
    """
    from scipy.stats import poisson

    expected = (coarse - fine) / (10.0**_COARSER - 1.0)
    return float(poisson.isf(1e-6, expected)) if expected > 0 else 0.0


def _counted(x: Tensor, digits: int) -> Counter[bytes]:
    """Rows of scale 1 to so many digits, so that a copy is one even after rounding."""
    rounded = (x * 10.0**digits).round() + 0.0  # no negative zeros
    return Counter(blake2b(row.tobytes()).digest()[:16] for row in rounded.detach().numpy())


def _pairs(first: Counter[bytes], second: Counter[bytes]) -> int:
    return sum(num * first[row] for row, num in second.items())


def _self_pairs(rows: Counter[bytes]) -> int:
    return sum(num * (num - 1) // 2 for num in rows.values())


def images(subject: Subject) -> None:
    """What the task says of levels, bits, bins, logit and shape fits its rows."""
    task, splits = _data(subject)
    _told(check_description, task)
    if task.shape is None and task.levels is None:
        raise NotApplicable("neither images nor levels")
    _told(check_splits, task, splits)


def labels(subject: Subject) -> None:
    """Classes 0, 1, ..., one a row; equal seeds give equal ones, and they follow their rows."""
    task, splits = _data(subject)
    torch.manual_seed(99)
    with untouched("labels"):
        found = task.labels(0)
    torch.manual_seed(98)
    again = subject.make().labels(0)
    if found is None or again is None:
        require(found is again, "labels: None from one instance, not from another")
        raise NotApplicable("no labels")
    _told(check_labels, splits, found)
    for name, a, b in zip(found._fields, found, again, strict=True):
        require(torch.equal(a, b), f"{name} labels: one seed gives two results")
    kept = Splits(*(classes.clone() for classes in found))
    found.train.fill_(7)  # what a caller does to its copy is not seen by the next
    require(torch.equal(_labels(task, 0).train, kept.train), "labels: hands out its own storage")
    others, rows = _labels(task, 1), task.splits(1)
    _told(check_labels, rows, others)
    one, other = (_of_single_rows(task, *given) for given in ((splits, kept), (rows, others)))
    shared = one.keys() & other.keys()
    moved = sum(one[row] != other[row] for row in shared)
    require(
        moved <= _AMBIGUOUS * len(shared),
        f"labels: {moved} of {len(shared)} rows have another class under another seed",
    )


def dimension(subject: Subject) -> None:
    """The dimension is a whole number to D; of a union one for each class, all of which occur."""
    task, _ = _data(subject)
    _told(check_description, task)
    if task.dimensions is None:
        if task.dimension is None:
            raise NotApplicable("the dimension is not known")
        return
    for seed in (0, 1):
        labels = task.labels(seed)
        with trying(f"seed {seed}"):
            _told(check_dimensions, task, labels)
            for name, classes in zip(Splits._fields, cast(Splits, labels), strict=True):
                found = set(classes.tolist())
                require(
                    found == set(range(len(task.dimensions))),
                    f"{name} labels: expected rows on each of the {len(task.dimensions)} "
                    f"manifolds that dimensions lists, got {sorted(found)}",
                )


def _told(check: Callable[..., object], *given: object) -> None:
    try:
        check(*given)
    except (TypeError, ValueError) as error:
        raise CheckFailed(str(error).removeprefix("task: ")) from error


def _labels(task: Task, seed: int) -> Splits:
    found = task.labels(seed)
    require(found is not None, f"labels: None for seed {seed}, not for seed 0")
    return cast(Splits, found)


def _of_single_rows(task: Task, splits: Splits, labels: Splits) -> dict[bytes, int]:
    """Class of each row that occurs once, by its levels where there are any."""
    rows, classes = torch.cat(splits), torch.cat(labels)
    if task.bin_width is not None:
        rows = (rows / task.bin_width).floor()
    keys = [row.tobytes() for row in rows.detach().numpy()]
    count = Counter(keys)
    return {key: kind for key, kind in zip(keys, classes.tolist(), strict=True) if count[key] == 1}


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
    """The true density has mass 1 and the rows of every split follow it.

    By quadrature for D <= 2 where a grid resolves it, by overlaps with a kernel density beyond.
    """
    task, splits = _data(subject)
    if task.oracle is None or task.oracle.measure.kind == "surface":
        raise NotApplicable("no true density on R^D")
    everything = torch.cat(splits)
    if task.features <= 2:
        with trying("all rows"):
            draws_follow(task.log_prob, everything, tolerance=1e-2)
    width = 0.3
    if task.noise_scale is not None:  # kernels about as wide as the noise meet the data at once
        width = min(width, 2.0 * task.noise_scale / float(everything.std(dim=0).mean()))
    for name, x in zip(splits._fields, splits, strict=True):
        with trying(f"{name} rows"):
            rest = torch.cat(
                [rows for other, rows in zip(splits._fields, splits, strict=True) if other != name]
            )
            check_overlap(task.log_prob, x, centres=rest, width=width)


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
    generator = torch.Generator().manual_seed(2)
    for size in (0.1, 1e3):
        step = size * torch.randn(x.shape, generator=generator, dtype=F64)
        moved = (task.distance(x + step) - distance).abs()
        most = torch.linalg.vector_norm(step, dim=1) * (1.0 + 1e-6) + 1e-9
        require(bool((moved <= most).all()), "distance: changes by more than a row is moved")
    require(
        bool((task.distance(x + step) > distance).any()) or not bool(distance.any()),
        "distance: rows far away are not farther",
    )
    if task.noise_scale is not None:
        _noise_fits(task, splits, task.noise_scale)


def _noise_fits(task: Task, splits: Splits, noise: float) -> None:
    """Check that rows lie as far from the support as noise of this size takes them.

    Noise added once more takes rows about 1.4 times as far, or less than twice where the support
    has an inside; both bounds leave a factor 3 sqrt(D), for noise that is not round.
    """
    x = torch.cat(splits)
    x = x[:: max(1, len(x) // 1000)]
    slack = 3.0 * math.sqrt(task.features)
    generator = torch.Generator().manual_seed(3)
    again = x + noise * torch.randn(x.shape, generator=generator, dtype=F64)
    distance, further = task.distance(x), task.distance(again)
    typical, wider = (float(d.square().mean().sqrt()) for d in (distance, further))
    require(
        typical <= slack * noise,
        f"distance of the data: {typical:.3g}, the noise allows {slack * noise:.3g}",
    )
    if not bool(further.any()):
        far = x + 100.0 * x.std(dim=0) * torch.randn(x.shape, generator=generator, dtype=F64)
        require(
            bool(task.distance(far).any()),
            f"noise_scale: expected None where every row is on the support, got {noise:g}",
        )
    if int((further > 0).sum()) < 30:
        return  # a support with an inside that noise hardly leaves
    require(
        wider <= slack * typical,
        f"noise_scale: {noise:g} is too large: rows are {typical:.3g} from the support, and would "
        f"be {wider:.3g} with as much noise once more",
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
