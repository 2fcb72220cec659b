"""Checks of mixtures: the density, its bounds, its draws, its training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from flowzoo.interfaces import LEBESGUE, Evaluation, Mixture
from flowzoo.testing.capability_checks import check_declared
from flowzoo.testing.distribution import check_mass, draws_follow, resolved
from flowzoo.testing.importance import Proposal, check_not_above_one
from flowzoo.testing.instances import trained, training_data
from flowzoo.testing.isolation import untouched
from flowzoo.testing.numerics import F32, F64, MASS, SAME, close, finite, moons
from flowzoo.testing.outcome import NotApplicable, require
from flowzoo.testing.probe import is_random, scores
from flowzoo.testing.quadrature import Grid, integrate
from flowzoo.testing.refusals import refuses
from flowzoo.testing.subject import Subject, trying

_DRAWS = 20_000
_ESTIMATE = 0.1  # how far an estimate's mass may be off: it is random itself


def builds(subject: Subject) -> None:
    """Builds for every D it declares, with evaluations that say what they are."""
    for features in subject.sizes():
        with trying(f"D={features}"):
            model: Mixture = subject.make(features=features)
            require(model.features == features, f"features: expected {features}")
            require(len(model.evaluations) > 0, "evaluations: expected at least one")
            for name, evaluation in model.evaluations.items():
                require(
                    isinstance(name, str) and isinstance(evaluation, Evaluation),
                    f"evaluations: expected names and Evaluations, got {name!r}: {evaluation!r}",
                )
            check_declared(model)
    for wrong in (0, -1):
        with trying(f"features={wrong}"):
            refuses("features", subject.make, features=wrong)


def log_probs(subject: Subject) -> None:
    """Every evaluation gives (N,) numbers, finite on data, for no row, one row and many."""
    for features in subject.sizes():
        for dtype in (F64, F32):
            model: Mixture = trained(subject, features, dtype)
            for name in model.evaluations:
                for num in (0, 1, 50):
                    with trying(f"D={features}, {name}, {num} rows, {dtype}"):
                        value = scores(model, training_data(features)[0][:num].to(dtype), name)
                        found = tuple(value.shape), value.dtype
                        require(
                            found == ((num,), dtype),
                            f"log_prob: expected ({num},) {dtype}, got {found}",
                        )
                        require(
                            bool((value > -torch.inf).all() & (value < torch.inf).all()),
                            "log_prob: not finite on training rows",
                        )


def estimates_heed_their_samples(subject: Subject) -> None:
    """A random estimate depends on ``num_samples``."""
    tried = False
    for features in subject.sizes():
        model: Mixture = trained(subject, features)
        x = moons(9, features, seed=8)
        for name, evaluation in model.evaluations.items():
            if evaluation.likelihood.kind != "estimate" or not is_random(model, x, name):
                continue
            tried = True
            num = 3 if evaluation.likelihood.num_samples == 2 else 2
            few, usual = (
                model.log_prob(
                    x,
                    evaluation=name,
                    num_samples=given,
                    generator=torch.Generator().manual_seed(1),
                )
                for given in (num, None)
            )
            with trying(f"D={features}, {name}"):
                alike = torch.equal(few, usual)
                require(not alike, f"num_samples: {num} gives the numbers of the usual count")
    if not tried:
        raise NotApplicable("no random estimate")


def rows_independent(subject: Subject) -> None:
    """Every row is scored as it would be alone, and in another order."""
    tried = False
    for features in subject.sizes():
        model: Mixture = trained(subject, features)
        x = moons(9, features, seed=8)
        for name in model.evaluations:
            if is_random(model, x, name):
                continue
            tried = True
            with trying(f"D={features}, {name}"), torch.no_grad():
                whole = scores(model, x, name)
                for n in range(len(x)):
                    alone = scores(model, x[n : n + 1], name)
                    close(alone[0], whole[n], SAME[F64], f"row {n} alone")
                order = torch.randperm(len(x))
                close(scores(model, x[order], name), whole[order], SAME[F64], "another order")
    if not tried:
        raise NotApplicable("every evaluation is random")


def normalised(subject: Subject) -> None:
    """Exact densities integrate to 1 over R and R^2, bounds to at most 1, estimates about to 1.

    Where there is no grid, or one is too coarse, points near the draws and far from them must not
    find more than 1.
    """
    tried = False
    for features in subject.sizes():
        model: Mixture = trained(subject, features)
        draws = _draw(model, 2000)
        proposal = Proposal.around(draws)
        for name, evaluation in model.evaluations.items():
            kind = evaluation.likelihood.kind
            if evaluation.measure.kind == "surface":
                continue
            tried = True
            with trying(f"D={features}, {name}"):
                if features > 2 or not _integrates(model, name, kind, draws):
                    allowed = _ESTIMATE if kind == "estimate" else MASS[F64]
                    check_not_above_one(_scorer(model, name), proposal, allowed)
                if features <= 2 and kind == "exact":
                    single: Mixture = trained(subject, features, F32)
                    with trying("float32"):
                        _integrates(single, name, kind, draws, F32)
    if not tried:
        raise NotApplicable("no density on R^D")


def _integrates(
    model: Mixture, name: str, kind: str, draws: Tensor, dtype: torch.dtype = F64
) -> bool:
    """Check the mass on a grid; whether one was fine enough."""
    allowed = _ESTIMATE if kind == "estimate" else MASS[dtype]
    masses, moved = integrate(
        _scorer(model, name), Grid.around(draws), dtype=dtype, tolerance=allowed
    )
    if not resolved(masses, moved):
        return False
    check_mass(masses, moved, allowed, bound=kind == "lower_bound")
    return True


def bounds_hold(subject: Subject) -> None:
    """Beside an exact density of the same measure: bounds lie below it, another exact one agrees.

    And the mass of each, E_{x ~ exact}[exp(it - exact)], is at most 1 for a bound, about 1 for an
    estimate.
    """
    tried = False
    for features in subject.sizes():
        model: Mixture = trained(subject, features)
        x = moons(60, features, seed=9)
        for exact, other in _pairs(model):
            tried = True
            kind = model.evaluations[other].likelihood.kind
            with trying(f"D={features}, {other} against {exact}"), torch.no_grad():
                if kind != "estimate":
                    _check_below(model, x, exact, other)
                if model.evaluations[exact].measure.kind != "surface":
                    draws = _draw(model, 1500, seed=5)
                    ratio = (scores(model, draws, other) - scores(model, draws, exact)).exp()
                    mass, error = float(ratio.mean()), float(ratio.std()) / len(draws) ** 0.5
                    off = mass - 1.0 if kind == "lower_bound" else abs(mass - 1.0)
                    allowed = 5.0 * error + (_ESTIMATE if kind == "estimate" else 1e-6)
                    require(off <= allowed, f"its mass is {mass:.4f} (+- {error:.4f})")
    if not tried:
        raise NotApplicable("nothing beside an exact density")


def _check_below(model: Mixture, x: Tensor, exact: str, other: str) -> None:
    truth = scores(model, x, exact)
    repeats = 30 if is_random(model, x, other) else 1
    values = torch.stack([scores(model, x, other, seed) for seed in range(repeats)])
    mean = values.mean(dim=0)
    error = 0.0 if repeats == 1 else 4.0 * values.std(dim=0) / repeats**0.5
    above = float((mean - truth - error - SAME[F64] * (1 + truth.abs())).max())
    require(above <= 0.0, f"exceeds it by {above:.3g} nat")
    if model.evaluations[other].likelihood.kind == "exact":
        close(mean, truth, SAME[F64], "another exact density")


def samples(subject: Subject) -> None:
    """Draws have the right shape and dtype; they follow the generator and nothing else."""
    for features in subject.sizes():
        for dtype in (F64, F32):
            model: Mixture = trained(subject, features, dtype)
            with trying(f"D={features}, {dtype}"):
                for num in (0, 1, 7):
                    x = _draw(model, num)
                    found = tuple(x.shape), x.dtype
                    require(
                        found == ((num, features), dtype),
                        f"sample: expected ({num}, {features}) {dtype}, got {found}",
                    )
                    finite(x, "sample")
                    require(not x.requires_grad, "sample: expected no gradient graph")
                require(torch.equal(_draw(model, 50), _draw(model, 50)), "one seed, two results")
                other = _draw(model, 50, seed=2)
                require(not torch.equal(_draw(model, 50), other), "sample ignores the generator")
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(5)
                    first = model.sample(50)
                    second = model.sample(50)
                require(not torch.equal(first, second), "sample without a generator repeats itself")
                warm, cold = _draw(model, 200), _draw(model, 200, temperature=0.5)
                require(not torch.equal(warm, cold), "temperature 0.5: ignored")
                spread = float(cold.std(dim=0).mean() / warm.std(dim=0).mean())
                require(spread < 1.1, f"temperature 0.5: spreads draws by {spread:.2f}")
                try:
                    hot = _draw(model, 200, temperature=2.0)
                except ValueError as refusal:  # a bounded latent space cannot be hotter
                    require("temperature" in str(refusal), f"temperature 2: {refusal}")
                else:
                    require(not torch.equal(warm, hot), "temperature 2: ignored")


def samples_follow_density(subject: Subject) -> None:
    """Draws fall where the density says: cell by cell in 1-D and 2-D, by overlaps beyond."""
    tried = False
    for features in subject.sizes():
        model: Mixture = trained(subject, features)
        name = _sampled_evaluation(model)
        if name is None:
            continue
        with trying(f"D={features}, {name}"), contextlib.suppress(NotApplicable):
            draws_follow(_scorer(model, name), _draw(model, _DRAWS, seed=3), tolerance=1e-2)
            tried = True
    if not tried:
        raise NotApplicable("no exact density on R^D, or one too rough to tell")


def sample_scores_agree(subject: Subject) -> None:
    """``sample_and_log_prob`` gives the log-density of what it draws."""
    tried = False
    for features in subject.sizes():
        model: Mixture = trained(subject, features)
        name = _sampled_evaluation(model, any_measure=True)
        if "sample_and_log_prob" not in model.capabilities or name is None:
            continue
        tried = True
        with trying(f"D={features}"), torch.no_grad():
            with untouched("sample_and_log_prob with a generator"):
                pairs = [
                    model.sample_and_log_prob(  # type: ignore[operator]
                        40, generator=torch.Generator().manual_seed(4)
                    )
                    for _ in range(2)
                ]
            require(torch.equal(pairs[0][0], pairs[1][0]), "one seed gives two results")
            x, log_prob = pairs[0]
            require(tuple(x.shape) == (40, features), f"expected (40, {features}) draws")
            close(log_prob, scores(model, x, name), 1e-6, f"its log_prob against {name}")
    if not tried:
        raise NotApplicable("no sample_and_log_prob of an exact density")


def refuses_bad_input(subject: Subject) -> None:
    """Bad rows, evaluations, counts and temperatures raise ValueError naming the argument."""
    for features in subject.sizes():
        with trying(f"D={features}"):
            model: Mixture = trained(subject, features)
            x = moons(4, features)
            nan, infinite = x.clone(), x.clone()
            nan[1, 0], infinite[1, 0] = torch.nan, torch.inf
            bad = (x[0], x[None], torch.cat([x, x], dim=1), x.long(), x.numpy(), nan, infinite)
            for wrong in bad:
                refuses("x", model.log_prob, wrong)
            if model._reference() is not None:
                refuses("x", model.log_prob, x.float())
            refuses("evaluation", model.log_prob, x, evaluation="no such")
            refuses("num", model.sample, -1)
            refuses("temperature", model.sample, 2, temperature=0.0)


def _scorer(model: Mixture, name: str) -> Callable[[Tensor], Tensor]:
    return lambda x: scores(model, x, name)


def _draw(model: Mixture, num: int, seed: int = 1, temperature: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    with untouched("sample with a generator"):
        return model.sample(num, temperature=temperature, generator=generator)


def _pairs(model: Mixture) -> list[tuple[str, str]]:
    """(exact, any other) evaluations of one measure."""
    exact = [n for n, e in model.evaluations.items() if e.likelihood.kind == "exact"]
    return [
        (first, name)
        for first in exact[:1]
        for name, evaluation in model.evaluations.items()
        if name != first and evaluation.measure == model.evaluations[first].measure
    ]


def _sampled_evaluation(model: Mixture, any_measure: bool = False) -> str | None:
    """The first exact evaluation, which is what draws follow."""
    for name, evaluation in model.evaluations.items():
        if evaluation.likelihood.kind == "exact" and (
            any_measure or evaluation.measure == LEBESGUE
        ):
            return name
    return None
