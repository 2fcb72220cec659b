"""Checks of base flows: what they accept, what they say about themselves, row by row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowzoo.interfaces import BaseFlow
from flowzoo.testing.instances import flow_at_work, flow_inputs, row_of, views
from flowzoo.testing.numerics import (
    F32,
    F64,
    SAME,
    close,
    difference,
    finite,
)
from flowzoo.testing.operations import operations
from flowzoo.testing.outcome import NotApplicable, require
from flowzoo.testing.refusals import refuses
from flowzoo.testing.subject import Subject, trying
from flowzoo.training.packing import is_packable

_TELLING = 4  # columns from which one pass a column can be told from one pass


def builds(subject: Subject) -> None:
    """Builds for every D and context it declares, says so, and refuses those it does not."""
    for case in subject.cases():
        with trying(case):
            flow = subject.make(**case.options())
            found = flow.features, flow.context_features, flow.num_charts
            expected = case.features, case.context, case.charts
            require(
                found == expected,
                f"(features, context_features, num_charts): expected {expected}, got {found}",
            )
            require(
                1 <= flow.latent_features <= flow.features,
                f"latent_features: expected 1 to {flow.features}, got {flow.latent_features}",
            )
            require(
                flow.fast in ("encode", "decode", "both"),
                f"fast: expected 'encode', 'decode' or 'both', got {flow.fast!r}",
            )
    least = subject.least_features()
    if least > 1:
        with trying(f"D={least - 1}, which it declares not to work for"):
            refuses("features", subject.make, features=least - 1)
    for wrong in (0, -1):
        with trying(f"features={wrong}"):
            refuses("features", subject.make, features=wrong)
    if subject.capabilities.get("conditional") is False and "context_features" in subject.signature:
        with trying("context_features=2, which it declares not to take"):
            refuses("context", subject.make, features=max(3, least), context_features=2)


def declares(subject: Subject) -> None:
    """Its capabilities are what its instances do."""
    if subject.given is not None:
        raise NotApplicable("capabilities speak of the usual options")
    flow = subject.make(features=subject.sizes()[-1])
    for name, found in (("fast", flow.fast), ("packable", is_packable(flow))):
        declared = subject.capabilities.get(name, found)
        require(declared == found, f"capability {name}: declared {declared!r}, is {found!r}")
    injective = flow.latent_features < flow.features
    declared = subject.capabilities.get("injective", injective)
    require(declared == injective, f"capability injective: declared {declared}, is {injective}")
    if subject.capabilities.get("conditional", False):
        named = subject.signature
        require("context_features" in named, "conditional: expected an option context_features")


def fast_direction(subject: Subject) -> None:
    """The direction it calls ``fast`` takes no more tensor operations than the other one.

    A direction that goes column by column takes D times as many as one that goes at once.
    """
    case = max(subject.cases(), key=lambda one: (one.features, -one.context))
    if case.features < _TELLING:
        raise NotApplicable(f"too few columns to tell: {case.features}")
    flow = flow_at_work(subject, case)
    x, *rest = flow_inputs(case, 4)
    z = flow.encode(x, *rest).value.detach()
    up, down = operations(lambda: flow.encode(x, *rest)), operations(lambda: flow.decode(z, *rest))
    most = {"encode": 1.5 * down, "decode": math.inf, "both": 2.5 * down}[flow.fast]
    require(up <= most, f"fast = {flow.fast!r}: encode takes {up} operations, decode {down}")
    most = {"encode": math.inf, "decode": 1.5 * up, "both": 2.5 * up}[flow.fast]
    require(down <= most, f"fast = {flow.fast!r}: decode takes {down} operations, encode {up}")


def shapes(subject: Subject) -> None:
    """Batches of no row, one row and many, in training and in eval mode, in both dtypes."""
    for case in subject.cases():
        for dtype in (F64, F32):
            flow = flow_at_work(subject, case, dtype)
            for num in (0, 1, 7):
                for training in (False, True):
                    with trying(f"{case}, {num} rows, {dtype}, training={training}"):
                        flow.train(training)
                        x, *rest = flow_inputs(case, num, dtype)
                        z, volume = flow.encode(x, *rest)
                        _expect(z, (num, flow.latent_features), dtype, "encode")
                        _expect(volume, (num,), dtype, "encode's log_abs_det")
                        back, volume = flow.decode(z.detach(), *rest)
                        _expect(back, (num, case.features), dtype, "decode")
                        _expect(volume, (num,), dtype, "decode's log_abs_det")
            for name, value in flow.state_dict().items():
                if value.is_floating_point():
                    finite(value, f"{case}: state {name} after batches of no row and one row")


def refuses_bad_input(subject: Subject) -> None:
    """Wrong shapes, dtypes and contexts raise ValueError or TypeError naming the argument."""
    for case in subject.cases():
        flow = flow_at_work(subject, case)
        x, context, chart = flow_inputs(case, 4)
        z = x[:, : flow.latent_features]
        for name, call, good in (("x", flow.encode, x), ("z", flow.decode, z)):
            with trying(f"{case}, {name}"):
                for wrong in (good[0], good[None], torch.cat([good, good], dim=1), good.long()):
                    refuses(name, call, wrong, context, chart)
        with trying(f"{case}, a row of NaN"):
            _keeps_nan(flow, x, context, chart)
        with trying(f"{case}, context"):
            if case.context:
                refuses("context", flow.encode, x, None, chart)
                refuses("context", flow.encode, x, context[:, :1], chart)  # type: ignore[index]
                refuses("context", flow.encode, x, context[:2], chart)  # type: ignore[index]
            else:
                refuses("context", flow.encode, x, torch.zeros(4, 2, dtype=F64), chart)
        with trying(f"{case}, chart"):
            if chart is None:
                refuses("chart", flow.encode, x, context, torch.zeros(4).long())
            else:
                refuses("chart", flow.encode, x, context, None)


def _keeps_nan(flow: BaseFlow, x: Tensor, context: Tensor | None, chart: Tensor | None) -> None:
    """A row of NaN is refused or stays NaN; it does not reach the other rows."""
    bad = x.clone()
    bad[1] = torch.nan
    try:
        z, volume = flow.encode(bad, context, chart)
    except ValueError:
        return
    hidden = bool(z[1].isfinite().all() & volume[1].isfinite())
    require(not hidden, "encode: NaN becomes a number")
    finite(z[[0, 2, 3]], "encode of the other rows")


def rows_independent(subject: Subject) -> None:
    """Every row is mapped as it would be alone, and in another order."""
    for case in subject.cases():
        for view, flow in views(flow_at_work(subject, case)):
            with trying(f"{case}{view}"):
                x, context, chart = flow_inputs(case, 9, seed=8)
                z = x[:, : flow.latent_features]
                for name, call, value in (("encode", flow.encode, x), ("decode", flow.decode, z)):
                    whole = call(value, context, chart)
                    for n in range(len(value)):
                        alone = call(value[n : n + 1], row_of(context, n), row_of(chart, n))
                        close(alone.value[0], whole.value[n], SAME[F64], f"{name}: row {n} alone")
                        close(
                            alone.log_abs_det[0],
                            whole.log_abs_det[n],
                            SAME[F64],
                            f"{name}: row {n}",
                        )
                    order = torch.randperm(len(value))
                    mixed = call(value[order], _take(context, order), _take(chart, order))
                    close(
                        mixed.value, whole.value[order], SAME[F64], f"{name}: rows in another order"
                    )


def context_matters(subject: Subject) -> None:
    """A conditional flow depends on its context, one indexed by charts on the chart."""
    seen = False
    for case in subject.cases():
        if not case.context and case.charts is None:
            continue
        seen = True
        with trying(case):
            flow = flow_at_work(subject, case)
            x, context, chart = flow_inputs(case, 8, seed=9)
            z = flow.encode(x, context, chart).value
            for column in range(case.context):
                if context is not None:
                    other = context.clone()
                    other[:, column] += 1.0
                    apart = difference(flow.encode(x, other, chart).value, z)
                    require(apart > 1e-6, f"context: the map does not depend on column {column}")
            if case.charts is not None:
                images = [
                    flow.encode(x, context, torch.full((len(x),), k)).value
                    for k in range(case.charts)
                ]
                for k in range(1, case.charts):
                    for earlier in range(k):
                        apart = difference(images[k], images[earlier])
                        require(apart > 1e-6, f"chart: {k} and {earlier} are mapped alike")
    if not seen:
        raise NotApplicable("takes no context and no chart")


def layers_compose(subject: Subject) -> None:
    """``layers()`` in order are ``encode``; a flow that cannot be taken apart raises TypeError."""
    apart = False
    for case in subject.cases():
        with trying(case):
            flow = flow_at_work(subject, case)
            try:
                layers = flow.layers()
            except TypeError as refusal:
                require(bool(str(refusal)), "layers(): expected a TypeError that says why")
                continue
            apart = True
            value, context, chart = flow_inputs(case, 8, seed=11)
            expected = flow.encode(value, context, chart)
            total: Tensor | float = 0.0
            for layer in layers:
                value, volume = layer.encode(
                    value,
                    context if layer.context_features else None,
                    chart if layer.num_charts is not None else None,
                )
                total = total + volume
            close(value, expected.value, SAME[F64], "the layers' value")
            close(torch.as_tensor(total), expected.log_abs_det, SAME[F64], "their log_abs_det")
    if not apart:
        raise NotApplicable("cannot be taken apart")


def _expect(value: Tensor, shape: tuple[int, ...], dtype: torch.dtype, what: str) -> None:
    found = tuple(value.shape), value.dtype
    require(found == (shape, dtype), f"{what}: expected {shape} {dtype}, got {found}")
    finite(value, what)


def _take(value: Tensor | None, order: Tensor) -> Tensor | None:
    return None if value is None else value[order]
