"""Checks of priors: a density on the latent space, its draws, its support."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from flowzoo.interfaces import Prior
from flowzoo.testing.distribution import draws_follow
from flowzoo.testing.isolation import untouched
from flowzoo.testing.module_checks import instance
from flowzoo.testing.numerics import (
    F32,
    F64,
    ROUND_TRIP,
    SAME,
    VOLUME,
    close,
    difference,
    finite,
    jacobian,
    rows,
)
from flowzoo.testing.outcome import NotApplicable, require
from flowzoo.testing.refusals import refuses
from flowzoo.testing.slopes import check_slope
from flowzoo.testing.subject import Case, Subject, trying
from flowzoo.training.packing import is_packable

_DRAWS = 8000


def shapes(subject: Subject) -> None:
    """Density and draws of no row, one row and many, in both dtypes."""
    for case in subject.cases():
        for dtype in (F64, F32):
            prior: Prior = instance(subject, case, dtype)
            for num in (0, 1, 7):
                with trying(f"{case}, {num} rows, {dtype}"):
                    context = _context(case, num, dtype)
                    z = prior.sample(num, context)
                    found = [
                        ("sample", z, (num, case.features)),
                        ("log_prob", prior.log_prob(z, context), (num,)),
                    ]
                    if not case.context:
                        with _drawing(prior):
                            drawn = prior.from_normal(_noise(prior, num, dtype=dtype))
                        found.append(("from_normal", drawn, (num, case.features)))
                    for name, value, shape in found:
                        got = tuple(value.shape), value.dtype
                        require(
                            got == (shape, dtype), f"{name}: expected {shape} {dtype}, got {got}"
                        )
                        finite(value, name)


def normalised(subject: Subject) -> None:
    """The density has mass 1 and draws follow it: by quadrature on R and R^2, by overlaps beyond.

    With a context, the draws are made beside those of another context.
    """

    def draw(prior: Prior, case: Case) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        if not case.context:
            return prior.sample(_DRAWS, generator=generator)
        mixed = rows(2, case.context, seed=500, scale=1.5).repeat(_DRAWS, 1)
        return prior.sample(2 * _DRAWS, mixed, generator=generator)[1::2]

    _follow(subject, draw)


def normals_become_draws(subject: Subject) -> None:
    """``from_normal`` turns normal numbers into draws of the same law."""

    def draw(prior: Prior, case: Case) -> Tensor:
        if case.context:
            raise NotApplicable("from_normal takes no context")
        noise = _noise(prior, _DRAWS)
        with _drawing(prior), untouched("from_normal", noise):
            return prior.from_normal(noise)

    _follow(subject, draw)


def _follow(subject: Subject, draw: Callable[[Prior, Case], Tensor]) -> None:
    """Check that draws follow the density, in every case that can tell."""
    reasons, told = [], False
    for case in subject.cases():
        prior: Prior = instance(subject, case)
        pinned = rows(2, case.context, seed=500, scale=1.5)[1:] if case.context else None
        # a density with an edge, say a ball's, is rough for quadrature
        smooth = prior.support_map() is None
        try:
            with trying(case), torch.no_grad():
                draws = draw(prior, case)
                log_prob = partial(_log_prob, prior, pinned)
                draws_follow(log_prob, draws, tolerance=1e-3 if smooth else 1e-2)
                told = True
        except NotApplicable as reason:
            reasons.append(str(reason))
    if not told:
        raise NotApplicable(reasons[0])


def _log_prob(prior: Prior, pinned: Tensor | None, z: Tensor) -> Tensor:
    """The density given the one context ``pinned`` (1, C)."""
    if pinned is None:
        return prior.log_prob(z)
    return prior.log_prob(z, pinned.to(z.dtype).expand(len(z), -1))


def seeds(subject: Subject) -> None:
    """The same generator gives the same draws, another one others; temperature narrows them.

    A prior with noise of its own is narrowed by its two knobs together.
    """
    for case in subject.cases():
        with trying(case):
            prior: Prior = instance(subject, case)
            pinned = _context(case, 1)
            draw = partial(_drawn, prior, None if pinned is None else pinned.expand(4000, -1))
            require(torch.equal(draw(1), draw(1)), "sample: one seed gives two results")
            require(not torch.equal(draw(1), draw(2)), "sample: ignores the generator")
            knobs: dict[str, Any] = {"temperature": 0.5}
            if prior.noise_knob:
                knobs["noise_scale"] = 0.5
                bare = draw(1, noise_scale=0.0)
                require(not torch.equal(bare, draw(1)), "sample: ignores noise_scale")
                finite(bare, "sample at noise_scale 0")
            # about the mean, wherever that is
            ratios = draw(1, **knobs).std(dim=0) / draw(1).std(dim=0)
            for column, ratio in enumerate(ratios.tolist()):
                require(
                    0.4 < ratio < 0.6,
                    " and ".join(f"{name} 0.5" for name in knobs)
                    + f": expected half the standard deviation, got {ratio:.3f} times that of 1 "
                    f"in column {column}",
                )


@torch.no_grad()
def _drawn(
    prior: Prior, context: Tensor | None, seed: int, num: int = 4000, **knobs: float
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    with untouched("sample with a generator"):
        return prior.sample(num, context, **knobs, generator=generator)


def derivatives(subject: Subject) -> None:
    """Autograd's derivatives of the density and of ``from_normal`` are finite differences'."""
    told = False
    for case in subject.cases():
        with trying(case):
            prior: Prior = instance(subject, case)
            context = _context(case, 16)
            z = _drawn(prior, context, 4, 16)
            told = check_slope(partial(_scored, prior, context), z, "log_prob") or told
            if not case.context:
                noise = _noise(prior, 16, seed=4)
                told = check_slope(prior.from_normal, noise, "from_normal") or told
    if not told:
        raise NotApplicable("smooth at fewer than half of the rows")


def _scored(prior: Prior, context: Tensor | None, z: Tensor) -> Tensor:
    return prior.log_prob(z, context)


def gradients(subject: Subject) -> None:
    """Every parameter gets a finite gradient from the density of draws."""
    tried = False
    for case in subject.cases():
        with trying(case):
            prior: Prior = instance(subject, case).train()
            trained = [(n, p) for n, p in prior.named_parameters() if p.requires_grad]
            if not trained:
                continue
            tried = True
            context = _context(case, 32)
            z = _drawn(prior, context, 5, 32)
            prior.log_prob(z, context).sum().backward()  # type: ignore[no-untyped-call]
            for name, parameter in trained:
                require(parameter.grad is not None, f"{name}: no gradient")
                finite(parameter.grad, f"gradient of {name}")  # type: ignore[arg-type]
    if not tried:
        raise NotApplicable("nothing to train")


def rows_independent(subject: Subject) -> None:
    """Every row is scored, and turned into a draw, as it would be alone."""
    for case in subject.cases():
        with trying(case):
            prior: Prior = instance(subject, case)
            noise, context = _noise(prior, 300, seed=6), _context(case, 300)
            z = _drawn(prior, context, 6, 300)
            scores = prior.log_prob(z, context)
            draws = None if case.context else prior.from_normal(noise)
            for n in range(0, 300, 60):
                own = None if context is None else context[n : n + 1]
                alone = prior.log_prob(z[n : n + 1], own)[0]
                close(alone, scores[n], SAME[F64], f"log_prob of row {n} alone")
                if draws is not None:
                    alone = prior.from_normal(noise[n : n + 1])[0]
                    close(alone, draws[n], SAME[F64], f"from_normal of row {n} alone")


def context_matters(subject: Subject) -> None:
    """Every column of the context changes the density, and the context changes the draws."""
    tried = False
    for case in subject.cases():
        if not case.context:
            continue
        tried = True
        with trying(case):
            prior: Prior = instance(subject, case)
            context = rows(16, case.context, seed=500, scale=1.5)
            z = _drawn(prior, context, 7, 16)
            scores = prior.log_prob(z, context)
            for column in range(case.context):
                other = context.clone()
                other[:, column] += 1.0
                apart = difference(prior.log_prob(z, other), scores)
                require(apart > 1e-9, f"log_prob: column {column} of the context changes nothing")
            moved = difference(_drawn(prior, context + 1.0, 7, 16), z)
            require(moved > 1e-9, "sample: ignores the context")
    if not tried:
        raise NotApplicable("takes no context")


def packs(subject: Subject) -> None:
    """Stacked copies under vmap score and draw, with gradients, as each of them alone."""
    for case in subject.cases():
        with trying(case):
            members: list[Prior] = [instance(subject, case) for _ in range(2)]
            if not is_packable(members[0]):
                raise NotApplicable("declares packable = False")
            with torch.no_grad():
                for parameter in members[1].parameters():
                    parameter.mul_(0.9)
            parameters, buffers = stack_module_state(members)
            template = copy.deepcopy(members[0]).to("meta")
            contexts = [_context(case, 16, seed=seed) for seed in (8, 9)]
            z = [_drawn(p, c, 8, 16) for p, c in zip(members, contexts, strict=True)]
            noise = [_noise(members[0], 16, seed=seed) for seed in (8, 9)]
            asked = [("log_prob", z, contexts)]
            if not case.context:
                asked.append(("from_normal", noise, [None, None]))
            for name, values, given in asked:
                stacked = torch.stack(values).requires_grad_()
                more = () if given[0] is None else (torch.stack(given),)  # type: ignore[arg-type]
                ask = partial(_ask, _Ask(template, name))
                with trying(f"{name} under vmap"):
                    packed = vmap(ask)(parameters, buffers, stacked, *more)
                for index, prior in enumerate(members):
                    value = values[index].clone().requires_grad_()
                    alone = _Ask(prior, name)(value, given[index])
                    close(packed[index], alone, SAME[F64], f"{name} of member {index}")
                    if not alone.requires_grad:
                        continue
                    require(packed.requires_grad, f"{name} under vmap: has no gradient")
                    slope, own = (
                        torch.autograd.grad(v.sum(), at, retain_graph=True, allow_unused=True)[0]
                        for v, at in ((packed[index], stacked), (alone, value))
                    )
                    if slope is not None and own is not None:
                        close(slope[index], own, 1e-6, f"gradient of {name} of member {index}")


class _Ask(nn.Module):
    """A prior's method as ``forward``, for functional_call."""

    def __init__(self, prior: Prior, name: str) -> None:
        super().__init__()
        self.prior, self.name = prior, name

    def forward(self, value: Tensor, context: Tensor | None = None) -> Tensor:
        if self.name == "from_normal":
            return self.prior.from_normal(value)
        return self.prior.log_prob(value, context)


def _ask(
    template: _Ask, parameters: dict[str, Tensor], buffers: dict[str, Tensor], *given: Tensor
) -> Tensor:
    state = {f"prior.{name}": value for name, value in {**parameters, **buffers}.items()}
    found: Tensor = functional_call(template, state, given)
    return found


def support(subject: Subject) -> None:
    """The support map is a bijection with the volume autograd finds, into the support."""
    mapped = False
    for case in subject.cases():
        with trying(case):
            prior: Prior = instance(subject, case)
            squash = prior.support_map()
            if squash is None:
                continue
            mapped = True
            squash.double()
            x = rows(6, case.features)
            z, volume = squash.encode(x)
            finite(prior.log_prob(z, _context(case, 6)), "log_prob on the support")
            close(squash.decode(z).value, x, ROUND_TRIP[F64], "support map and back")
            for n in range(len(x)):
                j = jacobian(squash.encode, x[n : n + 1])
                close(volume[n], torch.linalg.slogdet(j).logabsdet, VOLUME[F64], "its log_abs_det")
    if not mapped:
        raise NotApplicable("its support is all of R^d")


def refuses_bad_input(subject: Subject) -> None:
    """Wrong shapes, temperatures and contexts raise ValueError naming the argument."""
    for case in {bool(case.context): case for case in subject.cases()}.values():
        with trying(case):
            prior: Prior = instance(subject, case)
            z, context = rows(4, case.features), _context(case, 4)
            for wrong in (z[0], torch.cat([z, z], dim=1), z.long()):
                refuses("z", prior.log_prob, wrong, context)
            if context is None:
                noise = _noise(prior, 4)
                for wrong in (noise[0], torch.cat([noise, noise], dim=1), noise.long()):
                    refuses("noise", prior.from_normal, wrong)
            refuses("temperature", prior.sample, 4, context, temperature=0.0)
            if prior.noise_knob:
                refuses("noise_scale", prior.sample, 4, context, noise_scale=-1.0)
            unfit = [torch.zeros(4, 2)] if context is None else [None, context[:2], context[:, :1]]
            for other in unfit:
                refuses("context", prior.log_prob, z, other)
                refuses("context", prior.sample, 4, other)


def _noise(prior: Prior, num: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """What ``from_normal`` takes for ``num`` draws."""
    return rows(num, prior.noise_features, dtype, seed)


def _drawing(prior: Prior) -> AbstractContextManager[None]:
    """Failures of ``from_normal`` tell how many numbers a draw took, where that is not d."""
    if prior.noise_features == prior.features:
        return nullcontext()
    return trying(f"noise_features {prior.noise_features}")


def _context(case: Case, num: int, dtype: torch.dtype = F64, seed: int = 0) -> Tensor | None:
    """Rows of context (num, C); None for a case without."""
    return rows(num, case.context, dtype, seed + 500, scale=1.5) if case.context else None
