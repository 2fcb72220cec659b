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
from flowzoo.testing.outcome import require
from flowzoo.testing.refusals import refuses
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


def rows_independent(subject: Subject) -> None:
    """Every row's distances are what they would be alone."""
    for features in subject.sizes():
        with trying(f"D={features}"):
            charts: Partitioner = trained(subject, features)
            x = moons(9, features, seed=5)
            whole = charts.distances(x)
            for n in range(len(x)):
                close(charts.distances(x[n : n + 1])[0], whole[n], SAME[F64], f"row {n} alone")


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
