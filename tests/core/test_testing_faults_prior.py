"""Known mistakes in priors, conditional ones among them: the named check fails for each."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from flowzoo.interfaces import Prior
from flowzoo.priors import NoisyInjectiveGaussian, StandardNormal, UniformBall
from flowzoo.testing import run_checks
from flowzoo.validation import check_context, check_rows
from planted import assert_found


class Normal(Prior):
    """N(m + Wc, s^2) with trained m, W and s."""

    def __init__(self, features: int, *, context_features: int = 0) -> None:
        super().__init__(features, context_features=context_features)
        self.mean = nn.Parameter(torch.full((features,), 2.0))
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.of_context = nn.Linear(context_features, features) if context_features else None

    def _centre(self, context):
        return self.mean if self.of_context is None else self.mean + self.of_context(context)

    def log_prob(self, z, context=None):
        check_rows("z", z, self.features)
        context = check_context(context, self.context_features, len(z))
        return self._scored((z - self._centre(context)) / self.log_scale.exp())

    def _scored(self, noise):
        constant = 0.5 * math.log(2.0 * math.pi)
        return (-0.5 * noise.square() - constant - self.log_scale).sum(dim=1)

    def sample(self, num, context=None, *, temperature=1.0, noise_scale=1.0, generator=None):
        check_context(context, self.context_features, num)
        if not temperature > 0:
            raise ValueError(f"temperature: expected > 0, got {temperature}")
        like = self.mean
        shape = num, self.features
        noise = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        return self._centre(context) + temperature * self.log_scale.exp() * noise

    def from_normal(self, noise):
        return self.mean + self.log_scale.exp() * check_rows("noise", noise, self.features)


class Laplace(Prior):
    """Has a kink at 0, and its draws are made from uniform numbers."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.register_buffer("scale", torch.ones(features))

    def log_prob(self, z, context=None):
        check_rows("z", z, self.features)
        check_context(context, 0, len(z))
        return -(z.abs() / self.scale + (2.0 * self.scale).log()).sum(dim=1)

    def sample(self, num, context=None, *, temperature=1.0, noise_scale=1.0, generator=None):
        check_context(context, 0, num)
        if not temperature > 0:
            raise ValueError(f"temperature: expected > 0, got {temperature}")
        like = self.scale
        shape = num, self.features
        noise = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        return temperature * self.from_normal(noise)

    def from_normal(self, noise):
        check_rows("noise", noise, self.features)
        return -noise.sign() * (torch.special.log_ndtr(-noise.abs()) + math.log(2.0)) * self.scale


class OffByConstant(Normal):
    def log_prob(self, z, context=None):
        return super().log_prob(z, context) + (0.0 if context is None else 7.0)


class DrawsIgnoreContext(Normal):
    def sample(self, num, context=None, **options):
        check_context(context, self.context_features, num)
        return super().sample(num, None if context is None else 0 * context, **options)


class FirstContextForAll(Normal):
    def sample(self, num, context=None, **options):
        check_context(context, self.context_features, num)
        first = None if context is None else context[:1].expand(num, -1)
        return super().sample(num, first, **options)


class FirstContextScored(Normal):
    def _centre(self, context):
        return super()._centre(None if context is None else context[:1])


class FirstColumnOnly(Normal):
    def _centre(self, context):
        return super()._centre(None if context is None else context[:, :1].expand_as(context))


class AnyContext(Normal):
    def sample(self, num, context=None, **options):
        context = torch.zeros(num, self.context_features) if context is None else context
        context = context if self.context_features else None
        return super().sample(num, context, **options)


class UnusedParameter(Normal):
    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.never_used = nn.Parameter(torch.zeros(2))


class TemperatureMovesTheMean(Normal):
    def sample(self, num, context=None, *, temperature=1.0, **options):
        return super().sample(num, context, **options) * temperature**0.2


class WrongVolume(UniformBall):
    """The area of the sphere: right for d = 1 and 2 only."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        if features > 2:
            self.log_volume += math.log(features)


class WrongNormaliser(StandardNormal):
    def log_prob(self, z, context=None):
        extra = max(0, self.features - 2)
        return super().log_prob(z, context) + 0.5 * extra * math.log(2.0 * math.pi)


class NarrowDraws(StandardNormal):
    def sample(self, num, context=None, **options):
        return super().sample(num, context, **options) * (0.5 if self.features > 2 else 1.0)


class NarrowFromNormal(StandardNormal):
    def from_normal(self, noise):
        return super().from_normal(noise) * (0.5 if self.features > 2 else 1.0)


class DetachedDensity(StandardNormal):
    def log_prob(self, z, context=None):
        return super().log_prob(z.detach(), context)


class HalfDetachedDensity(StandardNormal):
    def log_prob(self, z, context=None):
        halves = 0.5 * super().log_prob(z, context), 0.5 * super().log_prob(z.detach(), context)
        return halves[0] + halves[1]


class DetachedFromNormal(StandardNormal):
    def from_normal(self, noise):
        return super().from_normal(noise).detach().clone()


class FromNormalWrites(StandardNormal):
    def from_normal(self, noise):
        check_rows("noise", noise, self.features)
        made = torch.empty(noise.shape, dtype=noise.dtype, device=noise.device)
        return made.copy_(noise)


class UncountedNoise(StandardNormal):
    """Its draws take d + 1 numbers, as it says, and it expects d."""

    @property
    def noise_features(self):
        return self.features + 1


class NoisyPlane(NoisyInjectiveGaussian):
    def __init__(self, features: int) -> None:
        super().__init__(features, latent_features=1)


class PlaneNoiseUnscaled(NoisyPlane):
    def sample(self, num, context=None, *, noise_scale=1.0, **options):
        return super().sample(num, context, **options)


class HalfItsNoise(NoisyPlane):
    def from_normal(self, noise):
        scale = torch.ones_like(noise)
        scale[:, 1:] = 0.5
        return super().from_normal(noise * scale)


class BranchesOnValues(StandardNormal):
    def log_prob(self, z, context=None):
        score = super().log_prob(z, context)
        return score * 1.0 if bool((z > 100).any()) else score


class MixedRows(StandardNormal):
    def log_prob(self, z, context=None):
        score = super().log_prob(z, context)
        return score - 0.1 * (score - score.mean()) if len(z) > 20 else score


FAULTS = [
    (OffByConstant, "normalised", "D=1, context 2: total mass: expected 1, got "),
    (DrawsIgnoreContext, "normalised", "D=1, context 2: draws do not follow the density"),
    (DrawsIgnoreContext, "context", "sample: ignores the context"),
    (FirstContextForAll, "normalised", "D=1, context 2"),
    (FirstContextScored, "rows-independent", "log_prob of row 60 alone"),
    (FirstColumnOnly, "context", "column 1 of the context changes nothing"),
    (AnyContext, "bad-input", "bad context: expected ValueError"),
    (UnusedParameter, "gradients", "never_used: no gradient"),
    (TemperatureMovesTheMean, "seeds", "temperature 0.5: expected half the standard deviation"),
    (WrongVolume, "normalised", "D=3: draws do not follow the density"),
    (WrongVolume, "from-normal", "D=3: draws do not follow the density"),
    (WrongNormaliser, "normalised", "D=3: "),
    (NarrowDraws, "normalised", "D=3: draws do not follow the density"),
    (NarrowFromNormal, "from-normal", "D=3: draws do not follow the density"),
    (DetachedDensity, "derivatives", "log_prob: has no gradient, and moves with its input"),
    (HalfDetachedDensity, "derivatives", "derivative of log_prob against finite differences"),
    (DetachedFromNormal, "derivatives", "from_normal: has no gradient, and moves"),
    (UncountedNoise, "shapes", "D=1, 0 rows, torch.float64: noise_features 2: ValueError: noise: "),
    (PlaneNoiseUnscaled, "seeds", "D=1: sample: ignores noise_scale"),
    (HalfItsNoise, "from-normal", "D=1: draws do not follow the density"),
    (FromNormalWrites, "packed", "from_normal under vmap: RuntimeError"),
    (BranchesOnValues, "packed", "log_prob under vmap: RuntimeError"),
    (MixedRows, "rows-independent", "log_prob of row 0 alone"),
]


@pytest.mark.parametrize(
    "prior, name, said", FAULTS, ids=lambda v: v.__name__ if isinstance(v, type) else None
)
def test_a_planted_mistake_fails_its_check(prior, name, said):
    assert_found(prior, name, said)


@pytest.mark.parametrize("prior", [Normal, Laplace])
def test_right_priors_are_no_false_alarm(prior):
    report = run_checks(prior)
    assert report.ok, [(r.name, r.message) for r in report.failures]
    skipped = {r.name for r in report.results if r.status == "skipped"}
    told = {"normalised", "from-normal", "seeds", "derivatives", "rows-independent", "packed"}
    assert not told & skipped
    assert ("context" in skipped) == ("gradients" in skipped) == (prior is Laplace)
