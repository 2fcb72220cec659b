"""Distances of feature sets: closed forms, loops over rows, another library."""

from math import isnan, nan

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from flowzoo_bench.metrics.features import neighbours as neighbours_module
from flowzoo_bench.metrics.features.frechet import frechet_distance
from flowzoo_bench.metrics.features.kernel import kernel_distance
from flowzoo_bench.metrics.features.neighbours import neighbourhoods

F64 = torch.float64


def normal(rows, features, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, features, dtype=F64, generator=generator)


def with_moments(mean, covariance, seed):
    """Rows whose sample mean and covariance are these exactly."""
    x = normal(50, len(mean), seed)
    x = x - x.mean(dim=0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    return mean + x @ torch.linalg.cholesky(covariance).T


def test_frechet_distance_of_gaussians_in_closed_form():
    # commuting covariances: the sum over axes of the squared differences of standard deviations
    q = torch.linalg.qr(normal(4, 4)).Q
    sd = torch.tensor([[1.0, 2.0, 0.5, 3.0], [2.0, 2.0, 0.1, 1.0]], dtype=F64)
    mean = normal(2, 4, seed=1)
    x, y = (
        with_moments(m, q @ torch.diag(s**2) @ q.T, i)
        for i, (m, s) in enumerate(zip(mean, sd, strict=True))
    )
    expected = (mean[0] - mean[1]).square().sum() + (sd[0] - sd[1]).square().sum()
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    # not by a rigid motion of both, and as a square under scaling
    assert frechet_distance(x @ q + 7, y @ q + 7) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * float(expected), rel=1e-9)


@pytest.mark.parametrize("rows", [200, 12, 3])  # 12 and 3: singular covariances
def test_frechet_distance_equals_the_formula_with_a_matrix_root(rows):
    x, y = normal(rows, 20), 1.5 * normal(rows + 5, 20, seed=1) + 0.3
    a, b = x.T.cov().numpy(), y.T.cov().numpy()
    if rows == 200:
        root = sqrtm(a @ b).trace().real
    else:
        root = np.sqrt(np.clip(np.linalg.eigvals(a @ b).real, 0, None)).sum()
    expected = float((x.mean(0) - y.mean(0)).square().sum()) + a.trace() + b.trace() - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


def naive_kernel_distance(x, y):
    n, m, f = len(x), len(y), x.shape[1]
    total = 0.0
    for a, b, pairs, sign in ((x, x, n * (n - 1), 1), (y, y, m * (m - 1), 1), (x, y, n * m, -2)):
        for i in range(len(a)):
            for j in range(len(b)):
                if a is not b or i != j:
                    total += sign * float(a[i] @ b[j] / f + 1) ** 3 / pairs
    return total


def test_kernel_distance_equals_the_double_sum_and_averages_blocks():
    x, y = normal(9, 3), normal(13, 3, seed=1) + 0.5
    one = kernel_distance(x, y)
    assert one.mean == pytest.approx(naive_kernel_distance(x, y), rel=1e-10)
    assert (one.stderr, one.n) == (None, 1)
    three = kernel_distance(x, y, block_rows=3)
    parts = [
        naive_kernel_distance(a, b)
        for a, b in zip(torch.tensor_split(x, 3), torch.tensor_split(y, 3), strict=True)
    ]
    assert sum(map(len, torch.tensor_split(y, 3))) == 13 and three.n == 3
    assert three.mean == pytest.approx(np.mean(parts), rel=1e-10)
    assert three.stderr == pytest.approx(np.std(parts, ddof=1) / 3**0.5, rel=1e-10)


def test_kernel_distance_has_no_bias():
    x, y = 0.5 * normal(4000, 1), 0.5 * normal(4000, 1, seed=1)
    same = kernel_distance(x, y, block_rows=4)
    assert abs(same.mean) < 4 * same.stderr
    # (x y + 1)^3 compares the first three moments, here 1/2, 1/4 and 1/2 apart, weighted 3, 3, 1
    other = kernel_distance(x, y + 0.5, block_rows=4)
    assert other.n == 1000
    assert abs(other.mean - 1.1875) < 4 * other.stderr < 0.7


def naive_neighbourhoods(real, samples, k):
    def radius(x, i):
        return sorted(float((x[i] - x[j]).norm()) for j in range(len(x)) if j != i)[k - 1]

    real_r = [radius(real, i) for i in range(len(real))]
    sample_r = [radius(samples, j) for j in range(len(samples))]
    d = [[float((a - b).norm()) for b in samples] for a in real]
    n, m = range(len(real)), range(len(samples))
    return (
        sum(any(d[i][j] < real_r[i] for i in n) for j in m) / len(samples),
        sum(any(d[i][j] < sample_r[j] for j in m) for i in n) / len(real),
        sum(d[i][j] < real_r[i] for i in n for j in m) / (k * len(samples)),
        sum(any(d[i][j] < real_r[i] for j in m) for i in n) / len(real),
    )


@pytest.mark.parametrize("k", [1, 3])
def test_neighbourhoods_equal_loops_over_rows_whatever_the_chunks(k, monkeypatch):
    real, samples = normal(25, 2), 1.7 * normal(18, 2, seed=1) + 0.4
    expected = naive_neighbourhoods(real, samples, k)
    assert tuple(neighbourhoods(real, samples, k=k)) == pytest.approx(expected, rel=1e-12)
    assert 0 < expected[0] < 1 and 0 < expected[1] < 1 and 0 < expected[3] < 1
    monkeypatch.setattr(neighbours_module, "_VALUES", 40)
    assert tuple(neighbourhoods(real, samples, k=k)) == pytest.approx(expected, rel=1e-12)


def test_neighbourhoods_of_known_configurations():
    line = torch.arange(10, dtype=F64)[:, None]
    assert neighbourhoods(line, line + 0.25, k=1) == (1, 1, 1.9, 1)  # the last is in one ball
    assert neighbourhoods(line, line + 100, k=1) == (0, 0, 0, 0)
    # samples at one end only: faithful, not diverse
    part = neighbourhoods(line, 0.01 * line + 0.3, k=1)
    assert (part.precision, part.recall, part.coverage) == (1, 0, 0.2)
    # the same answer after a motion of both
    q = torch.linalg.qr(normal(3, 3)).Q
    x, y = normal(60, 3), normal(60, 3, seed=1) * 1.2
    assert neighbourhoods(x, y) == neighbourhoods(x @ q + 5, y @ q + 5)


def test_rows_that_are_not_finite_are_not_hidden():
    x, bad = normal(20, 2), normal(20, 2, seed=1)
    bad[3, 1] = nan
    for a, b in ((x, bad), (bad, x)):
        assert isnan(frechet_distance(a, b)) and isnan(kernel_distance(a, b).mean)
        assert all(map(isnan, neighbourhoods(a, b)))


def test_bad_sets_are_named():
    x = normal(20, 2)
    for function in (frechet_distance, kernel_distance, neighbourhoods):
        with pytest.raises(ValueError, match=r"y: expected shape \(N, 2\), got \(20, 3\)"):
            function(x, normal(20, 3))
        with pytest.raises(ValueError, match=r"x: expected shape \(N, F\), got \(2,\)"):
            function(x[0], x)
        with pytest.raises(ValueError, match=r"y: expected at least \d rows, got 1"):
            function(x, x[:1])
        with pytest.raises(TypeError, match="x: expected a torch"):
            function([1.0], x)
    with pytest.raises(ValueError, match="block_rows"):
        kernel_distance(x, x, block_rows=1)
    with pytest.raises(ValueError, match="k: expected a positive integer"):
        neighbourhoods(x, x, k=0)


def test_single_precision_and_gpu_tensors_are_computed_in_double():
    x, y = normal(100, 8).float(), normal(100, 8, seed=1).float()
    assert frechet_distance(x, y) == frechet_distance(x.double(), y.double())
    assert kernel_distance(x, y) == kernel_distance(x.double(), y.double())


class _Pixels(nn.Module):
    """Images (N, 1, 1, F) are their own features."""

    num_features = 6

    def forward(self, x):
        return x.flatten(1).double() / 16


def test_distances_equal_those_of_torchmetrics():
    fid_module = pytest.importorskip("torchmetrics.image.fid")
    kid_module = pytest.importorskip("torchmetrics.image.kid")
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 200, (120, 1, 1, 6), generator=generator, dtype=torch.uint8)
    y = torch.randint(50, 256, (120, 1, 1, 6), generator=generator, dtype=torch.uint8)
    features = _Pixels()
    fid = fid_module.FrechetInceptionDistance(feature=features, input_img_size=(1, 1, 6))
    fid.set_dtype(F64)
    kid = kid_module.KernelInceptionDistance(feature=features, subsets=1, subset_size=120)
    for metric in (fid, kid):
        metric.update(x, real=True)
        metric.update(y, real=False)
    a, b = features(x), features(y)
    assert frechet_distance(a, b) == pytest.approx(float(fid.compute()), rel=1e-5)
    assert kernel_distance(a, b).mean == pytest.approx(float(kid.compute()[0]), rel=1e-5)
