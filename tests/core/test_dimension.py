"""Dimension estimators: closed forms, planted answers, and scikit-dimension where installed."""

import math
import warnings

import numpy as np
import pytest
import torch

from flowzoo.dimension import (
    harmonic_mean,
    levina_bickel,
    lidl,
    nearest_distances,
    rank_of_spectrum,
    two_nn,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def sphere(rows, dim, features, seed=0):
    """Uniform on the unit d-sphere, turned into R^D."""
    x = torch.nn.functional.normalize(randn(rows, dim + 1, seed=seed), dim=1)
    turn = torch.linalg.qr(randn(features, features, seed=seed + 1)).Q
    return x @ turn[: dim + 1]


def swiss_roll(rows=600, seed=0):
    u = torch.rand(rows, 2, generator=generator(seed), dtype=torch.float64)
    angle = 1.5 * math.pi * (1 + 2 * u[:, 0])
    return torch.stack([angle * angle.cos(), 20 * u[:, 1], angle * angle.sin()], dim=1)


# --- neighbours --------------------------------------------------------------------------------


def test_nearest_distances_equal_a_tree(monkeypatch):
    from scipy.spatial import cKDTree

    monkeypatch.setattr("flowzoo.dimension.neighbours._NUMBERS", 1000)  # many chunks
    x, other = 1e4 + randn(150, 4), 1e4 + randn(70, 4, seed=1)
    tree, _ = cKDTree(x.numpy()).query(x.numpy(), 6)
    np.testing.assert_allclose(nearest_distances(x, 5).numpy(), tree[:, 1:], rtol=1e-12)
    tree, _ = cKDTree(other.numpy()).query(x.numpy(), 70)
    np.testing.assert_allclose(nearest_distances(x, 70, other).numpy(), tree, rtol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("distinct", [False, True])
def test_many_columns_are_screened_without_losing_a_neighbour(monkeypatch, offset, distinct):
    x = offset + randn(200, 30)
    x[50:70] = x[:20] + 1e-9 * (1 + offset) * randn(20, 30, seed=1)  # nearer than a product can see
    x[100:115] = x[99]  # more copies than spare candidates
    found = nearest_distances(x, 4, distinct=distinct), nearest_distances(x[:90], 4, x)
    monkeypatch.setattr("flowzoo.dimension.neighbours._SCREENED", 10**9)
    direct = nearest_distances(x, 4, distinct=distinct), nearest_distances(x[:90], 4, x)
    torch.testing.assert_close(found, direct, rtol=1e-12, atol=0)
    assert bool((found[0][99:115] == 0).all()) is not distinct


def test_copies_are_neighbours_unless_distinct_ones_are_asked_for():
    x = torch.tensor([[0.0], [0.0], [1.0], [5.0]])
    assert nearest_distances(x, 2).tolist() == [[0, 1], [0, 1], [1, 1], [4, 5]]
    assert nearest_distances(x, 2, distinct=True).tolist() == [[1, 5], [1, 5], [1, 1], [4, 5]]
    assert nearest_distances(x[2:3], 1, x, distinct=True).tolist() == [[1.0]]
    with pytest.raises(ValueError, match="x: expected 3 rows apart"):
        nearest_distances(x, 3, distinct=True)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(5), "x: expected shape"),
        (torch.zeros(5, 2, dtype=torch.int64), "x: expected a floating dtype"),
        (torch.full((5, 2), torch.nan), "x: expected finite values"),
        (torch.zeros(2, 2), "x: expected at least 3 rows"),
    ],
)
def test_bad_rows_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        two_nn(x)


# --- TwoNN and Levina-Bickel -------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "features"), [(1, 3), (2, 5), (4, 16)])
def test_both_find_the_dimension_of_spheres_whatever_the_scale(dim, features):
    x = sphere(1500, dim, features)
    found = two_nn(x), float(harmonic_mean(levina_bickel(x)))
    assert found == pytest.approx((dim, dim), rel=0.1)
    scaled = 1e5 * x
    again = two_nn(scaled), float(harmonic_mean(levina_bickel(scaled)))
    assert again == pytest.approx(found, rel=1e-9)


def test_levina_bickel_of_distances_known_in_closed_form():
    # rows at distance j^(1/d) from the origin: sum_j log(k / j) / d is what the mean holds
    dim, k = 3.0, 12
    radius = torch.arange(1, 40, dtype=torch.float64) ** (1 / dim)
    points = torch.cat([radius, -(radius + 100)])[:, None] * torch.tensor([[0.6, 0.8]])
    j = torch.arange(1, k, dtype=torch.float64)
    expected = dim / (math.log(k) - j.log()).mean()
    found = levina_bickel(torch.zeros(1, 2, dtype=torch.float64), k, points)
    torch.testing.assert_close(found, expected[None], rtol=1e-12, atol=0)


def test_local_dimensions_tell_a_curve_from_a_surface():
    line = torch.cat([randn(400, 1), torch.zeros(400, 2, dtype=torch.float64)], dim=1)
    plane = torch.cat([randn(800, 2, seed=1), torch.full((800, 1), 30.0)], dim=1)
    local = levina_bickel(torch.cat([line, plane]))
    assert float(harmonic_mean(local[:400])) == pytest.approx(1, abs=0.1)
    assert float(harmonic_mean(local[400:])) == pytest.approx(2, abs=0.15)


def test_copies_leave_the_dimension_as_it_is():
    x = sphere(600, 2, 3)
    doubled = torch.cat([x, x[:30]])
    kept = two_nn(x[30:])  # rows with copies have no ratio
    assert two_nn(doubled) == pytest.approx(kept, rel=0.1)
    assert levina_bickel(torch.cat([x, x[:1]]))[0] == pytest.approx(float(levina_bickel(x)[0]))
    assert levina_bickel(x, among=x).tolist() == levina_bickel(x).tolist()  # finds itself


def test_equal_distances_are_infinite_dimensions():
    corners = torch.eye(12, dtype=torch.float64)  # every row as far from every other
    assert two_nn(corners) == math.inf
    assert bool(levina_bickel(corners, 5).isinf().all())


def test_single_precision_rows_are_measured_in_double():
    x = sphere(500, 2, 3).float()
    assert two_nn(x) == two_nn(x.double())
    assert levina_bickel(x).dtype == torch.float64


def test_options_out_of_range_are_refused():
    x = randn(30, 2)
    for discard in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="discard: expected"):
            two_nn(x, discard)
    with pytest.raises(ValueError, match="at least 2 ratios"):
        two_nn(x, 0.95)
    with pytest.raises(ValueError, match="neighbours: expected at least 2"):
        levina_bickel(x, 1)
    with pytest.raises(ValueError, match="local: expected at least one"):
        harmonic_mean(torch.zeros(0))


def test_both_equal_scikit_dimension():
    # two warnings of its own: numba compiles without a cache, and it drops copies aloud
    skdim = pytest.importorskip("skdim", reason="scikit-dimension is an optional extra")
    doubled = torch.cat([sphere(400, 2, 5), sphere(400, 2, 5)[:7]])
    sets = [sphere(500, 3, 8), swiss_roll(), sphere(400, 5, 40), randn(300, 2), doubled]
    for x in sets:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for discard in (0.1, 0.35):
                theirs = skdim.id.TwoNN(discard_fraction=discard).fit(x.numpy()).dimension_
                assert two_nn(x, discard) == pytest.approx(theirs, rel=1e-6)
            if x is doubled:
                continue  # a copy makes its dimension 0 there
            for k in (5, 20):
                reference = skdim.id.MLE().fit(x.numpy(), n_neighbors=k)
                local = levina_bickel(x, k)
                np.testing.assert_allclose(local.numpy(), reference.dimension_pw_, rtol=1e-6)
                assert float(harmonic_mean(local)) == pytest.approx(reference.dimension_, rel=1e-6)


# --- LIDL --------------------------------------------------------------------------------------


def smoothed(level, spread, x):
    """log N(x; 0, diag(spread^2) + level^2 I)."""
    variance = spread**2 + level**2
    return -0.5 * (x.square() / variance + (2 * math.pi * variance).log()).sum(dim=1)


def test_lidl_of_exact_densities_is_the_dimension():
    spread = torch.tensor([1.0, 2.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    levels = torch.logspace(-3, -2, 6, dtype=torch.float64)
    x = spread * randn(50, 5)
    log_probs = torch.stack([smoothed(level, spread, x) for level in levels])
    torch.testing.assert_close(
        lidl(log_probs, levels, 5), torch.full((50,), 2.0, dtype=torch.float64), rtol=0, atol=1e-3
    )
    # noise far wider than the data sees a point
    wide = torch.stack(
        [smoothed(100 * level, spread[:1] / 1e4, x[:, :1] / 1e4) for level in levels]
    )
    assert float(lidl(wide, levels, 1).mean()) == pytest.approx(0, abs=1e-2)


def test_lidl_is_the_least_squares_slope():
    levels = torch.tensor([0.01, 0.02, 0.05, 0.3], dtype=torch.float64)
    log_probs = randn(4, 7)
    slope = np.polyfit(levels.log().numpy(), log_probs.numpy(), 1)[0]
    np.testing.assert_allclose(lidl(log_probs, levels, 9).numpy(), 9 + slope, rtol=1e-10)
    log_probs[2, 1] = torch.nan
    assert lidl(log_probs, levels, 9).isnan().tolist() == [i == 1 for i in range(7)]


@pytest.mark.parametrize(
    "levels", [[], [0.1], [0.1, 0.1], [0.0, 0.1], [-1.0, 0.1], [0.1, torch.inf]]
)
def test_lidl_refuses_levels_without_a_slope(levels):
    with pytest.raises(ValueError, match="noise_levels: expected"):
        lidl(torch.zeros(len(levels), 3), torch.tensor(levels), 2)


def test_lidl_refuses_shapes_that_do_not_match():
    with pytest.raises(ValueError, match=r"log_probs: expected \(S, N\)"):
        lidl(torch.zeros(3, 4), torch.tensor([0.1, 0.2]), 2)


# --- spectra -----------------------------------------------------------------------------------


def dimension(values, floor):
    return rank_of_spectrum(torch.as_tensor(values), floor).dimension.tolist()


@pytest.mark.parametrize("dim", [1, 2, 7, 15, 16])
@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-8])
def test_planted_spectra_whatever_the_noise_and_the_scale(dim, noise):
    spread = torch.linspace(0.5, 2.0, dim, dtype=torch.float64)
    left = 0.3 * noise * torch.rand(16 - dim, generator=generator(), dtype=torch.float64)
    values = torch.cat([left, spread])  # in no order
    found = rank_of_spectrum(values, noise)
    assert (int(found.dimension), int(found.above)) == (dim, dim)
    assert float(found.gap) == pytest.approx(math.log(0.5 / noise))
    for scale in (1e-6, 1e6):
        again = rank_of_spectrum(scale * values, scale * noise)
        assert int(again.dimension) == dim
        torch.testing.assert_close(again.gap, found.gap)
        torch.testing.assert_close(again.margin, found.margin)


def test_the_answer_is_the_count_that_most_scales_see():
    values = torch.tensor([3.0, 1.0, 0.4, 2e-3, 1e-3, 1e-4], dtype=torch.float64)
    floor = 1e-5
    edges = 0.5 * math.log(floor), 0.5 * math.log(3.0)
    log_scale = torch.linspace(*edges, 20001, dtype=torch.float64)[:-1]
    counts = (values[:, None] > (2 * log_scale).exp()).sum(dim=0)
    seen = torch.bincount(counts)
    found = rank_of_spectrum(values, floor)
    assert int(found.dimension) == int(seen.argmax()) == 3
    step = float(log_scale[1] - log_scale[0])
    assert float(found.gap) / 2 == pytest.approx(int(seen.max()) * step, abs=2 * step)
    second = int(seen.sort(descending=True).values[1])
    assert float(found.margin) / 2 == pytest.approx((int(seen.max()) - second) * step, abs=3 * step)


def test_noise_left_above_the_floor_does_not_count():
    noise = 1e-4
    left = noise * torch.linspace(0.1, 3.0, 12, dtype=torch.float64)
    found = rank_of_spectrum(torch.cat([torch.ones(3, dtype=torch.float64), left]), noise)
    assert int(found.dimension) == 3 and int(found.above) > 3
    # nothing but such noise: whatever is said, it rests on next to nothing
    assert float(rank_of_spectrum(left, noise).gap) < 1


def test_no_signal_is_no_dimension():
    for values in ([0.0, 0.0], [1e-5, -1e-12], [1e-4, 1e-4]):
        found = rank_of_spectrum(torch.tensor(values, dtype=torch.float64), 1e-4)
        assert [x.item() for x in found] == [0, 0.0, 0.0, 0]


def test_an_even_fall_counts_all_and_says_that_nothing_sets_them_apart():
    values = 2.0 ** -torch.arange(0, 20, dtype=torch.float64)
    found = rank_of_spectrum(values, 2.0**-10)
    assert (int(found.dimension), float(found.margin)) == (10, pytest.approx(0, abs=1e-12))
    found = rank_of_spectrum(values.float(), 2.0**-10)
    assert (int(found.dimension), float(found.margin)) == (10, pytest.approx(0, abs=1e-6))


def test_growing_a_direction_never_takes_one_away():
    # one eigenvalue rises from below the noise to the size of the others: 2, then 3, once
    answers = [dimension([1.0, 0.5, tiny, 1e-9], 1e-6) for tiny in np.logspace(-9, 0, 200)]
    assert answers[0] == 2 and answers[-1] == 3
    assert answers == sorted(answers)
    # it counts once it is nearer to the others than to the noise
    assert answers[np.searchsorted(np.logspace(-9, 0, 200), 0.9 * math.sqrt(0.5e-6))] == 2
    assert answers[np.searchsorted(np.logspace(-9, 0, 200), 1.2 * math.sqrt(0.5e-6))] == 3


def test_many_spectra_at_once_are_each_as_alone():
    values = torch.tensor([[1.0, 1e-9, 0.0], [1.0, 2.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    floor = torch.tensor([1e-4, 1e-3, 1e-2, 1.0])
    found = rank_of_spectrum(values, floor)
    assert found.dimension.tolist() == [1, 2, 3, 0]
    for k in range(4):
        for both, alone in zip(found, rank_of_spectrum(values[k], float(floor[k])), strict=True):
            torch.testing.assert_close(both[k], alone)
    assert rank_of_spectrum(values, 0.5).dimension.tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize(
    ("values", "floor", "message"),
    [
        (torch.ones(2, 2, 2), 1.0, "values: expected floating"),
        (torch.ones(2, 0), 1.0, "values: expected floating"),
        (torch.ones(2, dtype=torch.int64), 1.0, "values: expected floating"),
        (torch.tensor([1.0, torch.nan]), 1.0, "values: expected finite"),
        (torch.ones(2), 0.0, "floor: expected finite numbers > 0"),
        (torch.ones(2), math.nan, "floor: expected finite numbers > 0"),
        (torch.ones(3, 2), torch.ones(2), "floor: expected a number or"),
    ],
)
def test_bad_spectra_are_refused(values, floor, message):
    with pytest.raises(ValueError, match=message):
        rank_of_spectrum(values, floor)
