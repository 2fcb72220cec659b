"""Weighted draws: blocks join, the bias estimate is right, memory does not grow."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flowzoo.importance import BLOCK, NUMBERS, Weights, weighted_draws

F64 = torch.float64


@pytest.mark.parametrize("groups", [1, 3, 10])
def test_blocks_join_to_the_whole(groups):
    values, log_weight = torch.randn(3, 10, 2, dtype=F64), torch.randn(3, 10, dtype=F64)
    whole = Weights.of(values, log_weight, groups)
    joined = None
    for a, b in ((0, 4), (4, 5), (5, 10)):
        part = Weights.of(values[:, a:b], log_weight[:, a:b], groups, a)
        joined = part if joined is None else joined.plus(part)
    for found, expected in zip(joined, whole, strict=True):
        torch.testing.assert_close(found, expected)
    w = log_weight.exp()
    torch.testing.assert_close(whole.mean, (w[..., None] * values).sum(1) / w.sum(1)[:, None])
    torch.testing.assert_close(whole.effective_sample_size(), w.sum(1).square() / w.square().sum(1))
    torch.testing.assert_close(whole.log_mean(), w.mean(1).log())
    torch.testing.assert_close(whole.mean_log(), log_weight.mean(1))
    for group in range(groups):
        torch.testing.assert_close(whole.log_sums[:, group].exp(), w[:, group::groups].sum(1))


def test_draws_are_taken_in_bounded_blocks():
    sizes = []

    def weigh(y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(noise.shape[0] * noise.shape[1])
        return noise, y[:, :1].expand(noise.shape[:2])

    cases = [(1000, NUMBERS // 1000, 400), (1, BLOCK, 400), (NUMBERS, 1, 5), (10 * NUMBERS, 1, 5)]
    for numbers, limit, rows in cases:
        sizes.clear()
        y = torch.arange(float(rows))[:, None]
        found = weighted_draws(weigh, y, 2, 70, numbers_per_draw=numbers)
        assert max(sizes) <= limit
        assert sum(sizes) == rows * 70
        torch.testing.assert_close(found.total, 70 * y[:, 0])
        torch.testing.assert_close(found.log_mean(), y[:, 0])


def test_blocks_are_as_large_for_few_draws_as_for_many():
    largest = []
    for num_samples in (10, 100, 1000):
        sizes = []

        def weigh(y: Tensor, noise: Tensor, sizes: list[int] = sizes) -> tuple[Tensor, Tensor]:
            sizes.append(noise.shape[0] * noise.shape[1])
            return noise, y[:, :1].expand(noise.shape[:2])

        weighted_draws(weigh, torch.zeros(2000, 43), 5, num_samples)
        largest.append(max(sizes))
    assert max(largest) <= 1.05 * min(largest)


@pytest.mark.parametrize("num_samples", [20, 37, 60])
def test_bias_estimate_matches_the_bias(num_samples):
    """Weights exp(t e - t^2 / 2), e ~ N(0, 1): log of their mean is 0, of S draws it is too low."""
    width = 0.7

    def weigh(y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return noise, width * noise[..., 0] - width**2 / 2

    rows = torch.zeros(40_000, 1, dtype=F64)
    seed = torch.Generator().manual_seed(0)
    found = weighted_draws(weigh, rows, 1, num_samples, generator=seed).estimate()
    error = found.log_prob.std() / len(rows) ** 0.5
    truth = found.log_prob.mean()  # against 0
    assert truth < -5 * error
    first_order = -(math.exp(width**2) - 1) / (2 * num_samples)
    assert found.bias.mean() == pytest.approx(first_order, rel=0.25)
    assert abs(found.bias.mean() - truth) < 0.25 * abs(truth) + 3 * error


def test_one_draw_has_no_bias_estimate():
    def weigh(y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return noise, noise[..., 0]

    one = weighted_draws(weigh, torch.zeros(3, 1), 1, 1).estimate()
    assert one.bias.isnan().all()
    assert torch.equal(one.effective_sample_size, torch.ones(3))
    assert weighted_draws(weigh, torch.zeros(3, 1), 1, 2).estimate().bias.isfinite().all()
    empty = weighted_draws(weigh, torch.zeros(0, 1), 1, 7).estimate()
    assert [len(each) for each in empty] == [0, 0, 0]


def test_refuses_no_draws():
    with pytest.raises(ValueError, match="num_samples"):
        weighted_draws(lambda y, e: (e, e[..., 0]), torch.zeros(3, 1), 1, 0)
