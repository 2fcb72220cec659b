"""Rational-quadratic splines: shape, tails, edges of the box, rounding, bad options."""

import math

import pytest
import torch

from flowzoo.layers import (
    Knots,
    SplineAutoregressive,
    SplineCoupling,
    SplineShape,
    apply_spline,
    build_knots,
)
from known_layers import F64

SHAPE = SplineShape(num_bins=5, tail_bound=3.0)
BOTH = pytest.mark.parametrize("inverse", [False, True])


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def random_knots(rows, columns=1, shape=SHAPE, scale=1.0, dtype=F64):
    return build_knots(scale * torch.randn(rows, shape.outputs * columns, dtype=dtype), shape)


def test_knots_respect_the_box_and_the_minimums():
    shape = SplineShape(num_bins=4, tail_bound=2.5, min_bin_size=0.05, min_derivative=0.2)
    widths, heights, derivatives = random_knots(400, 3, shape, scale=30.0)
    for sizes in (widths, heights):
        assert sizes.shape == (4, 400, 3)
        torch.testing.assert_close(sizes.sum(0), torch.full((400, 3), 5.0, dtype=F64))
        assert 0.25 - 1e-12 <= sizes.min() < 0.2501
    assert derivatives.shape == (3, 400, 3)
    assert 0.2 <= derivatives.min() < 0.2001


def test_blocks_of_columns_are_widths_heights_derivatives():
    raw = torch.zeros(1, SHAPE.outputs, 2, dtype=F64)
    raw[0, 1, 0] = raw[0, 5 + 2, 1] = raw[0, 10 + 3, 0] = 1.0
    widths, heights, derivatives = build_knots(raw.flatten(1), SHAPE)
    assert widths[:, 0, 0].argmax() == 1 and (widths[:, 0, 1] == widths[0, 0, 1]).all()
    assert heights[:, 0, 1].argmax() == 2 and (heights[:, 0, 0] == heights[0, 0, 0]).all()
    assert derivatives[:, 0, 0].argmax() == 3
    torch.testing.assert_close(derivatives[:3, 0, 0], torch.ones(3, dtype=F64))


def test_the_spline_passes_through_its_knots_with_their_derivatives():
    knots = random_knots(50)
    one = torch.ones(1, 50, 1, dtype=F64)
    x = torch.cat([0.0 * one, knots.widths.cumsum(0)]) - 3.0
    z = torch.cat([0.0 * one, knots.heights.cumsum(0)]) - 3.0
    slopes = torch.cat([one, knots.derivatives, one])
    for at in range(6):
        for side in (-1e-9, 1e-9):  # both bins that meet at a knot
            value, log_slope = apply_spline(x[at] + side, knots, 3.0)
            torch.testing.assert_close(value, z[at], rtol=0, atol=1e-6)
            torch.testing.assert_close(log_slope, slopes[at].log(), rtol=0, atol=1e-5)
            back, _ = apply_spline(z[at] + side, knots, 3.0, inverse=True)
            torch.testing.assert_close(back, x[at], rtol=0, atol=1e-5)


@BOTH
def test_increasing_and_its_slope_by_autograd(inverse):
    knots = random_knots(1)
    grid = torch.linspace(-4, 4, 4001, dtype=F64)[:, None].requires_grad_()
    wide = Knots(*(table.expand(-1, 4001, -1) for table in knots))
    value, log_slope = apply_spline(grid, wide, 3.0, inverse=inverse)
    assert (value.diff(dim=0) > 0).all()
    (slope,) = torch.autograd.grad(value.sum(), grid)
    expected = -slope.log() if inverse else slope.log()
    torch.testing.assert_close(log_slope, expected, rtol=0, atol=1e-9)


def test_tails_are_the_identity():
    knots = random_knots(6)
    points = [-math.inf, -1e30, -3.0 - 1e-9, 3.0 + 1e-9, 17.0, math.inf]
    x = torch.tensor(points, dtype=F64)[:, None]
    for inverse in (False, True):
        value, log_slope = apply_spline(x, knots, 3.0, inverse=inverse)
        assert torch.equal(value, x)
        assert torch.equal(log_slope, torch.zeros_like(x))


@BOTH
def test_gradients_are_finite_in_out_and_on_the_edge(inverse):
    points = [-math.inf, -50.0, -3.0, -2.9999999, 0.0, 2.9999999, 3.0, 50.0, math.inf]
    x = torch.tensor(points, dtype=torch.float32)[:, None].requires_grad_()
    raw = torch.randn(len(points), SHAPE.outputs).requires_grad_()
    value, log_slope = apply_spline(x, build_knots(raw, SHAPE), 3.0, inverse=inverse)
    (value.sum() + log_slope.sum()).backward()
    assert x.grad.isfinite().all() and raw.grad.isfinite().all()
    outside = x.detach()[:, 0].abs() > 3.0
    assert (x.grad[outside] == 1).all() and (raw.grad[outside] == 0).all()
    assert (raw.grad[4] != 0).any()


@BOTH
def test_gradients_match_finite_differences(inverse):
    shape = SplineShape(num_bins=2, tail_bound=3.0)
    raw = torch.randn(2, shape.outputs, dtype=F64, requires_grad=True)
    x = torch.tensor([[-0.4], [2.2]], dtype=F64, requires_grad=True)

    def run(x, raw):
        return apply_spline(x, build_knots(raw, shape), 3.0, inverse=inverse)

    assert torch.autograd.gradcheck(run, (x, raw))
    assert torch.autograd.gradgradcheck(run, (x, raw))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("scale", [1.0, 10.0, 1000.0])
def test_near_degenerate_bins_stay_finite_both_ways(dtype, scale):
    """What makes nflows' inverse raise: rounding of the discriminant below zero."""
    knots = random_knots(20_000, 1, SplineShape(), scale, dtype)
    x = 10 * torch.rand(20_000, 1, dtype=dtype) - 5
    x[:8, 0] = torch.tensor([-5.0, 5.0] * 4, dtype=dtype)
    for inverse in (False, True):
        value, log_slope = apply_spline(x, knots, 5.0, inverse=inverse)
        assert value.isfinite().all() and log_slope.isfinite().all()
        assert value.abs().max() <= 5.0 * (1 + 1e-6)
        there, _ = apply_spline(value, knots, 5.0, inverse=not inverse)
        if scale == 1.0:
            tolerance = 2e-2 if dtype == torch.float32 else 1e-10
            torch.testing.assert_close(there, x, rtol=0, atol=tolerance)


@BOTH
def test_a_zero_discriminant_has_a_finite_gradient(inverse):
    """s = 1, both derivatives 0 in the middle of the bin: the root's own gradient is infinite."""
    knots = Knots(
        torch.ones(2, 1, 1, dtype=F64),
        torch.ones(2, 1, 1, dtype=F64),
        torch.full((1, 1, 1), 1e-300, dtype=F64),
    )
    for at in (-1.0, 0.0, 1.0):
        x = torch.full((1, 1), at, dtype=F64, requires_grad=True)
        value, _ = apply_spline(x, knots, 1.0, inverse=inverse)
        value.sum().backward()
        assert value.isfinite().all() and x.grad.isfinite().all()


def test_nan_is_not_hidden():
    knots = random_knots(2)
    value, _ = apply_spline(torch.tensor([[math.nan], [0.5]], dtype=F64), knots, 3.0)
    assert value[0].isnan() and value[1].isfinite()
    raw = torch.full((1, SHAPE.outputs), math.nan, dtype=F64)
    value, log_slope = apply_spline(torch.zeros(1, 1, dtype=F64), build_knots(raw, SHAPE), 3.0)
    assert value.isnan().all() and log_slope.isnan().all()


def test_knots_are_left_alone():
    knots = random_knots(5)
    before = [table.clone() for table in knots]
    x = torch.randn(5, 1, dtype=F64)
    copy = x.clone()
    apply_spline(x, knots, 3.0)
    apply_spline(x, knots, 3.0, inverse=True)
    assert torch.equal(x, copy)
    assert all(torch.equal(a, b) for a, b in zip(knots, before, strict=True))


@pytest.mark.parametrize("make", [SplineCoupling, SplineAutoregressive])
def test_layers_map_in_float32_what_they_map_in_float64(make):
    layer = make(3, hidden=(16,)).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    x = torch.randn(200, 3)
    z, log_abs_det = layer.encode(x)
    back = layer.decode(z).value
    torch.testing.assert_close(back, x, rtol=0, atol=1e-3)
    expected = layer.double().encode(x.double())
    torch.testing.assert_close(z.double(), expected.value, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_abs_det.double(), expected.log_abs_det, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_bins": 1}, "num_bins: expected >= 2, got 1"),
        ({"num_bins": 0}, "num_bins: expected a positive integer, got 0"),
        ({"tail_bound": 0.0}, "tail_bound: expected a finite number > 0, got 0.0"),
        ({"tail_bound": math.inf}, "tail_bound: .*got inf"),
        ({"tail_bound": math.nan}, "tail_bound: .*got nan"),
        ({"num_bins": 4, "min_bin_size": 0.25}, r"min_bin_size: expected in \(0, 1 / 4\)"),
        ({"min_bin_size": 0.0}, "min_bin_size: expected in"),
        ({"min_derivative": 1.0}, r"min_derivative: expected in \(0, 1\), got 1.0"),
    ],
)
def test_bad_shapes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SplineShape(**options)
