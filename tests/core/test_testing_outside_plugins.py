"""Plugins as outsiders write them: right ones that are unusual, and each with one mistake."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from torch import nn

from flowzoo.interfaces import BaseFlow, Evaluation, Likelihood, Mixture, Stage, Step
from flowzoo.testing import checks
from flowzoo.testing.distribution import resolved
from flowzoo.testing.run import run_check
from planted import assert_found

# mixtures -----------------------------------------------------------------------------------------


class Columns(Mixture):
    """Independent normal columns by their moments."""

    evaluations: ClassVar = {"exact": Evaluation()}

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def stages(self):
        return (Stage("moments", prepare=self._fit),)

    def _fit(self, x, valid, generator):
        self.mean.copy_(x.mean(dim=0))
        self.std.copy_(x.std(dim=0))

    def _log_prob(self, x, evaluation, num_samples, generator):
        return self._density((x - self.mean) / self.std)

    def _density(self, white):
        return (-0.5 * white.square() - 0.5 * math.log(2 * math.pi) - self.std.log()).sum(dim=1)

    def _sample(self, num, temperature, generator):
        like = self.mean
        noise = torch.randn(num, self.features, generator=generator, dtype=like.dtype)
        return self.mean + temperature * self.std * noise


class Cauchy(Columns):
    """Independent Cauchy columns, by quartiles."""

    def _fit(self, x, valid, generator):
        low, middle, high = torch.quantile(x, torch.tensor([0.25, 0.5, 0.75]).to(x), dim=0)
        self.mean.copy_(middle)
        self.std.copy_((high - low) / 2)

    def _density(self, white):
        return (-white.square().log1p() - math.log(math.pi) - self.std.log()).sum(dim=1)

    def _sample(self, num, temperature, generator):
        like = self.mean
        uniform = torch.rand(num, self.features, generator=generator, dtype=like.dtype)
        return self.mean + temperature * self.std * torch.tan(math.pi * (uniform - 0.5))


class Latent(Columns):
    """A normal as a mean over latent draws: an estimate, and nothing exact."""

    evaluations: ClassVar = {"importance": Evaluation(Likelihood("estimate", 50))}
    excess = 0.0

    def _log_prob(self, x, evaluation, num_samples, generator):
        num = num_samples or 50
        shape = (num, *x.shape)
        z = 0.5 * torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
        white = (x - self.mean) / self.std
        width = math.sqrt(0.75)
        terms = -0.5 * ((white - z) / width).square() - 0.5 * math.log(2 * math.pi * 0.75)
        return (terms - self.std.log()).sum(dim=2).logsumexp(dim=0) - math.log(num) + self.excess


class FlatTails(Columns):
    def _density(self, white):
        return super()._density(white.clamp(-3, 3))


class FlatCauchyTails(Cauchy):
    def _density(self, white):
        return super()._density(white.clamp(-30, 30))


class Undivided(Latent):
    excess = math.log(50)


class OneCount(Latent):
    def _log_prob(self, x, evaluation, num_samples, generator):
        return super()._log_prob(x, evaluation, 50, generator)


class FromValidation(Columns):
    def _fit(self, x, valid, generator):
        super()._fit(valid, x, generator)


class NeverHot(Columns):
    def _sample(self, num, temperature, generator):
        return super()._sample(num, min(temperature, 1.0), generator)


class Crossed(Columns):
    capabilities = frozenset({"reconstruct", "assign"})

    def reconstruct(self, x):
        return x.flip(0)

    def assign(self, x):
        return torch.zeros(len(x), dtype=torch.int64)


class Numbered(Crossed):
    def reconstruct(self, x):
        return x

    def assign(self, x):
        return torch.arange(len(x))


# base flows ---------------------------------------------------------------------------------------


class Leaky(BaseFlow):
    """A leaky ramp around a learned point: its volume jumps there."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.shift = nn.Parameter(torch.zeros(features))
        self.log_slope = nn.Parameter(torch.zeros(features))

    def _encode(self, x, context, chart):
        moved = x + self.shift
        log_slope = torch.where(moved > 0, self.log_slope, torch.zeros_like(moved))
        return Step(moved * log_slope.exp(), log_slope.sum(dim=1))

    def _decode(self, z, context, chart):
        log_slope = torch.where(z > 0, self.log_slope, torch.zeros_like(z))
        return Step(z * (-log_slope).exp() - self.shift, log_slope.sum(dim=1))


class Tails(BaseFlow):
    """The identity inside a box, steeper outside; says nothing of that in its volume."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.scale = nn.Parameter(torch.zeros(features))

    def _encode(self, x, context, chart):
        z = x * self.scale.exp()
        outside = (z.abs() - 5).clamp(min=0) * z.sign()
        return Step(z + outside, self.scale.sum().expand(len(x)))

    def _decode(self, z, context, chart):
        outside = (z.abs() - 5).clamp(min=0) * z.sign()
        return Step((z - outside / 2) * (-self.scale).exp(), self.scale.sum().expand(len(z)))


class ColumnByColumn(BaseFlow):
    """Decodes one column after the other, and calls that fast."""

    def __init__(self, features: int, *, fast: str = "decode") -> None:
        super().__init__(features, fast=fast)
        self.weight = nn.Parameter(torch.zeros(features, features))

    def _encode(self, x, context, chart):
        return Step(x + torch.tanh(x @ self.weight.triu(1)), x.new_zeros(len(x)))

    def _decode(self, z, context, chart):
        x = torch.zeros_like(z)
        for _ in range(self.features):
            x = z - torch.tanh(x @ self.weight.triu(1))
        return Step(x, z.new_zeros(len(z)))


class HonestColumnByColumn(ColumnByColumn):
    def __init__(self, features: int) -> None:
        super().__init__(features, fast="encode")


class SlowBoth(ColumnByColumn):
    def __init__(self, features: int) -> None:
        super().__init__(features, fast="both")


class StaleInverse(BaseFlow):
    """Keeps the inverse of its matrix, as of the last batch it was trained on."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.weight = nn.Parameter(torch.eye(features))
        self.register_buffer("inverse", torch.eye(features))

    def _encode(self, x, context, chart):
        if self.training:
            self.inverse.copy_(self.weight.detach().inverse())
        volume = torch.linalg.slogdet(self.weight).logabsdet
        return Step(x @ self.weight, volume.expand(len(x)))

    def _decode(self, z, context, chart):
        volume = torch.linalg.slogdet(self.weight).logabsdet
        return Step(z @ self.inverse, volume.expand(len(z)))


class NoDirection(BaseFlow):
    """The identity by way of directions: 0 / 0 in the gradient at the origin."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.turn = nn.Parameter(torch.zeros(features))

    def _encode(self, x, context, chart):
        norm = x.norm(dim=1, keepdim=True)
        return Step(norm * torch.where(norm > 0, x / norm, x) + self.turn, x.new_zeros(len(x)))

    def _decode(self, z, context, chart):
        return Step(z - self.turn, z.new_zeros(len(z)))


MISTAKES = [
    (FlatTails, "normalised"),
    (FlatTails, "samples-follow-density"),
    (FlatCauchyTails, "normalised"),
    (Undivided, "normalised"),
    (OneCount, "num-samples"),
    (FromValidation, "training"),
    (NeverHot, "sample"),
    (Crossed, "capabilities"),
    (Numbered, "capabilities"),
    (Tails, "jacobian"),
    (ColumnByColumn, "fast-direction"),
    (SlowBoth, "fast-direction"),
    (StaleInverse, "round-trip"),
    (NoDirection, "gradients"),
]


@pytest.mark.parametrize("sizes", [[1], [2], [5]])
@pytest.mark.parametrize(
    ("plugin", "name"), MISTAKES, ids=[f"{one.__name__}-{name}" for one, name in MISTAKES]
)
def test_a_mistake_is_found(plugin, name, sizes):
    if name == "fast-direction" and sizes[0] < 4:
        pytest.skip("too few columns to tell")
    assert_found(plugin, name, sizes=sizes)


@pytest.mark.parametrize(
    "plugin", [Columns, Cauchy, Latent, Leaky, HonestColumnByColumn], ids=lambda one: one.__name__
)
def test_what_is_right_passes(plugin):
    for check in checks(plugin, level="full", sizes=[1, 2, 5]):
        found = run_check(check)
        assert found.ok, f"{check.name}: {found.message}"


def test_what_cannot_be_built_is_skipped_though_it_was_declared():
    """A declared failure of the build itself is one line, not one for every other check."""
    from flowzoo.plugin import PluginSpec
    from flowzoo.testing import run_checks

    spec = PluginSpec(
        "base-flow",
        "leaky",
        "Leaky",
        f"{__name__}:Leaky",
        capabilities={"fast": "both", "features": 2},
        expected_failed_checks={"build": "not on this machine", "context": "it takes none"},
    )
    report = run_checks(spec)
    found = {result.name: result for result in report.results}
    assert found["build"].status == "unexpected pass"  # it can be built, so the line is stale
    assert found["context"].status == "skipped"
    assert "declared to fail (it takes none)" in found["context"].message


class Unbuildable(Leaky):
    def __init__(self, features: int) -> None:
        super().__init__(features)
        raise RuntimeError("no such hardware")


def test_after_a_declared_failure_to_build_nothing_else_is_tried():
    from flowzoo.plugin import PluginSpec
    from flowzoo.testing import run_checks

    spec = PluginSpec(
        "base-flow",
        "unbuildable",
        "Cannot be built",
        f"{__name__}:Unbuildable",
        expected_failed_checks={"build": "no such hardware"},
    )
    found = {result.name: result for result in run_checks(spec).results}
    assert found["build"].status == "expected failure"
    assert {found[name].message for name in ("jacobian", "save-load")} == {"build fails"}


@pytest.mark.parametrize(
    ("total", "moved", "fine"),
    [
        (1.0, 0.01, True),
        (1.0, 0.1, False),
        (200.0, 4.0, True),
        (200.0, 100.0, False),
        (0.01, 0.001, False),
    ],
)
def test_what_a_grid_resolves_is_told_by_its_own_mass(total, moved, fine):
    assert resolved(torch.tensor([total / 2, total / 2]), moved) == fine
