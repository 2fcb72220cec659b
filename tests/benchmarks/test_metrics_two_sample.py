"""Sliced Wasserstein and energy distance against closed forms and scipy."""

from math import isnan, nan, pi, sqrt

import pytest
import torch
from scipy.spatial.distance import cdist, pdist
from scipy.stats import energy_distance, wasserstein_distance

from flowzoo.interfaces import Splits, Task, Trained
from flowzoo_bench.metrics import TwoSample
from flowzoo_bench.metrics import two_sample as module
from flowzoo_bench.metrics.two_sample import mean_distance, sliced_wasserstein


def normal(num, features, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, features, generator=generator, dtype=torch.float64)


class Scaled(Task):
    """Normal columns of these standard deviations around 1000."""

    def __init__(self, *stds, rows=400, standardize=False):
        super().__init__(len(stds))
        self.stds = torch.tensor(stds, dtype=torch.float64)
        self.rows, self.standardize = rows, standardize

    def splits(self, seed):
        x = normal(3 * self.rows, self.features, seed) * self.stds + 1000.0
        return Splits(*x.split(self.rows))


def measured(sample, task=None, **options):
    task = task or Scaled(2.0, 2.0, 2.0)
    run = Trained(task, task.splits(0), None, None, sample, 7)
    return {value.name: value for value in TwoSample(**options).compute(run)}


# -- the distances --------------------------------------------------------------------------------


def test_of_a_shift_the_sliced_distance_is_its_length_over_root_d():
    """W2 of a shift m along e is |m . e|, whose mean square is |m|^2 / D."""
    x, shift = normal(50, 5, 0), torch.tensor([3.0, 0.0, -4.0, 0.0, 0.0], dtype=torch.float64)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    found = sliced_wasserstein(x, (x + shift)[order], 20_000)
    assert found == pytest.approx(5 / sqrt(5), rel=0.02)


def test_of_a_scaled_gaussian_the_sliced_distance_is_the_difference_of_the_stds():
    x = normal(4000, 3, 0)
    assert sliced_wasserstein(x, 3 * x, 64) == pytest.approx(2.0, rel=0.05)
    # columns of other stds: along e, W2 is |std(e . x) - std(e . y)|
    stds = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    e = normal(20_000, 3, 2)
    e /= e.norm(dim=1, keepdim=True)
    along = ((e * stds).norm(dim=1) - 1.0).square().mean().sqrt()
    assert sliced_wasserstein(x, normal(4000, 3, 1) * stds, 500) == pytest.approx(
        float(along), rel=0.03
    )


def test_in_one_dimension_it_is_the_distance_of_the_quantiles():
    x, y = normal(300, 1, 0), normal(300, 1, 1).exp()
    expected = (x.sort(dim=0).values - y.sort(dim=0).values).square().mean().sqrt()
    assert sliced_wasserstein(x, y, 3) == pytest.approx(float(expected), rel=1e-12)
    # scipy has W1; W2 of a shift is W1
    shifted = sliced_wasserstein(x, x + 0.7, 3)
    assert shifted == pytest.approx(wasserstein_distance(x[:, 0], x[:, 0] + 0.7), rel=1e-9)
    assert sliced_wasserstein(x, y, 3) >= wasserstein_distance(x[:, 0], y[:, 0])


def test_mean_distances_are_scipys(monkeypatch):
    x, y = normal(70, 4, 0), normal(50, 4, 1) + 2.0
    for values in (module._VALUES, 600):  # in one go, and in pieces of a few rows
        monkeypatch.setattr(module, "_VALUES", values)
        assert mean_distance(x) == pytest.approx(pdist(x).mean(), rel=1e-9)
        assert mean_distance(x, y) == pytest.approx(cdist(x, y).mean(), rel=1e-9)
        assert sliced_wasserstein(x[:50], y, 300) == pytest.approx(2.0, rel=0.2)


def test_in_one_dimension_the_energy_distance_is_scipys_without_its_bias():
    x, y = normal(80, 1, 0), normal(80, 1, 1) + 1.0
    found = 2 * mean_distance(x, y) - mean_distance(x) - mean_distance(y)
    # scipy's is the root of the sum with rows paired with themselves
    biased = 2 * mean_distance(x, y) - (mean_distance(x) + mean_distance(y)) * 79 / 80
    assert energy_distance(x[:, 0], y[:, 0]) ** 2 == pytest.approx(biased, rel=1e-9)
    assert found < biased


# -- the metric -----------------------------------------------------------------------------------


def test_a_good_model_scores_like_training_rows_and_a_bad_one_does_not():
    task = Scaled(2.0, 2.0, 2.0)

    def drawn(width, shift=0.0):
        return measured(lambda num, seed: (normal(num, 3, seed) * width + shift) + 1000.0, task)

    right, wide, aside = drawn(2.0), drawn(4.0), drawn(2.0, 2.0)
    assert set(right) == {"sliced_wasserstein", "energy_distance"}
    for name in right:
        value = right[name]
        assert (value.direction, value.n) == ("min", 400)
        assert wide[name].reference == value.reference  # methods share it
    assert right["sliced_wasserstein"].value < 2 * right["sliced_wasserstein"].reference
    assert abs(right["energy_distance"].value) < 0.02
    # in units of the test rows' spread
    assert wide["sliced_wasserstein"].value == pytest.approx(1.0, rel=0.15)
    assert aside["sliced_wasserstein"].value == pytest.approx(1.0, rel=0.15)
    assert wide["energy_distance"].value > 0.05 and aside["energy_distance"].value > 0.5


def test_a_model_that_draws_the_mean_scores_one():
    got = measured(lambda num, seed: torch.full((num, 3), 1000.0))
    assert got["sliced_wasserstein"].value == pytest.approx(1.0, abs=0.1)
    # 2 E|X| - E|X - X'| with |X| of three columns of std 1: 2 sqrt(8 / pi) - sqrt(2) sqrt(8 / pi)
    assert got["energy_distance"].value == pytest.approx((2 - sqrt(2)) * sqrt(8 / pi), rel=0.05)


def test_the_unbiased_distance_of_equal_distributions_is_zero_on_average():
    values = [
        measured(lambda num, seed, k=k: normal(num, 2, 100 + k) + 1000.0, Scaled(1.0, 1.0, rows=20))
        for k in range(200)
    ]
    found = torch.tensor([value["energy_distance"].value for value in values])
    # the same test rows each time: they alone decide what is left of the mean
    test = Scaled(1.0, 1.0, rows=20).splits(0).test - 1000.0
    scale = (test - test.mean(dim=0)).square().mean().sqrt()
    many = normal(20_000, 2, 9)
    left = 2 * cdist(many, test).mean() - cdist(many[:3000], many[3000:6000]).mean()
    left = (left - pdist(test).mean()) / float(scale)
    assert float(found.mean()) == pytest.approx(left, abs=4 * float(found.std()) / sqrt(200))


def test_columns_of_all_units_count_where_models_see_them_scaled():
    """The small column is wrong: seen only where columns are scaled."""

    def sample(num, seed):
        return normal(num, 2, seed) * torch.tensor([50.0, 0.3]) + 1000.0

    raw = measured(sample, Scaled(50.0, 0.1))
    scaled = measured(sample, Scaled(50.0, 0.1, standardize=True))
    assert raw["sliced_wasserstein"].value < 1.5 * raw["sliced_wasserstein"].reference
    assert scaled["sliced_wasserstein"].value > 5 * scaled["sliced_wasserstein"].reference


def test_fewest_rows_decide_and_nothing_is_hidden():
    def broken(num, seed):
        x = normal(num, 2, seed)
        x[1, 0] = nan
        return x

    assert measured(broken, Scaled(1.0, 1.0), num_samples=50)["energy_distance"].n == 50
    assert all(isnan(value.value) for value in measured(broken, Scaled(1.0, 1.0)).values())
    assert measured(broken, Scaled(1.0, 1.0, rows=1)) == {}
    assert measured(broken, Scaled(0.0, 0.0)) == {}
    with pytest.raises(ValueError, match="sample: expected shape"):
        measured(lambda num, seed: normal(num, 3, seed), Scaled(1.0, 1.0))
    for name in ("num_samples", "projections"):
        with pytest.raises(ValueError, match=name):
            TwoSample(**{name: 0})
