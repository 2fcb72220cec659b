"""Autograd against finite differences, row by row: kinks say nothing, a cut graph is found."""

from __future__ import annotations

import pytest
import torch

from flowzoo.testing import CheckFailed
from flowzoo.testing.slopes import check_slope

F64 = torch.float64
SMOOTH = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.5, -0.2]], dtype=F64)
AT_A_KINK = torch.tensor([[2e-7, 0.7]], dtype=F64)  # the step of the difference crosses it


def test_rows_at_a_kink_say_nothing():
    assert check_slope(torch.abs, torch.cat([SMOOTH, AT_A_KINK]), "abs")
    assert not check_slope(torch.abs, AT_A_KINK.expand(4, 2), "abs")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: x.detach().abs(), "abs: has no gradient, and moves"),
        (lambda x: x.detach() * x, "derivative of abs"),
        (lambda x: x.detach().square() + 0 * x, "derivative of abs"),
    ],
)
def test_a_cut_graph_is_found_beside_a_kink(call, said):
    with pytest.raises(CheckFailed, match=said):
        check_slope(call, torch.cat([SMOOTH, AT_A_KINK]), "abs")


def test_a_constant_needs_no_gradient():
    assert check_slope(lambda x: torch.ones(len(x), dtype=F64), SMOOTH, "one")
