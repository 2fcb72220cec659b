"""MAF at the start: the identity is a saddle for independent columns, random weights leave it."""

import pytest
import torch

from flowzoo.priors import StandardNormal
from flowzoo_plugins.base_flows.maf import MAF


def two_uniforms():
    """A grid over two uniforms, standardised: its columns are exactly independent."""
    first = torch.cat([torch.linspace(-2, -1, 8), torch.linspace(1, 2, 8)])
    rows = torch.cartesian_prod(first, torch.linspace(-1, 1, 16))
    return (rows - rows.mean(0)) / rows.std(0, correction=0)


def loss(flow, x):
    step = flow.encode(x)
    return -(StandardNormal(2).log_prob(step.value) + step.log_abs_det).mean()


def trained(flow, x, steps=200):
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(flow, x)
        value.backward()
        optimizer.step()
    return value.item()


def maf(start):
    torch.manual_seed(0)
    return MAF(2, layers=3, hidden=(32,), normalization="none", start=start)


def test_the_identity_is_a_saddle_for_independent_columns():
    flow = maf(0.0)
    loss(flow, two_uniforms()).backward()
    assert max(p.grad.abs().max() for p in flow.parameters()) < 1e-6


def test_a_random_start_leaves_the_saddle():
    x = two_uniforms()
    gaussian = loss(maf(0.0), x).item()
    assert trained(maf(0.01), x) < gaussian - 0.3


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
