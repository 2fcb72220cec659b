"""The rational-quadratic spline against nflows and zuko, from identical knots."""

import pytest
import torch
from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline

from flowzoo.layers import Knots, SplineShape, apply_spline, build_knots

F64 = torch.float64
SHAPE = SplineShape(num_bins=6, tail_bound=3.0)  # nflows' own minimums
ROWS, COLUMNS = 40, 3


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def knots_and_points(inverse):
    """Knots, and points in the box, out of it, on its edge, and at and beside every knot."""
    knots = build_knots(1.5 * torch.randn(ROWS, SHAPE.outputs * COLUMNS, dtype=F64), SHAPE)
    sizes = knots.heights if inverse else knots.widths
    inner = sizes.cumsum(0)[:-1] - 3.0
    free = [3.0 - 6.0 * torch.rand(8, ROWS, COLUMNS, dtype=F64)]
    outside = [torch.full((1, ROWS, COLUMNS), v, dtype=F64) for v in (-20.0, -3.0, 3.0, 3.01)]
    beside = [inner - 1e-6, inner, inner + 1e-6]
    points = torch.cat([*free, *outside, *beside])
    count = len(points)
    wide = Knots(*(table.repeat(1, count, 1) for table in knots))
    return wide, points.reshape(count * ROWS, COLUMNS)


@pytest.mark.parametrize("inverse", [False, True])
def test_spline_matches_nflows(inverse):
    knots, points = knots_and_points(inverse)
    free = 1.0 - SHAPE.num_bins * SHAPE.min_bin_size
    sizes = [
        ((table / 6.0 - SHAPE.min_bin_size) / free).log().movedim(0, -1)
        for table in (knots.widths, knots.heights)
    ]
    slopes = (knots.derivatives - SHAPE.min_derivative).expm1().log().movedim(0, -1)
    value, log_det = unconstrained_rational_quadratic_spline(
        points, *sizes, slopes, inverse=inverse, tail_bound=3.0
    )
    ours, log_slope = apply_spline(points, knots, 3.0, inverse=inverse)
    torch.testing.assert_close(ours, value, rtol=0, atol=1e-7)
    torch.testing.assert_close(log_slope, -log_det if inverse else log_det, rtol=0, atol=1e-5)


@pytest.mark.parametrize("inverse", [False, True])
def test_spline_matches_zuko(inverse):
    zuko = pytest.importorskip("zuko", reason="zuko is an optional extra")
    knots, points = knots_and_points(inverse)
    rows = len(points)
    theirs = zuko.transforms.MonotonicRQSTransform(
        *(torch.zeros(rows, COLUMNS, n, dtype=F64) for n in (6, 6, 5)), bound=3.0
    )
    start = torch.zeros(1, rows, COLUMNS, dtype=F64)
    one = start + 1.0
    theirs.horizontal = (torch.cat([start, knots.widths.cumsum(0)]) - 3.0).movedim(0, -1)
    theirs.vertical = (torch.cat([start, knots.heights.cumsum(0)]) - 3.0).movedim(0, -1)
    theirs.derivatives = torch.cat([one, knots.derivatives, one]).movedim(0, -1)
    ours, log_slope = apply_spline(points, knots, 3.0, inverse=inverse)
    if inverse:
        value = theirs.inv(points)
        torch.testing.assert_close(ours, value, rtol=0, atol=1e-7)
        _, log_det = theirs.call_and_ladj(value)
    else:
        value, log_det = theirs.call_and_ladj(points)
        torch.testing.assert_close(ours, value, rtol=0, atol=1e-7)
    # zuko leaves the upper edge itself out of the box
    edge = points == 3.0
    torch.testing.assert_close(log_slope[~edge], log_det[~edge], rtol=0, atol=1e-5)
    torch.testing.assert_close(log_slope[edge], torch.zeros_like(log_slope[edge]))
