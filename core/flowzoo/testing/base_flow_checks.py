"""Checks of base flows: the map, its inverse, its volume, its density."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from flowzoo.interfaces import BaseFlow, Injection
from flowzoo.layers import Thickened
from flowzoo.testing.instances import flow_at_work, flow_inputs
from flowzoo.testing.numerics import (
    F32,
    F64,
    ITERATIVE,
    MASS,
    ROUND_TRIP,
    SAME,
    VOLUME,
    close,
    difference,
    finite,
    jacobian,
)
from flowzoo.testing.outcome import NotApplicable, require
from flowzoo.testing.quadrature import Grid, integrate
from flowzoo.testing.refusals import refuses
from flowzoo.testing.subject import CHARTS, Subject, trying

_ROWS = 64
_FAR = 40.0


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
    for name, found in (("fast", flow.fast), ("packable", _packable(flow))):
        declared = subject.capabilities.get(name, found)
        require(declared == found, f"capability {name}: declared {declared!r}, is {found!r}")
    injective = flow.latent_features < flow.features
    declared = subject.capabilities.get("injective", injective)
    require(declared == injective, f"capability injective: declared {declared}, is {injective}")
    if subject.capabilities.get("conditional", False):
        named = subject.signature
        require("context_features" in named, "conditional: expected an option context_features")


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


def round_trip(subject: Subject) -> None:
    """decode(encode(x)) = x, for an injection on its image, and encode(decode(z)) = z."""
    iterative = subject.capabilities.get("inverse") == "iterative"
    for case in subject.cases():
        for dtype in (F64, F32):
            allowed = max(ROUND_TRIP[dtype], ITERATIVE) if iterative else ROUND_TRIP[dtype]
            for view, flow in _views(flow_at_work(subject, case, dtype)):
                with trying(f"{case}, {dtype}{view}"):
                    x, *rest = flow_inputs(case, _ROWS, dtype, seed=1)
                    if flow.latent_features < flow.features:
                        x = flow.decode(flow.encode(x, *rest).value, *rest).value.detach()
                    z = flow.encode(x, *rest)
                    back = flow.decode(z.value, *rest)
                    close(back.value, x, allowed, "decode(encode(x)) against x")
                    latent, *rest = flow_inputs(case, _ROWS, dtype, 2, flow.latent_features)
                    there = flow.decode(latent, *rest)
                    again = flow.encode(there.value, *rest)
                    close(again.value, latent, allowed, "encode(decode(z)) against z")


def volumes_agree(subject: Subject) -> None:
    """``log_abs_det`` has the same sign and value whichever way one goes."""
    for case in subject.cases():
        for dtype in (F64, F32):
            for view, flow in _views(flow_at_work(subject, case, dtype)):
                with trying(f"{case}, {dtype}{view}"):
                    latent, *rest = flow_inputs(case, _ROWS, dtype, 3, flow.latent_features)
                    x, down = flow.decode(latent, *rest)
                    up = flow.encode(x, *rest).log_abs_det
                    close(up, down, VOLUME[dtype], "encode's log_abs_det against decode's")


def volume_is_jacobian(subject: Subject) -> None:
    """log|det dz/dx|, or -1/2 log det JᵀJ of an injection's decoder, as autograd finds it."""
    for case in subject.cases():
        for view, flow in _views(flow_at_work(subject, case)):
            with trying(f"{case}{view}"):
                x, context, chart = flow_inputs(case, 4, seed=4)
                z, volume = flow.encode(x, context, chart)
                for n in range(len(x)):
                    rest = _row(context, n), _row(chart, n)
                    if flow.latent_features == flow.features:
                        j = jacobian(flow.encode, x[n : n + 1], *rest)
                        expected = torch.linalg.slogdet(j).logabsdet
                    else:
                        j = jacobian(flow.decode, z[n : n + 1].detach(), *rest)
                        expected = -0.5 * torch.linalg.slogdet(j.T @ j).logabsdet
                    close(
                        volume[n], expected, VOLUME[F64], f"log_abs_det of row {n} against autograd"
                    )


def conformal(subject: Subject) -> None:
    """JᵀJ = lambda^2 I for the embedding of a flow that declares ``conformal``."""
    if not subject.capabilities.get("conformal", False):
        raise NotApplicable("not declared conformal")
    for case in subject.cases():
        with trying(case):
            flow = flow_at_work(subject, case)
            embedding = getattr(flow, "embedding", flow)
            z, _, chart = flow_inputs(case, 4, seed=5, features=flow.latent_features)
            for n in range(len(z)):
                rest = None, _row(chart, n)
                j = jacobian(embedding.decode, z[n : n + 1], *rest)
                gram = j.T @ j
                scale = gram.diagonal().mean()
                shape = torch.eye(len(gram), dtype=F64)
                close(gram / scale, shape, VOLUME[F64], f"JᵀJ / lambda^2 of row {n}")


def normalised(subject: Subject) -> None:
    """q(encode(x)) |det| integrates to 1 over R and R^2; an injection's thickened density does."""
    tried = False
    for case in subject.cases():
        if case.features > 2:
            continue
        for dtype in (F64, F32):
            for view, flow in _views(flow_at_work(subject, case, dtype)):
                with trying(f"{case}, {dtype}{view}"):
                    if flow.latent_features < flow.features:
                        continue
                    tried = True
                    _, context, chart = flow_inputs(case, 1, dtype, seed=6)
                    # draws only say where to look
                    z = flow_inputs(case, 2000, dtype, 7)[0]
                    pinned = _pinned(context, len(z)), _pinned(chart, len(z))
                    with torch.no_grad():
                        grid = Grid.around(flow.decode(z / 1.5, *pinned).value)
                    masses, moved = integrate(
                        partial(_log_prob, flow, context, chart),
                        grid,
                        dtype=dtype,
                        tolerance=MASS[dtype],
                    )
                    total, allowed = float(masses.sum()), MASS[dtype] + 2 * moved
                    require(
                        abs(total - 1.0) <= allowed,
                        f"total mass: expected 1, got {total:.5f} (at most {allowed:.2g} off)",
                    )
    if not tried:
        raise NotApplicable("no density on R or R^2")


def rows_independent(subject: Subject) -> None:
    """Every row is mapped as it would be alone, and in another order."""
    for case in subject.cases():
        for view, flow in _views(flow_at_work(subject, case)):
            with trying(f"{case}{view}"):
                x, context, chart = flow_inputs(case, 9, seed=8)
                z = x[:, : flow.latent_features]
                for name, call, value in (("encode", flow.encode, x), ("decode", flow.decode, z)):
                    whole = call(value, context, chart)
                    for n in range(len(value)):
                        alone = call(value[n : n + 1], _row(context, n), _row(chart, n))
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
            if context is not None:
                moved = flow.encode(x, context + 1.0, chart).value
                require(difference(moved, z) > 1e-6, "context: the map does not depend on it")
            if chart is not None:
                moved = flow.encode(x, context, (chart + 1) % CHARTS).value
                require(difference(moved, z) > 1e-6, "chart: the map does not depend on it")
    if not seen:
        raise NotApplicable("takes no context and no chart")


def gradients(subject: Subject) -> None:
    """Every parameter gets a finite gradient; so do inputs, far from the data as well."""
    for case in subject.cases():
        for far in (False, True):
            for view, flow in _views(flow_at_work(subject, case).train(not far)):
                with trying(f"{case}, {'far' if far else 'near'} rows{view}"):
                    x, *rest = flow_inputs(case, 32, seed=10)
                    x = (x * _FAR if far else x).requires_grad_()
                    z, volume = flow.encode(x, *rest)
                    (0.5 * z.square().sum(dim=1) - volume).sum().backward()  # type: ignore[no-untyped-call]
                    finite(x.grad, "gradient of x")  # type: ignore[arg-type]
                    for name, parameter in flow.named_parameters():
                        if not parameter.requires_grad:
                            continue
                        if parameter.grad is None:
                            require(far, f"{name}: no gradient")
                        else:
                            finite(parameter.grad, f"gradient of {name}")


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


def packs(subject: Subject) -> None:
    """Under vmap, values, gradients and running statistics are those of each member alone."""
    for case in subject.cases():
        with trying(case):
            flows = [flow_at_work(subject, case) for _ in range(2)]
            if not _packable(flows[0]):
                raise NotApplicable("declares packable = False")
            with torch.no_grad():
                for parameter in flows[1].parameters():
                    parameter.mul_(0.9)
            alone = [_Objective(flow).train() for flow in flows]
            parameters, buffers = stack_module_state(alone)
            template = _Objective(flow_at_work(subject, case)).train().to("meta")
            x, context, chart = flow_inputs(case, 16, seed=12)

            packed = vmap(
                partial(_objective, template, (x, context, chart)), randomness="different"
            )(parameters, buffers)
            packed.sum().backward()  # type: ignore[no-untyped-call]
            for index, member in enumerate(alone):
                value = member(x, context, chart)
                value.backward()
                close(packed[index], value, SAME[F64], f"loss of member {index}")
                for name, parameter in member.named_parameters():
                    stacked = parameters[name].grad
                    if parameter.grad is not None and stacked is not None:
                        close(stacked[index], parameter.grad, 1e-6, f"gradient of {name}")
                for name, buffer in member.named_buffers():
                    if buffer.is_floating_point():
                        close(buffers[name][index], buffer, SAME[F64], f"state {name} of {index}")


class _Objective(torch.nn.Module):
    """Negative log-likelihood under the standard normal, up to a constant."""

    def __init__(self, flow: BaseFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Tensor:
        z, volume = self.flow.encode(x, context, chart)
        return (0.5 * z.square().sum(dim=1) - volume).mean()


def _objective(
    template: _Objective, given: tuple[Tensor | None, ...], *state: dict[str, Tensor]
) -> Tensor:
    value: Tensor = functional_call(template, state, given)
    return value


def _log_prob(flow: BaseFlow, context: Tensor | None, chart: Tensor | None, x: Tensor) -> Tensor:
    z, volume = flow.encode(x, _pinned(context, len(x)), _pinned(chart, len(x)))
    return -0.5 * (z.square().sum(dim=1) + z.shape[1] * math.log(2.0 * math.pi)) + volume


def _views(flow: BaseFlow) -> Iterator[tuple[str, BaseFlow]]:
    """The flow and, for an injection, its thickened density in R^D, each with a label."""
    yield "", flow
    if isinstance(flow, Injection):
        dtype = next(flow.parameters()).dtype
        thick = Thickened(flow).to(dtype).train(flow.training)
        with torch.no_grad():
            thick.log_thickness.fill_(-0.7)
        yield ", thickened", thick


def _packable(flow: BaseFlow) -> bool:
    from flowzoo.training.packing import is_packable

    return is_packable(flow)


def _expect(value: Tensor, shape: tuple[int, ...], dtype: torch.dtype, what: str) -> None:
    found = tuple(value.shape), value.dtype
    require(found == (shape, dtype), f"{what}: expected {shape} {dtype}, got {found}")
    finite(value, what)


def _row(value: Tensor | None, n: int) -> Tensor | None:
    return None if value is None else value[n : n + 1]


def _take(value: Tensor | None, order: Tensor) -> Tensor | None:
    return None if value is None else value[order]


def _pinned(value: Tensor | None, num: int) -> Tensor | None:
    """The first row ``num`` times."""
    return None if value is None else value[:1].expand(num, *value.shape[1:])
