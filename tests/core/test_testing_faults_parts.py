"""Known mistakes in partitioners and tasks, and what is none: the named check tells them apart."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch

from flowzoo import Evaluation, Stage
from flowzoo.interfaces import Partitioner, Splits, Task
from flowzoo.testing import run_checks
from flowzoo.validation import check_rows
from planted import assert_found


class Prototypes(Partitioner):
    """Distances to rows of the data."""

    def __init__(self, features: int, *, num_charts: int = 4) -> None:
        super().__init__(features, num_charts=num_charts, code_features=features)
        self.register_buffer("codes", torch.zeros(num_charts, features))

    def stages(self):
        return (Stage("fit", prepare=self._fit),)

    def _fit(self, x, valid, generator):
        chosen = torch.randperm(len(x), generator=generator)[: self.num_charts]
        self.codes.copy_(x[chosen])

    def _distances(self, x):
        return (x[:, None] - self.codes).abs().sum(dim=2)


class Slabs(Partitioner):
    """Codes in one dimension, whatever the data's: the reverse of the first column."""

    def __init__(self, features: int, *, num_charts: int = 3) -> None:
        super().__init__(features, num_charts=num_charts, code_features=1)
        self.register_buffer("codes", torch.zeros(num_charts, 1))

    def stages(self):
        return (Stage("fit", prepare=self._fit),)

    def _fit(self, x, valid, generator):
        level = torch.linspace(0.2, 0.8, self.num_charts, dtype=x.dtype)
        self.codes.copy_(torch.quantile(-x[:, 0], level)[:, None])

    def _distances(self, x):
        return (-x[:, :1] - self.codes.T).abs()


class Shares(Prototypes):
    """Every code moves every distance; in training mode they are noisy."""

    def _distances(self, x):
        distances = 0.1 + super()._distances(x)
        if self.training:
            distances = distances + 0.01 * torch.rand_like(distances)
        return distances / distances.sum(dim=1, keepdim=True)


class NextCode(Prototypes):
    def _distances(self, x):
        return super()._distances(x).roll(1, dims=1)


class NextCodeKept(Prototypes):
    """The distances are to other tensors than the codes, in another order."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.register_buffer("places", torch.zeros(4, features))

    def _fit(self, x, valid, generator):
        super()._fit(x, valid, generator)
        self.places.copy_(self.codes.roll(1, 0))

    def _distances(self, x):
        return (x[:, None] - self.places).abs().sum(dim=2)


class NextSlab(Slabs):
    def _distances(self, x):
        return super()._distances(x).roll(1, dims=1)


class Detached(Prototypes):
    def _distances(self, x):
        return super()._distances(x.detach())


class LargeBatchesMixed(Prototypes):
    def _distances(self, x):
        return super()._distances(x if len(x) < 20 else x - 0.1 * (x - x.mean(dim=0)))


class RandomInTraining(Prototypes):
    def assign(self, x):
        if self.training:
            return torch.randint(self.num_charts, (len(x),), device=x.device)
        return super().assign(x)


class Ring(Task):
    """A circle with noise, ``reported`` to be of another size."""

    def __init__(self, *, num: int = 400, noise: float = 0.05, reported: float = 1.0) -> None:
        super().__init__(2)
        self.num, self.noise = num, noise
        self.noise_scale = reported * max(noise, 0.01)

    def splits(self, seed):
        generator = torch.Generator().manual_seed(seed)

        def draw():
            angle = 2.0 * math.pi * torch.rand(self.num, generator=generator, dtype=torch.float64)
            clean = torch.stack([angle.cos(), angle.sin()], dim=1)
            noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
            return clean + self.noise * noise

        return Splits(draw(), draw(), draw())

    def distance(self, x):
        return (torch.linalg.vector_norm(x, dim=1) - 1.0).abs()


class Disc(Ring):
    """The support has an inside, where most rows are in spite of the noise."""

    def splits(self, seed):
        ring, inside = super().splits(seed), super().splits(seed + 100)
        return Splits(*(0.9 * a * b[:, :1].abs().sqrt() for a, b in zip(ring, inside, strict=True)))

    def distance(self, x):
        return (torch.linalg.vector_norm(x, dim=1) - 1.0).clamp(min=0.0)


class LoudRing(Ring):
    def __init__(self) -> None:
        super().__init__(reported=20.0)


class CleanRing(Ring):
    """Rows exactly on the support, noise said to be there."""

    def __init__(self) -> None:
        super().__init__(noise=0.0, reported=100.0)


class Everywhere(Ring):
    def distance(self, x):
        return torch.zeros(len(x), dtype=x.dtype)


class Line(Task):
    """A standard normal on R: of many rows some agree to nine digits."""

    copied = 0

    def __init__(self, *, num: int = 15_000) -> None:
        super().__init__(1)
        self.num, self.oracle = num, Evaluation()

    def splits(self, seed):
        generator = torch.Generator().manual_seed(seed)
        train, valid, test = (
            torch.randn(self.num, 1, generator=generator, dtype=torch.float64) for _ in range(3)
        )
        test[: self.copied] = train[: self.copied]
        return Splits(train, valid, test)

    def log_prob(self, x):
        check_rows("x", x, 1)
        return -0.5 * (x[:, 0].square() + math.log(2.0 * math.pi))


class LongLine(Line):
    def __init__(self) -> None:
        super().__init__(num=50_000)


class LeakingLine(Line):
    copied = 20  # and one by chance


class LongLeakingLine(LongLine):
    copied = 40


class Counts(Task):
    """Whole numbers: rows repeat within a split as much as between splits."""

    def __init__(self) -> None:
        super().__init__(3)

    def splits(self, seed):
        generator = torch.Generator().manual_seed(seed)
        rate = torch.full((1000, 3), 3.0, dtype=torch.float64)
        return Splits(*(torch.poisson(rate, generator=generator) for _ in range(3)))


class Photos(Task):
    """Two-bit images of 1 x 2 x 3 pixels, drawn anew from one set; their class is their sum's."""

    bin_width, levels, bits, shape, logit = 1.0, 4, 2, (1, 2, 3), 0.05
    aside = 0

    def __init__(self) -> None:
        super().__init__(6)
        draw = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 4, (900, 6), generator=draw).unique(dim=0)
        self.kinds = self.images.sum(dim=1) % 5

    def _order(self, seed):
        return torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))[
            :600
        ].split([300, 100, 200])

    def splits(self, seed):
        noise = torch.Generator().manual_seed(seed + 50)
        draw = (
            torch.rand(len(i), 6, generator=noise, dtype=torch.float64) for i in self._order(seed)
        )
        return Splits(*(self.images[i] + u for i, u in zip(self._order(seed), draw, strict=True)))

    def labels(self, seed):
        return Splits(*(self.kinds[i] for i in self._order(seed + self.aside)))


class ThreeColours(Photos):
    shape = (3, 2, 3)


class ThreeBits(Photos):
    bits = 3


class FewLevels(Photos):
    levels, bits = 3, None


class NoBins(Photos):
    bin_width = None


class WideMargin(Photos):
    logit = 0.5


class LabelsElsewhere(Photos):
    """Each split's labels are another seed's."""

    aside = 1


class LabelsOfOneSeed(Photos):
    def labels(self, seed):
        return super().labels(0)


class LabelsByChance(Photos):
    def labels(self, seed):
        return Splits(*(torch.randint(0, 5, (len(x),)) for x in self.splits(seed)))


class LabelsKept(Photos):
    """All instances hand out the same tensors."""

    known: ClassVar = {}

    def labels(self, seed):
        return self.known.setdefault(seed, super().labels(seed))


class ShortLabels(Photos):
    def labels(self, seed):
        return Splits(*(kinds[1:] for kinds in super().labels(seed)))


class Unlabelled(Photos):
    def labels(self, seed):
        return Splits(*(kinds - 1 for kinds in super().labels(seed)))


FAULTS = [
    (NextCode, "codes", "expected code 0 to move the distances to chart 0, it moves those to"),
    (NextCodeKept, "codes", "expected each at distance 0 of its own chart, [0, 1, 2, 3], got"),
    (NextSlab, "codes", "expected code 0 to move the distances to chart 0, it moves those to"),
    (Detached, "derivatives", "distances: has no gradient, and moves with its input"),
    (LargeBatchesMixed, "rows-independent", "500 rows: row 0 alone"),
    (RandomInTraining, "training-mode", "assign: differs by"),
    (LoudRing, "support", "noise_scale: 1 is too large: rows are 0.0"),
    (CleanRing, "support", "noise_scale: 1 is too large: rows are "),
    (Everywhere, "support", "noise_scale: expected None where every row is on the support"),
    (LeakingLine, "distinct-rows", "21 test rows are train rows as well"),
    (LongLeakingLine, "distinct-rows", "test rows are train rows as well"),
    (ThreeColours, "images", "shape: expected None or (C, H, W) of 6 entries, got (3, 2, 3)"),
    (ThreeBits, "images", "bits: expected None or b of levels = 2^b, got 3 and levels 4"),
    (FewLevels, "images", "train rows: expected values in [0, 3), as levels says, got"),
    (NoBins, "images", "bin_width: expected 1 for whole levels"),
    (WideMargin, "images", "logit: expected None, or a number in (0, 0.5) beside levels"),
    (LabelsElsewhere, "labels", "rows have another class under another seed"),
    (LabelsOfOneSeed, "labels", "rows have another class under another seed"),
    (LabelsByChance, "labels", "labels: changes torch's random stream"),
    (LabelsKept, "labels", "labels: hands out its own storage"),
    (ShortLabels, "labels", "train labels: expected int64 of shape (300,), one a row, got"),
    (Unlabelled, "labels", "train labels: expected classes 0, 1, ..., got -1"),
]


@pytest.mark.parametrize(
    "part, name, said", FAULTS, ids=lambda v: v.__name__ if isinstance(v, type) else None
)
def test_a_planted_mistake_fails_its_check(part, name, said):
    assert_found(part, name, said)


@pytest.mark.parametrize(
    "part", [Prototypes, Slabs, Shares, Ring, Disc, Line, LongLine, Counts, Photos]
)
def test_right_parts_are_no_false_alarm(part):
    report = run_checks(part)
    assert report.ok, [(r.name, r.message) for r in report.failures]
    unsure = {r.name: r.message for r in report.results if r.status == "skipped"}
    assert ("codes" in unsure) == ("training-mode" in unsure) == (part is Shares)
