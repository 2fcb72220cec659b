"""Checks of priors: a density on the latent space, its draws, its support."""

from __future__ import annotations

import torch

from flowzoo.interfaces import Prior
from flowzoo.testing.distribution import draws_follow
from flowzoo.testing.isolation import untouched
from flowzoo.testing.module_checks import instance
from flowzoo.testing.numerics import F32, F64, ROUND_TRIP, VOLUME, close, finite, jacobian, rows
from flowzoo.testing.outcome import NotApplicable, require
from flowzoo.testing.refusals import refuses
from flowzoo.testing.subject import Subject, trying


def shapes(subject: Subject) -> None:
    """Density and draws of no row, one row and many, in both dtypes."""
    for case in subject.cases():
        for dtype in (F64, F32):
            prior: Prior = instance(subject, case, dtype)
            for num in (0, 1, 7):
                with trying(f"{case}, {num} rows, {dtype}"):
                    z = prior.sample(num)
                    for name, value, shape in (
                        ("sample", z, (num, case.features)),
                        ("log_prob", prior.log_prob(z), (num,)),
                        ("from_normal", prior.from_normal(z), (num, case.features)),
                    ):
                        found = tuple(value.shape), value.dtype
                        require(
                            found == (shape, dtype),
                            f"{name}: expected {shape} {dtype}, got {found}",
                        )
                        finite(value, name)


def normalised(subject: Subject) -> None:
    """The density integrates to 1 over R and R^2, and draws follow it."""
    for case in subject.cases():
        if case.features > 2:
            continue
        with trying(case):
            prior: Prior = instance(subject, case)
            draws = prior.sample(8000, generator=torch.Generator().manual_seed(1))
            # a density with an edge, say a ball's, is rough for quadrature
            smooth = prior.support_map() is None
            draws_follow(prior.log_prob, draws, tolerance=1e-3 if smooth else 1e-2)


def normals_become_draws(subject: Subject) -> None:
    """``from_normal`` turns normal numbers into draws of the same law."""
    for case in subject.cases():
        if case.features > 2:
            continue
        with trying(case):
            prior: Prior = instance(subject, case)
            noise = rows(8000, case.features)
            with untouched("from_normal", noise):
                draws = prior.from_normal(noise)
            smooth = prior.support_map() is None
            draws_follow(prior.log_prob, draws, tolerance=1e-3 if smooth else 1e-2)


def seeds(subject: Subject) -> None:
    """The same generator gives the same draws, another one others; temperature narrows them."""
    for case in subject.cases():
        with trying(case):
            prior: Prior = instance(subject, case)

            def draw(seed: int, prior: Prior = prior, **options: float) -> torch.Tensor:
                generator = torch.Generator().manual_seed(seed)
                with untouched("sample with a generator"):
                    return prior.sample(400, generator=generator, **options)  # type: ignore[arg-type]

            require(torch.equal(draw(1), draw(1)), "sample: one seed gives two results")
            require(not torch.equal(draw(1), draw(2)), "sample: ignores the generator")
            cold, warm = draw(1, temperature=0.5), draw(1)
            ratio = float(cold.square().mean().sqrt() / warm.square().mean().sqrt())
            require(0.4 < ratio < 0.6, f"temperature 0.5: scales draws by {ratio:.3f}")


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
            finite(prior.log_prob(z), "log_prob on the support")
            close(squash.decode(z).value, x, ROUND_TRIP[F64], "support map and back")
            for n in range(len(x)):
                j = jacobian(squash.encode, x[n : n + 1])
                close(volume[n], torch.linalg.slogdet(j).logabsdet, VOLUME[F64], "its log_abs_det")
    if not mapped:
        raise NotApplicable("its support is all of R^d")


def refuses_bad_input(subject: Subject) -> None:
    """Wrong shapes, temperatures and contexts raise ValueError naming the argument."""
    case = next(iter(subject.cases()))
    prior: Prior = instance(subject, case)
    z = rows(4, case.features)
    for wrong in (z[0], torch.cat([z, z], dim=1), z.long()):
        refuses("z", prior.log_prob, wrong)
        refuses("noise", prior.from_normal, wrong)
    refuses("temperature", prior.sample, 3, temperature=0.0)
    refuses("context", prior.log_prob, z, torch.zeros(4, 2))
