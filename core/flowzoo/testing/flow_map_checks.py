"""Checks of base flows as maps: inverse, volume, derivatives, density, packs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from flowzoo.interfaces import BaseFlow, Step
from flowzoo.testing.instances import flow_at_work, flow_inputs, row_of, views
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
from flowzoo.testing.slopes import check_slope
from flowzoo.testing.subject import Case, Subject, trying
from flowzoo.training.packing import is_packable

_ROWS = 64
_FAR = 40.0
_DISTANT = (5.0, 40.0)  # how many times further out some rows are for the Jacobian
_STEPS = (1e-6, 1e-8)  # of finite differences, float64


def round_trip(subject: Subject) -> None:
    """decode(encode(x)) = x, for an injection on its image, and encode(decode(z)) = z."""
    iterative = subject.capabilities.get("inverse") == "iterative"
    for case in subject.cases():
        for dtype in (F64, F32):
            allowed = max(ROUND_TRIP[dtype], ITERATIVE) if iterative else ROUND_TRIP[dtype]
            for view, flow in views(flow_at_work(subject, case, dtype)):
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
            for view, flow in views(flow_at_work(subject, case, dtype)):
                with trying(f"{case}, {dtype}{view}"):
                    latent, *rest = flow_inputs(case, _ROWS, dtype, 3, flow.latent_features)
                    x, down = flow.decode(latent, *rest)
                    up = flow.encode(x, *rest).log_abs_det
                    close(up, down, VOLUME[dtype], "encode's log_abs_det against decode's")


def volume_is_jacobian(subject: Subject) -> None:
    """log|det dz/dx|, or -1/2 log det JᵀJ of an injection's decoder, as autograd finds it.

    Far from the data as well, where the numbers can still be had.
    """
    for case in subject.cases():
        for view, flow in _modes(subject, case):
            with trying(f"{case}{view}"):
                x, context, chart = flow_inputs(case, 4 + 2 * len(_DISTANT), seed=4)
                for index, factor in enumerate(_DISTANT):
                    x[4 + 2 * index : 6 + 2 * index] *= factor
                z, volume = flow.encode(x, context, chart)
                for n in range(len(x)):
                    rest = row_of(context, n), row_of(chart, n)
                    if flow.latent_features == flow.features:
                        j = jacobian(flow.encode, x[n : n + 1], *rest)
                        expected = torch.linalg.slogdet(j).logabsdet
                    else:
                        j = jacobian(flow.decode, z[n : n + 1].detach(), *rest)
                        expected = -0.5 * torch.linalg.slogdet(j.T @ j).logabsdet
                    if n >= 4 and not _well_conditioned(j):
                        continue
                    close(
                        volume[n], expected, VOLUME[F64], f"log_abs_det of row {n} against autograd"
                    )


def _well_conditioned(j: Tensor) -> bool:
    """Whether float64 can tell its determinant."""
    return bool(j.isfinite().all()) and float(torch.linalg.cond(j)) < 1e6


def derivatives(subject: Subject) -> None:
    """Autograd's derivative of both directions is that of finite differences."""
    for case in subject.cases():
        for view, flow in views(flow_at_work(subject, case)):
            with trying(f"{case}{view}"):
                x, *rest = flow_inputs(case, 8, seed=13)
                z = x[:, : flow.latent_features]
                for name, call, at in (("encode", flow.encode, x), ("decode", flow.decode, z)):
                    for index, part in enumerate(Step._fields):

                        def one(
                            value: Tensor,
                            call: Callable[..., Step] = call,
                            rest: list[Tensor | None] = rest,
                            index: int = index,
                        ) -> Tensor:
                            found: Tensor = call(value, *rest)[index]
                            return found

                        check_slope(one, at, f"{name}'s {part}")


def parameter_derivatives(subject: Subject) -> None:
    """Autograd's derivative of the likelihood in all parameters is that of finite differences."""
    for case in subject.cases():
        for view, flow in views(flow_at_work(subject, case)):
            with trying(f"{case}{view}"):
                given = flow_inputs(case, 16, seed=14)
                objective = _Objective(flow)
                trained = [p for p in flow.parameters() if p.requires_grad]
                if not trained:
                    raise NotApplicable("nothing to train")
                for seed in range(2):
                    generator = torch.Generator().manual_seed(seed)
                    along = [torch.randn(p.shape, generator=generator, dtype=F64) for p in trained]
                    slopes = torch.autograd.grad(objective(*given), trained, allow_unused=True)
                    found = sum(
                        (g * a).sum() for g, a in zip(slopes, along, strict=True) if g is not None
                    )
                    moved = [_parameter_slope(objective, given, trained, along, s) for s in _STEPS]
                    close(
                        torch.as_tensor(found),
                        _nearest(moved, torch.as_tensor(found)),
                        1e-4,
                        "derivative in the parameters",
                    )


def _parameter_slope(
    objective: _Objective,
    given: tuple[Tensor | None, ...],
    parameters: list[torch.nn.Parameter],
    along: list[Tensor],
    step: float,
) -> Tensor:
    """The finite difference of the objective as all parameters move along a direction."""
    values = []
    for move in (step, -2 * step, step):  # there, back, and home
        with torch.no_grad():
            for parameter, direction in zip(parameters, along, strict=True):
                parameter.add_(move * direction)
        values.append(objective(*given).detach())
    slope: Tensor = (values[0] - values[1]) / (2 * step)
    return slope


def _nearest(differences: list[Tensor], slope: Tensor) -> Tensor:
    """The finite difference nearest to ``slope``: a step may cross a kink, both seldom do."""
    return min(differences, key=lambda one: float((one - slope).abs().detach()))


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
                rest = None, row_of(chart, n)
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
            for view, flow in views(flow_at_work(subject, case, dtype)):
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


def gradients(subject: Subject) -> None:
    """Every parameter gets a finite gradient, at the start and later; so do inputs.

    Rows are near the data, at the origin, and far out.
    """
    for case in subject.cases():
        for far in (False, True):
            for view, flow in _states(subject, case):
                with trying(f"{case}, {'far' if far else 'near'} rows{view}"):
                    flow.train(not far)
                    x, *rest = flow_inputs(case, 32, seed=10)
                    x = x * _FAR if far else x
                    x[:2] = 0.0
                    x.requires_grad_()
                    z, volume = flow.encode(x, *rest)
                    (0.5 * z.square().sum(dim=1) - volume).sum().backward()  # type: ignore[no-untyped-call]
                    require(x.grad is not None, "x: no gradient")
                    finite(x.grad, "gradient of x")  # type: ignore[arg-type]
                    for name, parameter in flow.named_parameters():
                        if not parameter.requires_grad:
                            continue
                        if parameter.grad is None:
                            require(far, f"{name}: no gradient")
                        else:
                            finite(parameter.grad, f"gradient of {name}")


def _states(subject: Subject, case: Case) -> Iterator[tuple[str, BaseFlow]]:
    """A flow as it starts, and every view of one that was moved."""
    start: BaseFlow = subject.make(**case.options()).double()
    yield ", at its start", start
    yield from views(flow_at_work(subject, case))


def packs(subject: Subject) -> None:
    """Under vmap, values, gradients and running statistics are those of each member alone."""
    for case in subject.cases():
        with trying(case):
            flows = [flow_at_work(subject, case) for _ in range(2)]
            if not is_packable(flows[0]):
                raise NotApplicable("declares packable = False")
            with torch.no_grad():
                for parameter in flows[1].parameters():
                    parameter.mul_(0.9)
            if not any(True for _ in (*flows[0].parameters(), *flows[0].buffers())):
                raise NotApplicable("holds nothing to stack")
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


def _modes(subject: Subject, case: Case) -> Iterator[tuple[str, BaseFlow]]:
    """Every view in eval mode; in training mode as well where its rows do not mix."""
    for view, flow in views(flow_at_work(subject, case)):
        yield view, flow
        x, context, chart = flow_inputs(case, 3, seed=4)
        flow.train()
        whole = flow.encode(x, context, chart)
        alone = flow.encode(x[:1], row_of(context, 0), row_of(chart, 0))
        again = flow.encode(x, context, chart)
        if (
            difference(whole.value[:1], alone.value) <= SAME[F64]
            and difference(again.value, whole.value) == 0.0
        ):
            yield f"{view}, training mode", flow
        flow.eval()


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


def _pinned(value: Tensor | None, num: int) -> Tensor | None:
    """The first row ``num`` times."""
    return None if value is None else value[:1].expand(num, *value.shape[1:])
