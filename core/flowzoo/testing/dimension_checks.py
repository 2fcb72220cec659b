"""Checks of what mixtures say of their latent space: dimensions, spectrum, codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from flowzoo.interfaces import Mixture
from flowzoo.testing.instances import trained
from flowzoo.testing.isolation import untouched
from flowzoo.testing.numerics import F32, F64, SAME, close, finite, moons
from flowzoo.testing.outcome import NotApplicable, require
from flowzoo.testing.refusals import refuses
from flowzoo.testing.subject import Subject, trying

_DRAWS = 4000
# between the variance of draws and the spectrum, relative to the first direction: what is left to
# noise that codes see wider along one direction than another; deviations for variances are beyond
_FACTOR = 1.5
_APART = 0.05  # of the mean distance of two draws: the energy distance of equal laws stays below


def dimensions_are_found(subject: Subject) -> None:
    """Dimensions are numbers in 0..D, one in all or one a chart; local ones are one a row."""
    for features, model in _having(subject, "intrinsic_dimension", "local_dimension"):
        if "intrinsic_dimension" in model.capabilities:
            with trying(f"D={features}, intrinsic_dimension"), torch.no_grad():
                _intrinsic(model, features)
        if "local_dimension" in model.capabilities:
            with trying(f"D={features}, local_dimension"):
                _rows(model, "local_dimension", ())
                single: Mixture = trained(subject, features, F32)
                with torch.no_grad():
                    found = single.local_dimension(moons(5, features, F32))  # type: ignore[operator]
                finite(found, "in float32")


def _intrinsic(model: Mixture, features: int) -> None:
    found = _asked_twice(model, "intrinsic_dimension")
    require(
        found.ndim == 0 or (found.ndim == 1 and len(found) > 0),
        f"expected a number, or one a chart (K,), got shape {tuple(found.shape)}",
    )
    values = found.to(F64)
    inside = bool(((values >= 0) & (values <= features)).all())
    require(inside, f"expected numbers in 0..{features}, got {found}")
    if found.ndim == 0 or len(found) == 1:
        return
    require(
        "assign" in model.capabilities,
        f"{len(found)} charts, and no 'assign' says which of them a row is of",
    )
    chart: Tensor = model.assign(moons(200, features, seed=12))  # type: ignore[operator]
    require(
        bool(((chart >= 0) & (chart < len(found))).all()),
        f"{len(found)} charts, and assign gives {int(chart.min())} to {int(chart.max())}",
    )


def spectrum(subject: Subject) -> None:
    """Variances over noise are (D,) or (K, D), finite, not negative, largest first.

    Of one chart, and beside ``codes``, they are in proportion to the variances of draws of the
    prior once the noise is in both.
    """
    for features, model in _having(subject, "spectrum"):
        with trying(f"D={features}"), torch.no_grad():
            found = _asked_twice(model, "spectrum")
            shape = tuple(found.shape)
            require(
                found.ndim in (1, 2) and shape[-1] == features and shape[0] > 0,
                f"expected ({features},) or (K, {features}), got {shape}",
            )
            require(found.is_floating_point(), f"expected floating, got {found.dtype}")
            finite(found, "spectrum")
            require(bool((found >= 0).all()), f"expected no negative variance, got {found}")
            require(
                bool((found.diff(dim=-1) <= 0).all()),
                f"expected the largest first, got {found}",
            )
            if "intrinsic_dimension" in model.capabilities:
                one = torch.as_tensor(model.intrinsic_dimension())  # type: ignore[operator]
                require(
                    one.shape == found.shape[:-1] or found.shape[0] == one.numel() == 1,
                    f"one a chart: {shape}, and intrinsic_dimension {tuple(one.shape)}",
                )
            if "codes" in model.capabilities and found.numel() == features:
                _spectrum_is_of_draws(found.reshape(-1).to(F64), _draw(model, _DRAWS).to(F64))


def _spectrum_is_of_draws(found: Tensor, draws: Tensor) -> None:
    covariance = torch.cov(draws.T).reshape(len(found), len(found))
    variances = torch.linalg.eigvalsh(covariance).flip(0)
    drawn, said = variances / variances[0], (found + 1.0) / (found[0] + 1.0)
    off = drawn / said
    require(
        bool(((off < _FACTOR) & (off > 1.0 / _FACTOR)).all()),
        f"variances of draws of the prior are {drawn.tolist()} of the first, the spectrum with "
        f"the noise in it says {said.tolist()}",
    )


def _asked_twice(model: Mixture, name: str) -> Tensor:
    """What a method without arguments gives, the same each time."""
    ask: Callable[[], Tensor] = getattr(model, name)
    found = []
    for _ in range(2):
        with _left_alone(model, name):
            found.append(torch.as_tensor(ask()).clone())
    same = found[0].shape == found[1].shape
    require(
        same and bool(torch.isclose(found[0], found[1], rtol=0.0, atol=0.0, equal_nan=True).all()),
        f"{name}: asked twice, first {found[0].tolist()}, then {found[1].tolist()}",
    )
    return found[0]


@contextmanager
def _left_alone(model: Mixture, name: str, *arguments: Tensor) -> Iterator[None]:
    """Raise CheckFailed if the block changes global state, its arguments or the model."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = {key: module.training for key, module in model.named_modules()}
    with untouched(name, *arguments):
        yield
    after = model.state_dict()
    moved = [
        key
        for key in {**state, **after}
        if key not in state or key not in after or not _equal(state[key], after[key])
    ]
    require(not moved, f"{name}: changes the model's {', '.join(moved)}")
    switched = [key for key, module in model.named_modules() if module.training != modes.get(key)]
    require(not switched, f"{name}: switches the model between training and evaluation")


def _equal(first: Tensor, second: Tensor) -> bool:
    """NaN equals NaN: a buffer may begin with it."""
    return first.shape == second.shape and bool(
        torch.isclose(first, second, rtol=0.0, atol=0.0, equal_nan=True).all()
    )


def codes(subject: Subject) -> None:
    """Latent rows are (N, D), each as alone; draws of the prior heed the generator alone.

    Codes of the model's samples are distributed as these draws.
    """
    for features, model in _having(subject, "codes"):
        with trying(f"D={features}"):
            _rows(model, "codes", (features,))
            _prior_draws(model, features)
            with torch.no_grad():
                generator = torch.Generator().manual_seed(6)
                of_samples = model.codes(model.sample(500, generator=generator))  # type: ignore[operator]
            _same_law(of_samples, _draw(model, 500, seed=7))


def _prior_draws(model: Mixture, features: int) -> None:
    for num in (0, 1, 7):
        z = _draw(model, num)
        require(
            tuple(z.shape) == (num, features) and z.dtype == F64,
            f"sample_codes: expected ({num}, {features}) {F64}, got {tuple(z.shape)} {z.dtype}",
        )
        finite(z, "sample_codes")
        require(not z.requires_grad, "sample_codes: expected no gradient graph")
    require(torch.equal(_draw(model, 50), _draw(model, 50)), "sample_codes: one seed, two results")
    other = _draw(model, 50, seed=2)
    require(not torch.equal(_draw(model, 50), other), "sample_codes: ignores the generator")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first, second = (model.sample_codes(50) for _ in range(2))  # type: ignore[operator]
    require(not torch.equal(first, second), "sample_codes: without a generator it repeats itself")
    refuses("num", model.sample_codes, -1)  # type: ignore[arg-type]


def _same_law(first: Tensor, second: Tensor) -> None:
    """By the energy distance (Szekely & Rizzo 2013), relative to the mean distance of draws."""
    count = len(first)
    within = [torch.cdist(z, z).sum() / (count * (count - 1)) for z in (first, second)]
    apart = 2 * torch.cdist(first, second).mean() - sum(within)
    share = float(apart / within[1])
    require(
        share <= _APART,
        f"codes of samples are not distributed as sample_codes: energy distance {share:.3g} of "
        f"the mean distance of two draws, at most {_APART:g} allowed",
    )


def _rows(model: Mixture, name: str, shape: tuple[int, ...]) -> None:
    """A method of rows: finite, of this shape a row, each row as alone; no row and bad rows."""
    ask: Callable[[Tensor], Tensor] = getattr(model, name)
    x = moons(11, model.features, seed=11)
    with torch.no_grad():
        with _left_alone(model, name, x):
            value = ask(x)
        for given, expected in ((value, len(x)), (ask(x[:0]), 0)):
            require(
                tuple(given.shape) == (expected, *shape) and given.is_floating_point(),
                f"{name} of {expected} rows: expected floating {(expected, *shape)}, "
                f"got {given.dtype} {tuple(given.shape)}",
            )
        finite(value, name)
        for n in range(len(x)):
            close(ask(x[n : n + 1])[0], value[n], SAME[F64], f"{name}: row {n} alone")
    for bad in (torch.nan, torch.inf):
        _no_number(name, ask, x, bad)
    for wrong in (x[0], torch.cat([x, x], dim=1), x.long()):
        refuses("x", ask, wrong)


def _no_number(name: str, ask: Callable[[Tensor], Tensor], x: Tensor, bad: float) -> None:
    """A row with no finite value in it is refused, or given no finite number."""
    rows = x.clone()
    rows[1, 0] = bad
    try:
        with torch.no_grad():
            value = ask(rows)
    except (ValueError, TypeError):
        refuses("x", ask, rows)
        return
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # of a decomposition of it
        return
    require(
        not bool(value[1].isfinite().all()),
        f"{name} of a row with {bad}: expected ValueError or no finite number, got {value[1]}",
    )


def _draw(model: Mixture, num: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    with _left_alone(model, "sample_codes with a generator"):
        drawn: Tensor = model.sample_codes(num, generator=generator)  # type: ignore[operator]
    return drawn


def _having(subject: Subject, *names: str) -> list[tuple[int, Mixture]]:
    """The trained models that have one of these capabilities, each with its D.

    Raises:
        NotApplicable: none has.
    """
    models = [(features, trained(subject, features)) for features in subject.sizes()]
    found = [(d, model) for d, model in models if not model.capabilities.isdisjoint(names)]
    if not found:
        raise NotApplicable(f"declares no {' and no '.join(names)}")
    return found
