"""Generators, switches, splits and bad input of the ten 3-D sets."""

import numpy as np
import pytest
import torch

from flowzoo_bench.tasks import (
    BentLissajous,
    DisjointCircles,
    Helix,
    InterlockedCircles,
    Knotted,
    Lissajous,
    NonKnotted,
    Spherical,
    Star,
    TwistedEight,
)

CURVES = [
    Helix,
    Lissajous,
    TwistedEight,
    Knotted,
    InterlockedCircles,
    NonKnotted,
    BentLissajous,
    DisjointCircles,
    Star,
]
ALL = [Spherical, *CURVES]


@pytest.mark.parametrize("cls", ALL)
def test_splits_have_the_papers_sizes_and_depend_on_the_seed_alone(cls):
    task = cls()
    first, again, other = task.splits(5), cls().splits(5), task.splits(6)
    assert [len(x) for x in first] == [5000, 2500, 2500]
    for x, y, z in zip(first, again, other, strict=True):
        assert x.dtype == torch.float64 and x.shape[1] == task.features == 3
        assert torch.isfinite(x).all()
        assert torch.equal(x, y)
        assert not torch.equal(x, z)
    assert task.standardize is False
    rows = torch.cat(first)
    assert len(rows.unique(dim=0)) == len(rows)


@pytest.mark.parametrize("cls", ALL)
def test_splits_leave_global_random_state_alone(cls):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    cls().splits(0)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()


@pytest.mark.parametrize("cls", ALL)
def test_shuffled_before_the_split(cls):
    train, _, test = cls().splits(0)
    # an unshuffled union of curves, or a grid in theta, would put other places in the test rows
    spread = torch.cat([train, test]).std(dim=0)
    shift = (train.mean(dim=0) - test.mean(dim=0)).abs()
    assert (shift < 0.1 * spread + 1e-3).all()


def test_union_counts_are_inside_the_total():
    assert Star().component_counts(10000) == (3334, 3333, 3333)
    assert TwistedEight().component_counts(10000) == (5000, 5000)
    x = torch.cat(Star().splits(0))
    far = x.abs() > 0.1
    counts = [int((far[:, k] & (far.sum(dim=1) == 1)).sum()) for k in range(3)]
    # 6.4 % of an arcsine variable lies within 0.1 of 0
    assert all(count == pytest.approx(3333 * 0.936, abs=60) for count in counts)


def test_printed_bent_lissajous_is_planar_and_the_intended_one_is_not():
    printed, intended = (BentLissajous(printed=p).splits(0).train for p in (True, False))
    assert float((printed[:, 1] - printed[:, 2]).std()) == pytest.approx(0.01 * 2**0.5, rel=0.05)
    residual = intended[:, 2] - (2 * intended[:, 1] ** 2 - 1)
    assert float(residual.std()) < 0.05
    assert float((intended[:, 1] - intended[:, 2]).std()) > 0.5


def test_printed_disjoint_circles_hold_a_segment_and_fixed_ones_do_not():
    printed, fixed = (DisjointCircles(fixed=f).splits(0).train for f in (False, True))
    assert float((printed[:, 1] - printed[:, 2]).std()) == pytest.approx(0.01 * 2**0.5, rel=0.05)
    off_diagonal = [float((x[:, 0] - x[:, 1])[x[:, 0] < 0].abs().mean()) for x in (printed, fixed)]
    assert off_diagonal[0] < 0.02 and off_diagonal[1] > 0.5


def test_grid_is_even_in_theta_with_both_ends():
    x = torch.cat(Helix(grid=True, noise=1e-9).splits(0))[:, 0].sort().values
    expected = torch.linspace(0, 8 * torch.pi, 10000, dtype=torch.float64)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-7)
    drawn = torch.cat(Helix(noise=1e-9).splits(0))[:, 0].sort().values
    assert float((drawn - expected).abs().max()) > 0.05


@pytest.mark.parametrize("cls", [Helix, Spherical])
def test_bootstrap_leaks_the_share_that_it_says(cls):
    def leaked(task):
        train, _, test = task.splits(0)
        seen = {tuple(row) for row in train.tolist()}
        return np.mean([tuple(row) in seen for row in test.tolist()])

    assert leaked(cls(bootstrap=True)) == pytest.approx(1 - (1 - 1e-4) ** 5000, abs=0.03)
    assert leaked(cls()) == 0


def test_noise_is_a_standard_deviation():
    x = Lissajous(noise=0.05).splits(0).train
    assert float(x[:, 1].std()) == pytest.approx(0.05, rel=0.05)
    assert Lissajous(noise=0.05).noise_scale == 0.05
    radius = Spherical(noise=0.02).splits(0).train.norm(dim=1)
    assert float(radius.std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_train", 0),
        ("num_valid", -1),
        ("num_test", 2.5),
        ("noise", -0.1),
        ("noise", float("nan")),
        ("noise", float("inf")),
        ("noise", "0.1"),
    ],
)
def test_bad_options_are_named(cls, option, value):
    with pytest.raises(ValueError, match=option):
        cls(**{option: value})


def test_curves_refuse_no_noise():
    with pytest.raises(ValueError, match="noise: expected > 0"):
        Helix(noise=0.0)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0"])
def test_bad_seeds_are_named(seed):
    with pytest.raises(ValueError, match="seed"):
        Helix().splits(seed)


@pytest.mark.parametrize("method", ["log_prob", "distance"])
@pytest.mark.parametrize("cls", [Helix, Spherical])
def test_bad_rows_are_named(cls, method):
    call = getattr(cls(), method)
    with pytest.raises(ValueError, match=r"\(N, 3\)"):
        call(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="floating"):
        call(torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="1 of 2 rows"):
        call(torch.tensor([[0.0, 0, 0], [float("nan"), 0, 0]]))
    with pytest.raises(TypeError):
        call([[0.0, 0, 0]])
