"""Sets on a manifold: laws of their rows, distances, classes, options."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_1samp, ks_2samp, norm, uniform

from flowzoo.task_validation import check_task_data
from flowzoo_bench.tasks import FadingSquare, Line, ManifoldUnion, SCurve, Sine
from flowzoo_bench.tasks.s_curve import sheet, sheet_distance

ALL = [Sine, Line, SCurve, FadingSquare, ManifoldUnion]
SMALL = {"num_train": 50, "num_valid": 20, "num_test": 20}


def everything(task, seed=0):
    return torch.cat(task.splits(seed))


def follows(x, law):
    return ks_1samp(np.asarray(x), law).pvalue > 1e-4


def test_planar_sets():
    for task, height in ((Sine(), lambda t: (2 * t).sin()), (Line(), lambda t: t)):
        x = everything(task)
        assert follows(x[:, 0], norm.cdf)
        torch.testing.assert_close(x[:, 1], height(x[:, 0]), rtol=0, atol=0)
    x = everything(Sine(frequency=1.0))
    torch.testing.assert_close(x[:, 1], x[:, 0].sin(), rtol=0, atol=0)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_s_curve_is_scikit_learns(noise):
    from sklearn.datasets import make_s_curve

    theirs, t = make_s_curve(5000, noise=noise, random_state=0)
    if noise == 0:
        z = torch.as_tensor(np.stack([t, theirs[:, 1]], axis=1))
        np.testing.assert_allclose(SCurve().place(z), theirs, rtol=0, atol=1e-15)
    ours = everything(SCurve(noise=noise)).numpy()
    for a, b in zip(ours.T, theirs.T, strict=True):
        assert ks_2samp(a, b).pvalue > 1e-4
    for a, b in ((ours.sum(axis=1), theirs.sum(axis=1)), (ours @ [1, 2, -3], theirs @ [1, 2, -3])):
        assert ks_2samp(a, b).pvalue > 1e-4


def test_fading_square():
    task = FadingSquare()
    x = everything(task).reshape(-1, 32, 32)
    grey = x[:, 13, 13]
    assert follows(grey, uniform.cdf)
    inside = x[:, 13:19, 13:19]
    assert torch.equal(inside, grey[:, None, None].expand_as(inside))
    assert int((x > 0).sum()) == int((grey > 0).sum()) * 36
    assert task.shape == (1, 32, 32) and task.features == 1024
    assert [len(part) for part in task.splits(0)] == [5000, 1000, 1000]
    check_task_data(FadingSquare(**SMALL), 0)


def test_noise_is_added_to_the_same_points():
    for cls in ALL:
        still, moved = (cls(noise=noise, **SMALL).splits(3).train for noise in (0.0, 0.1))
        assert float((moved - still).std()) == pytest.approx(0.1, rel=0.3)
        assert float((moved - still).abs().max()) < 0.6


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("cls", [Sine, Line, SCurve])
def test_distance_is_the_nearest_of_a_grid(cls, noise):
    task = cls(noise=noise)
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(25, task.features, generator=generator, dtype=torch.float64)
    if cls is SCurve:
        z = torch.cartesian_prod(
            torch.linspace(-1.5 * math.pi, 1.5 * math.pi, 1001, dtype=torch.float64),
            torch.linspace(0, 2, 201, dtype=torch.float64),
        )
    else:
        z = torch.linspace(-9, 9, 100_001, dtype=torch.float64)[:, None]
    brute = torch.stack([(task.place(z) - row).norm(dim=1).min() for row in x])
    found = task.distance(x)
    assert (found <= brute + 1e-12).all()
    torch.testing.assert_close(found, brute, rtol=0, atol=1e-4)
    assert float(task.distance(task.place(z[::97])).max()) < 1e-12


def test_distance_to_the_sheet_in_closed_form():
    x = torch.tensor(
        [
            [0, 1, 1],  # centre of the upper arc
            [0, 1, -1],  # of the lower
            [1, 1, 1.5],  # past the upper end
            [0, 3, 0],  # beside it
            [-1, -1, -1],
            [5, 1, -1],
        ],
        dtype=torch.float64,
    )
    expected = torch.tensor([1, 1, 1.25**0.5 - 1, 1, 1, 4]).double()
    torch.testing.assert_close(SCurve().distance(x), expected)


def test_distance_to_the_fading_square():
    task = FadingSquare(side=3, square=2, start=1)
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(40, 9, generator=generator, dtype=torch.float64)
    images = task.place(torch.linspace(0, 1, 10_001)[:, None])
    brute = torch.stack([(images - row).norm(dim=1).min() for row in x])
    torch.testing.assert_close(task.distance(x), brute, rtol=0, atol=1e-6)
    assert float(task.distance(everything(task)).max()) < 1e-15


def test_classes_of_the_union():
    task = ManifoldUnion(weight=0.3, noise=0.0)
    assert task.dimensions == (1, 2) and task.dimension is None
    x, kinds = everything(task, 5), torch.cat(task.labels(5))
    assert float((kinds == 0).double().mean()) == pytest.approx(0.3, abs=0.02)
    helix, rest = x[kinds == 0], x[kinds == 1]
    assert float(task.curve.distance(helix).max()) < 1e-12
    assert float(sheet_distance(rest).max()) < 1e-12
    assert float(task.distance(x).max()) < 1e-12
    # uniform by arc length and by area
    assert follows(helix[:, 1] / 2, uniform.cdf) and follows(rest[:, 1] / 2, uniform.cdf)
    turned = torch.atan2(rest[:, 0], 1 - rest[:, 2].abs()) * rest[:, 2].sign()
    assert follows(-turned % (2 * math.pi) / (1.5 * math.pi), uniform.cdf)
    other = task.labels(6).train
    assert not torch.equal(other, task.labels(5).train)
    check_task_data(task, 5)


@pytest.mark.parametrize("gap", [0.0, 0.4, 1.0, 3.0])
def test_gap_is_the_least_distance_between_the_parts(gap):
    curve = ManifoldUnion(gap=gap).curve
    angle = torch.linspace(curve.start, curve.stop, 100_001, dtype=torch.float64)
    least = sheet_distance(curve.position(angle))
    assert float(least.min()) == pytest.approx(gap, abs=1e-9)
    assert float(angle[least.argmin()]) == pytest.approx(math.pi, abs=1e-3)
    assert curve.length == pytest.approx(math.hypot(math.pi, 2.0), abs=1e-9)
    axis = torch.linspace(-1.5 * math.pi, 1.5 * math.pi, 4, dtype=torch.float64)
    touched = sheet(torch.stack([axis, axis.abs() / 3], dim=1))
    assert float(curve.distance(touched).min()) >= gap


GOLDEN = {
    "Sine": [0.1257302210933933, 0.2488187354846302],
    "Line": [0.1257302210933933, 0.1257302210933933],
    "SCurve": [0.9610657084992629, 0.5395734275277406, -0.7236800695809114],
    "FadingSquare": [0.6369616873214543, 0.6369616873214543, 0.6369616873214543],
    "ManifoldUnion": [-0.26884667218782515, 0.4955643379365942, 1.972143935991883],
}


@pytest.mark.parametrize("cls", ALL)
def test_first_rows_stay_the_same(cls):
    row = cls().splits(0).train[0]
    row = row[row != 0][:3]
    np.testing.assert_allclose(row, GOLDEN[cls.__name__], rtol=1e-12)


@pytest.mark.parametrize("cls", ALL)
def test_options_are_checked(cls):
    for options, name in (
        ({"noise": -1.0}, "noise"),
        ({"noise": math.nan}, "noise"),
        ({"num_train": 0}, "num_train"),
        ({"num_test": 1.5}, "num_test"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            cls(**options)
    with pytest.raises(ValueError, match=r"^seed: expected"):
        cls(**SMALL).splits(-1)
    with pytest.raises(ValueError, match=r"^x: expected"):
        cls(**SMALL).distance(torch.zeros(3, 7))


@pytest.mark.parametrize(
    ("cls", "options", "name"),
    [
        (Sine, {"frequency": 0}, "frequency"),
        (FadingSquare, {"side": 0}, "side"),
        (FadingSquare, {"square": 0}, "square"),
        (FadingSquare, {"start": 27}, "start"),
        (FadingSquare, {"start": -1}, "start"),
        (FadingSquare, {"side": 5}, "start"),
        (ManifoldUnion, {"gap": -0.1}, "gap"),
        (ManifoldUnion, {"weight": 0}, "weight"),
        (ManifoldUnion, {"weight": 1}, "weight"),
    ],
)
def test_own_options_are_checked(cls, options, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        cls(**options)


@pytest.mark.parametrize("task", [Sine(), Line(), SCurve(), FadingSquare()])
def test_places_are_checked(task):
    with pytest.raises(ValueError, match=r"^z: expected"):
        task.place(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"^z: expected"):
        task.place(torch.full((2, task.dimension), math.nan))
