"""The conformance suite on dimensions, spectra and codes: right ones, and each with one mistake."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch

from flowzoo.interfaces import Evaluation, Mixture, Splits, Stage, Task
from flowzoo.task_validation import check_task_data
from flowzoo.testing import check_names
from flowzoo.validation import check_draw, check_finite, check_rows
from planted import assert_found, outcome

NEW = ("capabilities", "dimension", "spectrum", "codes")
NOISE = 0.01


class Principal(Mixture):
    """A Gaussian in the frame of its principal axes, with noise of standard deviation 0.01."""

    evaluations: ClassVar = {"exact": Evaluation()}
    capabilities = frozenset({"intrinsic_dimension", "local_dimension", "spectrum", "codes"})

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("axes", torch.eye(features))
        self.register_buffer("variance", torch.ones(features))

    def stages(self):
        return (Stage("moments", prepare=self._fit),)

    def _fit(self, x, valid, generator):
        self.mean.copy_(x.mean(dim=0))
        covariance = torch.cov(x.T).reshape(self.features, self.features)
        values, vectors = torch.linalg.eigh(covariance)
        self.axes.copy_(vectors.flip(1))
        self.variance.copy_(values.flip(0))

    def _log_prob(self, x, evaluation, num_samples, generator):
        z = self.codes(x)
        squares = z.square() / self.variance
        return -0.5 * (squares + self.variance.log() + math.log(2 * math.pi)).sum(dim=1)

    def _sample(self, num, temperature, generator):
        z = temperature * self.sample_codes(num, generator=generator)
        return self.mean + z @ self.axes.T

    def codes(self, x):
        check_finite("x", check_rows("x", x, self.features, self.mean))
        return self._codes(x)

    def _codes(self, x):
        return (x - self.mean) @ self.axes

    def sample_codes(self, num, generator=None):
        check_draw(num, 1.0)
        like = {"generator": generator, "dtype": self.mean.dtype}
        return torch.randn(num, self.features, **like) * self.variance.sqrt()

    def spectrum(self):
        return self.variance / NOISE**2

    def intrinsic_dimension(self):
        return (self.spectrum() > 1.0).sum()

    def local_dimension(self, x):
        check_finite("x", check_rows("x", x, self.features, self.mean))
        return self._local(x)

    def _local(self, x):
        return 1.0 + 0.1 * x[:, 0]


class Charted(Principal):
    """Right: two charts, one of them flat in all but one direction."""

    capabilities = Principal.capabilities | {"assign"}

    def assign(self, x):
        return (self.codes(x)[:, 0] > 0).long()

    def spectrum(self):
        flat = torch.zeros_like(self.variance)
        flat[0] = 1e4
        return torch.stack([super().spectrum(), flat])

    def intrinsic_dimension(self):
        return (self.spectrum() > 1.0).sum(dim=1)


# -- dimensions


class TooMany(Principal):
    def intrinsic_dimension(self):
        return torch.tensor(self.features + 1)


class Unknown(Principal):
    def intrinsic_dimension(self):
        return torch.tensor(math.nan)


class Matrix(Principal):
    def intrinsic_dimension(self):
        return torch.ones(2, 2)


class MoreCharts(Charted):
    """Rows are assigned to a third chart of two."""

    def assign(self, x):
        return 2 * super().assign(x)


class NobodysCharts(Principal):
    """A dimension a chart, and rows of no chart."""

    def intrinsic_dimension(self):
        return torch.tensor([1, 2])


class OneForAll(Principal):
    """The local dimension is one number."""

    def _local(self, x):
        return x.mean()


class BatchMean(Principal):
    """A row's dimension depends on the other rows."""

    def _local(self, x):
        return 1.0 + 0.1 * (x[:, 0] - x[:, 0].mean())


class Whole(Principal):
    """Integers, which no estimate is rounded to."""

    def _local(self, x):
        return torch.ones(len(x), dtype=torch.int64)


class NoRowFails(Principal):
    def _local(self, x):
        return super()._local(x) + 0.0 * x[0, 0]


class Diverges(Principal):
    def _local(self, x):
        return super()._local(x) / (x[:, 0] > -10).to(x).sub(1.0)


class Unchecked(Principal):
    def local_dimension(self, x):
        return x.sum(dim=1) * 0.0 if x.ndim == 2 else torch.zeros(2)


class Seeds(Principal):
    """Sets the global stream."""

    def intrinsic_dimension(self):
        torch.manual_seed(0)
        return super().intrinsic_dimension()


class Restless(Principal):
    """Answers differently each time it is asked, without a random number."""

    asked = 0

    def intrinsic_dimension(self):
        self.asked += 1
        return torch.tensor(self.asked % 2)


class Switches(Principal):
    def intrinsic_dimension(self):
        self.train()
        return super().intrinsic_dimension()


class SwitchesForRows(Principal):
    def _local(self, x):
        self.train()
        return super()._local(x)


class Remembers(Principal):
    """Rows asked about move the mean."""

    def _local(self, x):
        found = super()._local(x)
        self.mean.copy_(x.mean(dim=0))
        return found


class KnowsTheUnknown(Principal):
    """A number for a row that is none."""

    def local_dimension(self, x):
        check_rows("x", x, self.features, self.mean)
        return self._local(x.nan_to_num(0.0, 0.0, 0.0))


# -- spectra


class Swells(Principal):
    """A buffer grows each time the spectrum is asked for."""

    def spectrum(self):
        return self.variance.mul_(1.1) / NOISE**2


class Roots(Principal):
    """Standard deviations, not variances, over the noise."""

    def spectrum(self):
        return super().spectrum().sqrt()


class RootsInOneChart(Principal):
    """The same as the one row of (K, D)."""

    def spectrum(self):
        return super().spectrum().sqrt()[None]


class Ascending(Principal):
    def spectrum(self):
        return super().spectrum().flip(0)


class Deviations(Principal):
    """Standard deviations, not variances."""

    def spectrum(self):
        return 100 * super().spectrum().sqrt()


class Logarithms(Principal):
    def spectrum(self):
        return (self.variance * 1e-2).log()


class Cut(Principal):
    """Only the values above the noise."""

    def spectrum(self):
        return super().spectrum()[:1]


class Endless(Principal):
    def spectrum(self):
        return super().spectrum() / torch.zeros(())


class OneChart(Charted):
    """The spectrum of one chart, the dimensions of two."""

    def spectrum(self):
        return super().spectrum()[0]

    def intrinsic_dimension(self):
        return torch.tensor([1, 1])


# -- codes


class Projected(Principal):
    """Codes without the columns below the first."""

    def _codes(self, x):
        return super()._codes(x)[:, :1]

    def _log_prob(self, x, evaluation, num_samples, generator):
        return -x.square().sum(dim=1)


class Raw(Principal):
    """Codes are the rows themselves, off the prior."""

    def _codes(self, x):
        return x + 1.0

    def _log_prob(self, x, evaluation, num_samples, generator):
        return -x.square().sum(dim=1)


class Unscaled(Principal):
    """Draws of another prior than the samples are made of."""

    def _sample(self, num, temperature, generator):
        z = torch.randn(num, self.features, generator=generator, dtype=self.mean.dtype)
        return self.mean + 0.5 * temperature * (z * self.variance.sqrt()) @ self.axes.T


class DeafDraws(Principal):
    """Heeds the global stream, not the generator."""

    def sample_codes(self, num, generator=None):
        return super().sample_codes(num)


class FixedDraws(Principal):
    """Repeats itself without a generator."""

    def sample_codes(self, num, generator=None):
        return super().sample_codes(num, generator or torch.Generator().manual_seed(0))


class NegativeCount(Principal):
    def sample_codes(self, num, generator=None):
        return super().sample_codes(abs(num), generator)


class NoDraws(Principal):
    sample_codes = None


class Misspelt(Principal):
    capabilities = frozenset({"spectra"})


FAULTS = [
    (TooMany, "dimension", "intrinsic_dimension: expected numbers in 0..2"),
    (Unknown, "dimension", "intrinsic_dimension: expected numbers in 0..2"),
    (Matrix, "dimension", "expected a number, or one a chart (K,), got shape (2, 2)"),
    (MoreCharts, "dimension", "2 charts, and assign gives 0 to 2"),
    (NobodysCharts, "dimension", "2 charts, and no 'assign' says which"),
    (Seeds, "dimension", "intrinsic_dimension: changes torch's random stream"),
    (OneForAll, "dimension", "local_dimension of 11 rows: expected floating (11,)"),
    (BatchMean, "dimension", "local_dimension: row 0 alone"),
    (Whole, "dimension", "local_dimension of 11 rows: expected floating (11,), got torch.int64"),
    (NoRowFails, "dimension", "IndexError"),
    (Diverges, "dimension", "local_dimension: NaN or infinity in 11 of 11"),
    (Unchecked, "dimension", "bad x: expected ValueError"),
    (Restless, "dimension", "intrinsic_dimension: asked twice, first 1, then 0"),
    (Switches, "dimension", "intrinsic_dimension: switches the model between training and"),
    (SwitchesForRows, "dimension", "local_dimension: switches the model between training and"),
    (Remembers, "dimension", "local_dimension: changes the model's mean"),
    (KnowsTheUnknown, "dimension", "local_dimension of a row with nan: expected ValueError or no"),
    (Swells, "spectrum", "spectrum: changes the model's variance"),
    (Roots, "spectrum", "of the first, the spectrum with the noise in it says"),
    (RootsInOneChart, "spectrum", "of the first, the spectrum with the noise in it says"),
    (Ascending, "spectrum", "expected the largest first"),
    (Deviations, "spectrum", "of the first, the spectrum with the noise in it says"),
    (Logarithms, "spectrum", "expected no negative variance"),
    (Cut, "spectrum", "expected (2,) or (K, 2), got (1,)"),
    (Endless, "spectrum", "spectrum: NaN or infinity"),
    (OneChart, "spectrum", "one a chart: (2,), and intrinsic_dimension (2,)"),
    (Projected, "codes", "codes of 11 rows: expected floating (11, 2)"),
    (Raw, "codes", "codes of samples are not distributed as sample_codes"),
    (Unscaled, "codes", "codes of samples are not distributed as sample_codes"),
    (DeafDraws, "codes", "sample_codes with a generator: changes torch's random stream"),
    (FixedDraws, "codes", "sample_codes: without a generator it repeats itself"),
    (NegativeCount, "codes", "bad num: expected ValueError"),
    (NoDraws, "build", "sample_codes: declared by 'codes', and no method"),
    (Misspelt, "build", "capabilities: expected some of"),
]


@pytest.mark.parametrize(
    "plugin, name, said", FAULTS, ids=lambda v: v.__name__ if isinstance(v, type) else None
)
def test_a_mistake_is_found(plugin, name, said):
    assert_found(plugin, name, said, sizes=[2])


@pytest.mark.parametrize("plugin", [Principal, Charted], ids=lambda one: one.__name__)
def test_what_is_right_passes(plugin):
    for name in ("build", *NEW):
        found = outcome(plugin, name, sizes=[1, 3])
        absent = name == "capabilities" and plugin is Principal
        expected = "skipped" if absent else "passed"
        assert found.status == expected, f"{name}: {found.message}"


def test_what_is_absent_is_skipped_by_name():
    assert set(NEW) <= set(check_names("mixture"))
    for name in NEW[1:]:
        found = outcome(("mixture", "gaussian"), name)
        assert found.status == "skipped" and found.message.startswith("declares no "), found


# -- tasks ----------------------------------------------------------------------------------------


class Union(Task):
    """A line and a plane in space."""

    dimensions = (1, 2)

    def __init__(self) -> None:
        super().__init__(3)

    def splits(self, seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(120, 3, generator=generator, dtype=torch.float64)
        x[:, 1:] *= torch.cat(self.labels(seed))[:, None]
        return Splits(*x.split(40))

    def labels(self, seed):
        return Splits(*(torch.arange(120) % 2).split(40))


class Sheet(Union):
    dimension, dimensions = 2, None


class Nowhere(Union):
    dimensions = None


class OneTooMany(Union):
    dimensions = (1, 2, 2)


class OneTooFew(Union):
    dimensions = (1,)


class Both(Union):
    dimension = 2


class Listed(Union):
    dimensions: ClassVar = [1, 2]


class Wide(Union):
    dimensions = (1, 4)


class NoClasses(Union):
    def splits(self, seed):
        return Splits(*torch.randn(120, 3).double().split(40))

    def labels(self, seed):
        return None


TASK_FAULTS = [
    (OneTooMany, "train labels: expected rows on each of the 3 manifolds"),
    (OneTooFew, "dimensions: expected one for each class, 0 to 1, got (1,)"),
    (Both, "dimension: expected None beside dimensions, got 2"),
    (Listed, "dimensions: expected None or a tuple of 0 to 3, got [1, 2]"),
    (Wide, "dimensions: expected None or a tuple of 0 to 3, got (1, 4)"),
    (NoClasses, "labels: expected the manifold of each row beside dimensions"),
]


@pytest.mark.parametrize(
    "task, said", TASK_FAULTS, ids=lambda v: v.__name__ if isinstance(v, type) else None
)
def test_dimensions_that_do_not_fit_are_found_and_refused(task, said):
    assert_found(task, "dimension", said)
    if task is not OneTooMany:  # a small draw may miss a class
        with pytest.raises(ValueError, match=r"task: (dimensions?|labels): expected"):
            check_task_data(task(), 0)


def test_right_dimensions_pass():
    for task, status in ((Union, "passed"), (Sheet, "passed"), (Nowhere, "skipped")):
        assert outcome(task, "dimension").status == status
        check_task_data(task(), 0)
