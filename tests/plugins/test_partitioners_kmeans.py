"""KMeans: the fit, the distances, degenerate data."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from flowzoo.registry import build_part
from flowzoo_plugins.partitioners import KMeans
from flowzoo_plugins.partitioners.codes import pairwise_distances


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(centres, per=40, scale=0.05, dtype=torch.float64, seed=0):
    centres = torch.as_tensor(centres, dtype=dtype)
    noise = torch.randn(len(centres) * per, centres.shape[1], generator=generator(seed))
    return centres.repeat_interleave(per, dim=0) + scale * noise.to(dtype)


def fitted(x, num_charts, seed=0, **options):
    charts = KMeans(x.shape[1], num_charts=num_charts, **options).to(x.dtype)
    (stage,) = charts.stages()
    assert stage.loss is None
    stage.prepare(x, x, generator(seed))
    return charts


def test_finds_separated_centres():
    truth = [[0.0, 0.0], [5.0, 0.0], [0.0, 5.0], [5.0, 5.0]]
    x = blobs(truth)
    charts = fitted(x, 4)
    nearest = torch.cdist(torch.tensor(truth, dtype=x.dtype), charts.codes).amin(dim=1)
    assert nearest.max() < 0.05
    # a chart is a blob
    assert charts.assign(x).view(4, -1).unique(dim=1).shape == (4, 1)
    torch.testing.assert_close(charts.usage(x), torch.full((4,), 0.25, dtype=x.dtype))
    torch.testing.assert_close(charts.perplexity(x), torch.tensor(4.0, dtype=x.dtype))


def test_codes_are_the_means_of_their_charts():
    x = torch.randn(400, 3, generator=generator(3), dtype=torch.float64)
    charts = fitted(x, 7, max_iterations=1000)
    index = charts.assign(x)
    for k in range(7):
        torch.testing.assert_close(charts.codes[k], x[index == k].mean(dim=0), atol=5e-2, rtol=0)


def test_distances_are_euclidean_and_keep_their_digits_far_from_the_origin():
    x = 1e4 + torch.randn(50, 3, generator=generator())
    codes = 1e4 + torch.randn(5, 3, generator=generator(1))
    exact = np.linalg.norm(
        x.double().numpy()[:, None] - codes.double().numpy()[None], axis=2
    )  # the float32 inputs, subtracted exactly
    found = pairwise_distances(x, codes)
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-5)


def test_distance_zero_has_a_finite_gradient():
    x = torch.zeros(1, 2, requires_grad=True)
    pairwise_distances(x, torch.zeros(3, 2)).sum().backward()
    assert torch.equal(x.grad, torch.zeros(1, 2))


def test_chunks_do_not_change_distances(monkeypatch):
    charts = fitted(blobs([[0.0], [1.0]]), 2)
    x = torch.linspace(-1, 2, 37, dtype=torch.float64)[:, None]
    whole = charts.distances(x)
    monkeypatch.setattr("flowzoo_plugins.partitioners.codes._DIFFERENCES", 10)
    assert torch.equal(charts.distances(x), whole)
    assert charts.distances(x[:0]).shape == (0, 2)
    assert torch.equal(charts.distances(x[5:6]), whole[5:6])


def test_runs_under_vmap():
    x = torch.randn(60, 2, generator=generator(), dtype=torch.float64)
    models = [fitted(x * (i + 1), 4, seed=i) for i in range(3)]
    parameters, buffers = stack_module_state(models)

    def distances(parameters, buffers):
        return functional_call(models[0], (parameters, buffers), (x,))

    for model in models:
        model.forward = model.distances
    found = vmap(distances)(parameters, buffers)
    torch.testing.assert_close(found, torch.stack([m.distances(x) for m in models]))


def test_the_generator_decides_the_fit():
    x = torch.randn(300, 2, generator=generator(9), dtype=torch.float64)
    state = torch.random.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    same = [fitted(x, 8, seed=4, restarts=1).codes for _ in range(2)]
    other = fitted(x, 8, seed=5, restarts=1).codes
    assert torch.equal(*same)
    assert not torch.equal(same[0], other)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_restarts_never_make_the_fit_worse():
    x = torch.rand(300, 2, generator=generator(2), dtype=torch.float64)

    def inertia(restarts):
        return float(fitted(x, 12, restarts=restarts).distances(x).amin(dim=1).square().sum())

    assert inertia(10) <= inertia(1)


def test_fewer_rows_than_charts_names_both():
    with pytest.raises(ValueError, match=r"num_charts=5 rows, got 3"):
        fitted(torch.rand(3, 2), 5)


@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_duplicates_leave_surplus_charts_empty_without_warnings(distinct):
    x = torch.arange(distinct, dtype=torch.float32)[:, None].repeat(10, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        charts = fitted(x, 4)
    assert charts.codes.isfinite().all()
    assert charts.distances(x).amin(dim=1).max() == 0  # every distinct row is a code
    usage = charts.usage(x)
    torch.testing.assert_close(usage[:distinct], torch.full((distinct,), 1 / distinct))
    assert usage[distinct:].sum() == 0


def test_points_that_differ_by_rounding_leak_no_warning():
    x = (1e8 + torch.arange(6, dtype=torch.float64) * 1e-7)[:, None].repeat(5, 1)
    assert len(x.unique()) > 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        charts = fitted(x, 4)
    assert charts.codes.isfinite().all()


def test_constant_columns():
    x = torch.cat([torch.randn(50, 1, generator=generator()), torch.full((50, 1), 7.0)], dim=1)
    charts = fitted(x, 3)
    torch.testing.assert_close(charts.codes[:, 1], torch.full((3,), 7.0))
    assert (charts.usage(x) > 0).all()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.tensor([[0.0, 1.0], [float("nan"), 1.0]]), "x_train: expected finite"),
        (torch.zeros(4, 3), r"x_train: expected shape \(N, 2\), got \(4, 3\)"),
        (torch.zeros(4, 2, dtype=torch.int64), "x_train: expected a floating dtype"),
        (torch.zeros(4, 2, dtype=torch.float64), "x_train: expected dtype"),
    ],
)
def test_bad_training_rows_are_refused(x, message):
    (stage,) = KMeans(2, num_charts=2).stages()
    with pytest.raises(ValueError, match=message):
        stage.prepare(x, x, generator())


def test_bad_options_and_empty_usage_are_refused():
    with pytest.raises(ValueError, match="num_charts"):
        KMeans(2, num_charts=0)
    with pytest.raises(ValueError, match="restarts"):
        KMeans(2, restarts=0)
    with pytest.raises(ValueError, match="at least one row"):
        KMeans(2).usage(torch.zeros(0, 2))


def test_state_moves_with_the_module():
    x = blobs([[0.0, 0.0], [3.0, 1.0]], dtype=torch.float32)
    charts = fitted(x, 2)
    clone = copy.deepcopy(charts)
    fresh = KMeans(2, num_charts=2)
    fresh.load_state_dict(charts.state_dict())
    for other in (clone, fresh):
        assert torch.equal(other.distances(x), charts.distances(x))
    assert charts.double().distances(x.double()).dtype == torch.float64
    meta = charts.to("meta")
    assert meta.distances(torch.empty(6, 2, device="meta", dtype=torch.float64)).shape == (6, 2)


def test_is_built_by_name():
    charts = build_part("partitioner", {"name": "kmeans", "num_charts": 3}, features=2)
    assert isinstance(charts, KMeans)
    assert charts.codes.shape == (3, 2)
