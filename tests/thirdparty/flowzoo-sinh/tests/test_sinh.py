"""The conformance suite on every plugin of this distribution, and what is known of them alone."""

import torch
from flowzoo_sinh.plugin import ATLAS, FLOW, NORMAL, SLABS

import flowzoo
from flowzoo.testing import parametrize_with_checks


@parametrize_with_checks([FLOW, SLABS, ATLAS, NORMAL], level="quick")
def test_conformance(check):
    check()


def test_the_flow_undoes_the_task():
    task = flowzoo.build("task", "sinh-normal", correlation=0.0, skew=0.3, tail=0.7)
    flow = flowzoo.build("base-flow", "sinh-arcsinh", features=2).double()
    with torch.no_grad():
        flow.bias.copy_(torch.tensor([0, 0, 0, 0, 0.3, 0.3, 0, 0]))
        flow.bias[6:] = torch.tensor(0.7).log()
    x = task.splits(0).test
    z, log_abs_det = flow.encode(x)
    normal = -0.5 * (z.square() + torch.log(torch.tensor(2 * torch.pi))).sum(dim=1)
    torch.testing.assert_close(normal + log_abs_det, task.log_prob(x), rtol=1e-5, atol=1e-5)


def test_slabs_hold_about_equally_many_rows():
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 1.0])
    slabs = flowzoo.build("partitioner", "slabs", features=2, num_charts=4)
    flowzoo.fit(slabs, x, x, seed=0)
    counts = slabs.assign(x).bincount(minlength=4)
    assert counts.min() > 180
