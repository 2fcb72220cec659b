"""Checks of partitioners: distances, charts, codes, and how they are learned."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from flowzoo.interfaces import Partitioner
from flowzoo.testing.instances import Shortened, trained, training_data
from flowzoo.testing.numerics import F32, F64, SAME, close, finite, moons
from flowzoo.testing.outcome import NotApplicable, require
from flowzoo.testing.refusals import refuses
from flowzoo.testing.slopes import check_slope
from flowzoo.testing.subject import Subject, trying
from flowzoo.testing.training_checks import stage_gradients


def builds(subject: Subject) -> None:
    """Builds for every D it declares, with codes as a parameter or buffer of the right shape."""
    for features in subject.sizes():
        with trying(f"D={features}"):
            charts: Partitioner = subject.make(features=features)
            require(charts.features == features, f"features: expected {features}")
            named = dict([*charts.named_parameters(), *charts.named_buffers()])
            require("codes" in named, "codes: expected a parameter or buffer of this name")
            expected = (charts.num_charts, charts.code_features)
            found = tuple(charts.codes.shape)
            require(found == expected, f"codes: expected shape {expected}, got {found}")
    with trying("features=0"):
        refuses("features", subject.make, features=0)


def distances_are(subject: Subject) -> None:
    """Distances are finite, non-negative and (N, K); every row has its nearest chart."""
    for features in subject.sizes():
        for dtype in (F64, F32):
            charts: Partitioner = trained(subject, features, dtype)
            for num in (0, 1, 50):
                with trying(f"D={features}, {num} rows, {dtype}"):
                    x = moons(num, features, dtype, seed=3)
                    d = charts.distances(x)
                    shape = (num, charts.num_charts)
                    require(
                        tuple(d.shape) == shape and d.dtype == dtype,
                        f"distances: expected {shape} {dtype}, got {tuple(d.shape)} {d.dtype}",
                    )
                    finite(d, "distances")
                    require(bool((d >= 0).all()), "distances: expected none below 0")
                    chosen = charts.assign(x)
                    require(
                        tuple(chosen.shape) == (num,) and chosen.dtype == torch.int64,
                        f"assign: expected int64 ({num},), "
                        f"got {chosen.dtype} {tuple(chosen.shape)}",
                    )
                    nearest = d.min(dim=1).values if num else d.new_empty(0)
                    close(d.gather(1, chosen[:, None])[:, 0], nearest, SAME[dtype], "assign")
            far = charts.distances(1e3 * torch.ones(2, features, dtype=dtype))
            finite(far, f"D={features}, {dtype}: distances far from the data")


def uses_its_charts(subject: Subject) -> None:
    """After training more than one chart holds rows; empty charts hold no NaN."""
    for features in subject.sizes():
        with trying(f"D={features}"):
            charts: Partitioner = trained(subject, features)
            x, _ = training_data(features)
            used = len(charts.assign(x).unique())  # type: ignore[no-untyped-call]
            wanted = min(2, charts.num_charts)
            require(used >= wanted, f"{used} of {charts.num_charts} charts hold all rows")
            apart = len(charts.codes.detach().unique(dim=0))  # type: ignore[no-untyped-call]
            require(apart >= wanted, f"{charts.num_charts} charts share {apart} codes")
            lonely = moons(1, features, seed=4)
            finite(charts.distances(lonely.expand(3, features)), "distances of one repeated row")


def codes_belong(subject: Subject) -> None:
    """Column k of the distances is the distance to code k, which conditions chart k's flow.

    Where moving a code moves one column of the distances, or a code is a point at distance 0 of
    one chart, it is its own.
    """
    told = False
    for features in subject.sizes():
        with trying(f"D={features}"):
            charts: Partitioner = trained(subject, features)
            if charts.num_charts > 1:
                told = _moves_its_own(charts, features) or _lies_at_its_own(charts) or told
    if not told:
        raise NotApplicable("no code moves the distances to one chart only, nor lies at one")


@torch.no_grad()
def _moves_its_own(charts: Partitioner, features: int) -> bool:
    """Whether each of some codes moves one column; raises CheckFailed where that is another's."""
    x = moons(50, features, seed=8)
    right, codes, told = charts.distances(x), charts.codes.detach().clone(), False
    step = 0.1 * (float(codes.std()) + 0.1)
    for chart in range(charts.num_charts):
        charts.codes[chart] += step
        moved = (charts.distances(x) != right).any(dim=0).nonzero()[:, 0].tolist()
        charts.codes.copy_(codes)
        if len(moved) == 1:
            told = True
            require(
                moved == [chart],
                f"codes: expected code {chart} to move the distances to chart {chart}, "
                f"it moves those to chart {moved[0]}",
            )
    return told


@torch.no_grad()
def _lies_at_its_own(charts: Partitioner) -> bool:
    """Whether every code is a row at distance 0 of one chart; raises where that is another."""
    codes = charts.codes.detach()
    if charts.code_features != charts.features:
        return False
    distances = charts.distances(codes)
    at = distances <= 1e-9 * distances.amax(dim=1, keepdim=True)
    if not bool((at.sum(dim=1) == 1).all()) or not bool((at.sum(dim=0) == 1).all()):
        return False
    found, expected = at.to(torch.int64).argmax(dim=1).tolist(), list(range(charts.num_charts))
    require(
        found == expected,
        f"codes: expected each at distance 0 of its own chart, {expected}, got {found}",
    )
    return True


def derivatives(subject: Subject) -> None:
    """Autograd's derivative of the distances in x is that of finite differences."""
    told = False
    for features in subject.sizes():
        with trying(f"D={features}"):
            charts: Partitioner = trained(subject, features)
            x = moons(16, features, seed=9)
            told = check_slope(charts.distances, x, "distances") or told
    if not told:
        raise NotApplicable("smooth at fewer than half of the rows")


def rows_independent(subject: Subject) -> None:
    """Every row's distances are what they would be alone, in a small batch and in a large one."""
    for features in subject.sizes():
        charts: Partitioner = trained(subject, features)
        for num in (9, 500):
            with trying(f"D={features}, {num} rows"):
                x = moons(num, features, seed=5)
                whole = charts.distances(x)
                for n in range(0, num, max(1, num // 9)):
                    close(charts.distances(x[n : n + 1])[0], whole[n], SAME[F64], f"row {n} alone")


def assigns_in_training(subject: Subject) -> None:
    """In training mode as well, ``assign`` names the nearest chart."""
    tried = False
    for features in subject.sizes():
        with trying(f"D={features}"):
            charts: Partitioner = trained(subject, features).train()
            x = moons(50, features, seed=10)
            with torch.no_grad():
                distances = charts.distances(x)
                if not torch.equal(charts.distances(x), distances):
                    continue
                tried = True
                chosen = charts.assign(x)
            found = distances.gather(1, chosen[:, None])[:, 0]
            close(found, distances.min(dim=1).values, SAME[F64], "assign")
    if not tried:
        raise NotApplicable("draws its distances anew in training mode")


def refuses_bad_input(subject: Subject) -> None:
    """Wrong shapes and dtypes raise ValueError or TypeError naming x."""
    for features in subject.sizes():
        charts: Partitioner = trained(subject, features)
        x = moons(4, features)
        with trying(f"D={features}"):
            for wrong in (x[0], x[None], torch.cat([x, x], dim=1), x.long(), x.numpy()):
                refuses("x", charts.distances, wrong)


def packs(subject: Subject) -> None:
    """Under vmap, distances are those of each member alone; so are losses."""
    for features in subject.sizes():
        with trying(f"D={features}"):
            members = [trained(subject, features, seed=s) for s in (0, 1)]
            x = moons(16, features, seed=6)
            parameters, buffers = stack_module_state(members)
            template = copy.deepcopy(members[0]).to("meta")
            found = vmap(partial(_ask, _Ask(template), x))(parameters, buffers)
            for index, member in enumerate(members):
                close(found[index], member.distances(x), SAME[F64], f"distances of member {index}")


def gradients(subject: Subject) -> None:
    """Every stage with a loss gives its parameters finite gradients."""
    for features in subject.sizes():
        with trying(f"D={features}"):
            charts = trained(subject, features)
            with Shortened(charts, 1):
                stage_gradients(charts, moons(64, features, seed=7))


class _Ask(nn.Module):
    """``distances`` as ``forward``, for functional_call."""

    def __init__(self, charts: Partitioner) -> None:
        super().__init__()
        self.charts = charts

    def forward(self, x: Tensor) -> Tensor:
        return self.charts.distances(x)


def _ask(template: nn.Module, x: Tensor, *state: dict[str, Tensor]) -> Tensor:
    found: Tensor = functional_call(template, _prefixed(*state), x)
    return found


def _prefixed(*states: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"charts.{name}": value for state in states for name, value in state.items()}
