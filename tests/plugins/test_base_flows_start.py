"""MAF at the start: a saddle for independent columns that are not Gaussian, and a way off it."""

import math

import pytest
import torch

from flowzoo.priors import StandardNormal
from flowzoo_plugins.base_flows.maf import MAF


def two_uniforms():
    """A grid over two uniforms, standardised: its columns are exactly independent."""
    first = torch.cat([torch.linspace(-2, -1, 8), torch.linspace(1, 2, 8)])
    rows = torch.cartesian_prod(first, torch.linspace(-1, 1, 16)).double()
    return (rows - rows.mean(0)) / rows.std(0, correction=0)


def loss(flow, x):
    step = flow.encode(x)
    return -(StandardNormal(2).log_prob(step.value) + step.log_abs_det).mean()


def descended(start, steps=400):
    """The losses of gradient descent, which unlike Adam does not blow rounding up to steps."""
    torch.manual_seed(0)
    flow = MAF(2, layers=3, hidden=(32,), normalization="none", start=start).double()
    optimizer = torch.optim.SGD(flow.parameters(), lr=0.05)
    x = two_uniforms()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(flow, x)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def test_descent_stays_at_the_identity_and_leaves_a_point_beside_it():
    gaussian = math.log(2 * math.pi) + 1.0
    assert all(abs(value - gaussian) < 1e-6 for value in descended(0.0))
    beside = descended(0.01)
    assert beside[0] < gaussian + 0.01
    assert min(beside) < gaussian - 0.1


def test_the_start_is_the_deviation_of_the_last_weights():
    flow = MAF(64, layers=2, hidden=(64,), start=0.05)
    for layer in flow.layers():
        for name, parameter in layer.named_parameters():
            if "made.linears.1" in name:
                if name.endswith("weight"):
                    assert abs(parameter.std().item() - 0.05) < 0.005
                else:
                    assert (parameter == 0).all()


def test_the_default_start_is_the_identity():
    x = torch.randn(5, 3)
    assert torch.equal(MAF(3, layers=2, normalization="none").encode(x).value, x)


@pytest.mark.parametrize("start", [-0.1, float("nan"), float("inf"), "0.1", True])
def test_a_start_that_is_no_deviation_is_refused(start):
    with pytest.raises(ValueError, match="start"):
        MAF(3, start=start)
