"""t-intervals and means over rows, against scipy."""

from math import inf, isnan, nan, sqrt

import numpy as np
import pytest
import scipy.stats
import torch

from flowzoo_bench.metrics import mean_and_t_interval, paired_difference
from flowzoo_bench.metrics.rows import count_non_finite, on_finite_rows, row_mean


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_interval_equals_scipy(n, level):
    values = np.random.default_rng(n).normal(3, 2, n)
    got = mean_and_t_interval(values, level)
    low, high = scipy.stats.t.interval(level, n - 1, values.mean(), scipy.stats.sem(values))
    assert got.mean == pytest.approx(values.mean())
    assert (got.low, got.high) == (pytest.approx(low), pytest.approx(high))
    assert got.n == n


def test_five_values_have_the_textbook_quantile():
    values = [1.0, 2.0, 4.0, 8.0, 16.0]
    half = mean_and_t_interval(values).half_width
    assert half == pytest.approx(2.776 * np.std(values, ddof=1) / sqrt(5), rel=1e-3)


def test_one_value_has_no_interval_and_none_is_refused():
    got = mean_and_t_interval([4.5])
    assert got == (4.5, None, 1) and got.low is None and got.high is None
    with pytest.raises(ValueError, match="at least one"):
        mean_and_t_interval([])
    for level in (0.0, 1.0, 95, nan):
        with pytest.raises(ValueError, match="level"):
            mean_and_t_interval([1.0, 2.0], level)


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_non_finite_values_are_not_hidden(bad):
    got = mean_and_t_interval([1.0, bad, 2.0])
    assert not np.isfinite(got.mean) and isnan(got.half_width) and got.n == 3


def test_paired_difference_is_that_of_the_differences():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 10, 6)  # what replicates have in common cancels
    first, second = shared + rng.normal(1, 0.1, 6), shared + rng.normal(0, 0.1, 6)
    got = paired_difference(first, second)
    assert got == mean_and_t_interval(first - second)
    test = scipy.stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (got.low, got.high) == (pytest.approx(test.low), pytest.approx(test.high))
    assert got.half_width < 0.1 * mean_and_t_interval(first).half_width
    with pytest.raises(ValueError, match="expected 2 values, got 1"):
        paired_difference([1.0, 2.0], [1.0])


def test_row_means():
    values = torch.tensor([1.0, 2.0, 6.0])
    assert row_mean(values).mean == 3
    assert row_mean(values).stderr == pytest.approx(scipy.stats.sem(values.numpy()))
    assert row_mean(values[:1]) == (1, None, 1)
    assert isnan(row_mean(values[:0]).mean)
    assert isnan(row_mean(torch.tensor([1.0, nan])).mean)


def test_non_finite_rows_are_counted_and_left_out_of_functions_only():
    x = torch.tensor([[1.0, 2.0], [nan, inf], [3.0, -inf], [4.0, 5.0]]).double()
    assert count_non_finite(x) == 2 and count_non_finite(x[:, 0]) == 1
    got = on_finite_rows(lambda rows: rows.sum(dim=1), x)
    assert got[[0, 3]].tolist() == [3, 9] and got[[1, 2]].isnan().all()
    assert on_finite_rows(lambda rows: rows.sum(dim=1), x[1:3]).isnan().all()
