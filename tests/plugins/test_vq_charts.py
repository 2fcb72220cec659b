"""Charts, weights and frames of the VQ plugin, each on its own."""

import pytest
import torch

from flowzoo_plugins.vq_flows.charts import (
    ActiveCharts,
    active_charts,
    choose,
    uniform_from_normal,
)
from flowzoo_plugins.vq_flows.frames import ChartFrames
from flowzoo_plugins.vq_flows.weights import (
    ChartWeights,
    choice_probabilities,
    consistent_weights,
    membership_weights,
)


def distances(rows=200, charts=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, charts, generator=generator, dtype=torch.float64)


def membership(active, charts):
    """(N, K) bool."""
    out = torch.zeros(len(active.index), charts, dtype=torch.bool)
    return out.scatter(1, active.index, active.present())


# -- charts -------------------------------------------------------------------------------------


def test_one_chart_and_no_margin_is_a_partition_even_with_ties():
    d = distances()
    d[:50] = d[:50].round(decimals=0)  # zeros and ones: ties everywhere
    d[0] = 0.5  # all equal
    inside = membership(active_charts(d, 1), 7)
    assert (inside.sum(dim=1) == 1).all()
    assert active_charts(d, 1).nearest.equal(d.argmin(dim=1))
    assert active_charts(d, 1).nearest[0] == 0


@pytest.mark.parametrize("overlap", [1, 3, 7])
def test_overlap_takes_the_nearest_charts(overlap):
    d = distances()
    inside = membership(active_charts(d, overlap), 7)
    bound = d.sort(dim=1).values[:, overlap - 1 : overlap]
    assert inside.equal(d <= bound)


@pytest.mark.parametrize(("overlap", "margin"), [(1, 0.5), (2, 0.1), (3, 10.0)])
def test_margin_widens_charts_by_the_rule_of_the_paper(overlap, margin):
    d = distances()
    active = active_charts(d, overlap, margin)
    bound = (1 + margin) * d.sort(dim=1).values[:, overlap - 1 : overlap]
    assert membership(active, 7).equal(d <= bound)
    capped = active_charts(d, overlap, margin, max_active=4)
    assert capped.index.shape == (200, 4)
    allowed = d <= d.sort(dim=1).values[:, 3:4]
    assert membership(capped, 7).equal((d <= bound) & allowed)


def test_margin_keeps_exact_ties_and_a_zero_distance():
    active = active_charts(torch.tensor([[1.0, 1.0, 3.0], [0.0, 1.0, 2.0]]), 1, 0.5)
    assert membership(active, 3).tolist() == [[True, True, False], [True, False, False]]


def test_contains_asks_for_each_rows_own_chart():
    active = active_charts(torch.tensor([[1.0, 2.0, 9.0], [1.0, 2.0, 9.0]]), 1, 1.5)
    assert active.contains(torch.tensor([1, 2])).tolist() == [True, False]


def test_a_nan_row_still_has_its_first_chart():
    active = active_charts(torch.full((1, 3), torch.nan), 2, 0.5)
    assert active.present().tolist() == [[True, False, False]]


def test_choose_follows_the_probabilities_and_never_takes_a_zero():
    probabilities = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0], dtype=torch.float64)
    u = torch.linspace(0, 1 - 1e-12, 10_001, dtype=torch.float64)
    counts = choose(probabilities.expand(len(u), -1), u).bincount(minlength=6).double() / len(u)
    assert torch.allclose(counts, probabilities, atol=2e-4)
    # float32 cumulative sums miss 1: the largest u must still hit a possible column
    odd = torch.tensor([[0.1] * 7 + [0.3, 0.0]])
    assert choose(odd, uniform_from_normal(torch.tensor([40.0]))).item() == 7
    assert choose(odd, uniform_from_normal(torch.tensor([-40.0]))).item() == 0


def test_charts_and_choice_run_under_vmap():
    d = torch.stack([distances(seed=0), distances(seed=1)])
    u = torch.rand(2, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def pick(own, uniform):
        active = active_charts(own, 2, 0.3, max_active=5)
        q = choice_probabilities(active, torch.arange(7.0, dtype=torch.float64))
        return active.index.gather(1, choose(q, uniform)[:, None])

    packed = torch.func.vmap(pick)(d, u)
    assert packed.equal(torch.stack([pick(d[0], u[0]), pick(d[1], u[1])]))


# -- weights ------------------------------------------------------------------------------------


def line_of_three(rows=120_000):
    """The 1-D toy of issue B7: charts 1 and 2 hold five sixths of the rows, 2 and 3 the rest."""
    left = torch.tensor([[1.0, 2.0, 9.0]]).repeat(5 * rows // 6, 1)
    right = torch.tensor([[9.0, 2.0, 1.0]]).repeat(rows // 6, 1)
    return active_charts(torch.cat([left, right]).double(), 2)


def test_membership_and_consistent_weights_of_the_toy():
    active = line_of_three()
    p = membership_weights(active, 3)
    assert torch.allclose(p, torch.tensor([0.417, 0.5, 0.083], dtype=torch.float64), atol=5e-4)
    pi = consistent_weights(active, p)
    # reference_methods.md B7 prints (.380, .597, .024); these are the exact numbers
    exact = torch.tensor([25 / 66, 46 / 77, 1 / 42], dtype=torch.float64)
    assert torch.allclose(pi, exact, atol=1e-12)
    assert torch.allclose(pi, torch.tensor([0.380, 0.597, 0.024], dtype=torch.float64), atol=2e-3)


def test_membership_is_the_papers_running_mean():
    active = active_charts(distances(), 2, 0.2)
    inside = membership(active, 7).double()
    r = torch.zeros(7, dtype=torch.float64)
    for n, row in enumerate(inside, start=1):
        r = (n - 1) / n * r + row / n
    assert torch.allclose(membership_weights(active, 7), r / r.sum(), atol=1e-12)


def test_the_toys_consistent_weights_rebuild_the_density_and_eq_14_does_not():
    """Components fitted to q(k|x) p(x), mixed by pi, are p; mixed by eq. 14 they are not."""
    active = line_of_three(1200)
    p = membership_weights(active, 3)
    q = torch.zeros(1200, 3, dtype=torch.float64).scatter(
        1, active.index, choice_probabilities(active, p)
    )
    data = torch.full((1200,), 1 / 1200, dtype=torch.float64)
    components = q * data[:, None] / (q * data[:, None]).sum(dim=0)
    consistent = components @ consistent_weights(active, p)
    assert torch.allclose(consistent, data, atol=1e-12)
    divergence = (data * (data / (components @ p)).log()).sum()
    assert divergence.item() == pytest.approx(4.27e-3, rel=0.02)


def test_consistent_agrees_with_eq_14_for_a_partition():
    active = active_charts(distances(), 1)
    p = membership_weights(active, 7)
    assert torch.allclose(consistent_weights(active, p), p, atol=1e-12)


@pytest.mark.parametrize("kind", ["membership", "consistent", "learned"])
def test_a_dead_chart_leaves_everything_finite_but_its_own_weight(kind):
    weights = ChartWeights(4, kind).double()
    weights.fit(line_of_three(600))  # chart 3 of 4 has no rows
    log_prob = weights.log_prob()
    assert log_prob.exp().sum().item() == pytest.approx(1.0)
    assert torch.isfinite(log_prob[3]).item() == (kind == "learned")
    assert torch.isfinite(weights.floored_log_prob()).all()


def test_choice_of_a_row_with_dead_charts_only_is_even():
    active = ActiveCharts(torch.tensor([[2, 3], [0, 3]]), None)
    q = choice_probabilities(active, torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert q.tolist() == [[0.5, 0.5], [1.0, 0.0]]


def test_unknown_weights_are_refused():
    with pytest.raises(ValueError, match=r"weights: expected one of .*'learned'.* got 'best'"):
        ChartWeights(3, "best")


# -- frames -------------------------------------------------------------------------------------


def two_blobs(rows=400):
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    thin = noise * torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)
    chart = torch.arange(rows) % 2
    return thin + 5.0 * chart[:, None], chart


def test_frames_whiten_each_chart_with_inflated_covariance():
    x, chart = two_blobs()
    frames = ChartFrames(3, 2, inflation=1.6).double()
    frames.fit(x, chart)
    z, volume = frames.encode(x, chart)
    for k in range(2):
        own = z[chart == k]
        assert torch.allclose(own.mean(dim=0), torch.zeros(3, dtype=torch.float64), atol=1e-9)
        expected = torch.eye(3, dtype=torch.float64) / 1.6
        assert torch.allclose(own.T @ own / len(own), expected, atol=1e-8)
    back = frames.decode(z, chart)
    assert torch.allclose(back.value, x, atol=1e-10)
    assert volume.equal(back.log_abs_det)
    jacobian = torch.autograd.functional.jacobian(
        lambda row: frames.encode(row[None], chart[:1]).value[0], x[0]
    )
    assert torch.allclose(torch.linalg.slogdet(jacobian).logabsdet, volume[0])


def test_shrinkage_mixes_in_the_mean_variance():
    x, chart = two_blobs()
    frames = ChartFrames(3, 2, inflation=1.0, shrinkage=1.0).double()
    frames.fit(x, chart)
    own = x[chart == 0]
    sphere = (own - own.mean(dim=0)).square().mean().sqrt()
    assert torch.allclose(frames.log_abs_det[0], -3 * sphere.log())


def test_a_chart_with_few_rows_takes_the_frame_of_all_rows():
    x, chart = two_blobs()
    chart = torch.where(torch.arange(len(x)) < 5, 2, chart)  # five rows: fewer than 2 D
    frames = ChartFrames(3, 4).double()
    frames.fit(x, chart)
    assert torch.allclose(frames.mean[2], x.mean(dim=0))
    assert frames.whiten[2].equal(frames.whiten[3])  # chart 3 has no rows at all
    assert not torch.allclose(frames.mean[0], frames.mean[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "rows",
    [
        torch.zeros(1, 2),
        torch.ones(30, 2) * 7,
        torch.tensor([[1.0, 5.0], [2.0, 5.0]]).repeat(20, 1),  # constant column, duplicates
        torch.tensor([[1e6, 1e6], [1e6 + 1, 1e6]]),
    ],
)
def test_degenerate_data_gives_finite_frames(rows, dtype):
    x = rows.to(dtype)
    frames = ChartFrames(2, 3).to(dtype)
    frames.fit(x, torch.zeros(len(x), dtype=torch.int64))
    for chart in range(3):
        z, volume = frames.encode(x, torch.full((len(x),), chart))
        assert torch.isfinite(z).all()
        assert torch.isfinite(volume).all()
        assert torch.isfinite(frames.decode(z, torch.full((len(x),), chart)).value).all()


def test_frames_are_set_in_place():
    frames = ChartFrames(3, 2).double()
    before = {name: buffer.data_ptr() for name, buffer in frames.named_buffers()}
    frames.fit(*two_blobs())
    assert before == {name: buffer.data_ptr() for name, buffer in frames.named_buffers()}


@pytest.mark.parametrize(("option", "value"), [("inflation", 0.0), ("shrinkage", 1.5)])
def test_frame_options_out_of_range_are_refused(option, value):
    with pytest.raises(ValueError, match=f"frame_{option}"):
        ChartFrames(2, 2, **{option: value})
