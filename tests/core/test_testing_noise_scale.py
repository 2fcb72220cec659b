"""The conformance suite on mixtures with a noise_scale: right ones, and each with one mistake."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch

from flowzoo.interfaces import Evaluation, Mixture, Stage
from flowzoo.testing import checks
from flowzoo.testing.run import run_check
from flowzoo.validation import check_draw, check_number
from planted import assert_found


class Line(Mixture):
    """A normal first column, and noise of a tenth of the data's spread in all of them."""

    evaluations: ClassVar = {"exact": Evaluation()}
    capabilities = frozenset({"noise_scale", "reconstruct"})

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("noise", torch.ones(features))

    def stages(self):
        return (Stage("moments", prepare=self._fit),)

    def _fit(self, x, valid, generator):
        self.mean.copy_(x.mean(dim=0))
        self.noise.copy_(x.std(dim=0))
        self.noise[0] *= 0.3
        self.std.copy_(x[:, 0].std())

    def _log_prob(self, x, evaluation, num_samples, generator):
        variance = self.noise.square()
        variance = torch.cat([variance[:1] + self.std**2, variance[1:]])
        squares = (x - self.mean).square() / variance
        return -0.5 * (squares + variance.log() + math.log(2 * math.pi)).sum(dim=1)

    def _sample(self, num, temperature, generator):
        return self._drawn(num, temperature, 1.0, generator)

    def sample(self, num, *, temperature=1.0, generator=None, noise_scale=1.0):
        check_draw(num, temperature)
        if noise_scale != 1.0:
            check_number("noise_scale", noise_scale)
        return self._drawn(num, temperature, noise_scale, generator)

    def _drawn(self, num, temperature, scale, generator):
        like = {"generator": generator, "dtype": self.mean.dtype}
        z, noise = torch.randn(num, **like), torch.randn(num, self.features, **like)
        return self._placed(temperature * z, scale) + self._spread(scale) * self.noise * noise

    def _placed(self, z, scale):
        place = self.mean.repeat(len(z), 1)
        place[:, 0] += self.std * z
        return place

    def _spread(self, scale):
        return scale

    def reconstruct(self, x):
        place = self.mean.repeat(len(x), 1)
        place[:, 0] = x[:, 0]
        return place


class PosteriorMean(Line):
    """Right: its ``reconstruct`` shrinks to the middle, and is no projection."""

    def reconstruct(self, x):
        share = self.std**2 / (self.std**2 + self.noise[0] ** 2)
        place = super().reconstruct(x)
        place[:, 0] = self.mean[0] + share * (x[:, 0] - self.mean[0])
        return place


class Reordered(Line):
    """Right: at another noise_scale it draws other numbers from the same seed."""

    def _drawn(self, num, temperature, scale, generator):
        if scale not in (0.0, 1.0):
            torch.randn(7, generator=generator)
        return super()._drawn(num, temperature, scale, generator)


class OnVariance(Line):
    """noise_scale as a factor on the variance."""

    def _spread(self, scale):
        return math.sqrt(scale)


class OnlyZero(Line):
    """Heeds noise_scale at 0 alone."""

    def _spread(self, scale):
        return float(scale > 0)


class Everything(Line):
    """Scales the latent variable too: at 0 there is one point."""

    def _placed(self, z, scale):
        return super()._placed(scale * z, scale)


class Deaf(Line):
    """Takes noise_scale and ignores it."""

    def _spread(self, scale):
        return 1.0


class Left(Line):
    """Leaves some noise at 0, off what it calls its manifold."""

    def _spread(self, scale):
        return 0.1 + 0.9 * scale


class Unchecked(Line):
    """Takes a negative noise_scale."""

    def sample(self, num, *, temperature=1.0, generator=None, noise_scale=1.0):
        return super().sample(
            num,
            temperature=temperature,
            generator=generator,
            noise_scale=abs(noise_scale) if math.isfinite(noise_scale) else noise_scale,
        )


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (OnVariance, "factor on the standard deviation"),
        (OnlyZero, "noise_scale=0.5: expected other draws than 1"),
        (Everything, "all draws are one point"),
        (Deaf, "expected other draws"),
        (Left, "reconstruct of draws at noise_scale=0"),
        (Unchecked, "noise_scale"),
    ],
)
def test_a_mistake_is_found(plugin, said):
    assert_found(plugin, "capabilities", said, sizes=[2])


@pytest.mark.parametrize("plugin", [Line, PosteriorMean, Reordered], ids=lambda one: one.__name__)
def test_what_is_right_passes(plugin):
    for check in checks(plugin, sizes=[1, 3]):
        if check.name not in ("import", "save-load"):
            found = run_check(check)
            assert found.ok, f"{check.name}: {found.message}"
