"""Couplings, masked layers and batch-norm against other libraries, with copied weights.

Each library's own scale function is plugged into our layer by overriding the one method that turns
the network's output into shift and log-scale.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from flowzoo.layers import (
    AdditiveCoupling,
    AffineCoupling,
    Composition,
    InvertibleBatchNorm,
    MaskedAffineAutoregressive,
)

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def away(module, scale=0.3):
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


def standard_normal(z):
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


def check_same(flow, x, value, log_det, context=None):
    """The same map, volume term and density; and back again."""
    step = flow.encode(x, context)
    torch.testing.assert_close(step.value, value, rtol=0, atol=1e-10)
    torch.testing.assert_close(step.log_abs_det, log_det, rtol=0, atol=1e-10)
    log_prob = standard_normal(step.value) + step.log_abs_det
    torch.testing.assert_close(log_prob, standard_normal(value) + log_det, rtol=0, atol=1e-5)
    back = flow.decode(value, context)
    torch.testing.assert_close(back.value, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(back.log_abs_det, log_det, rtol=0, atol=1e-9)


# couplings ----------------------------------------------------------------------------------------


def copy_mlp(ours, theirs, columns, rows):
    """normflows' net of all columns into ours of the passing ones, moved rows only."""
    linears = [module for module in theirs.net if isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        for index, (mine, other) in enumerate(zip(ours.linears, linears, strict=True)):
            weight = other.weight[:, columns] if index == 0 else other.weight
            if index == len(linears) - 1:  # stored (out, in), as theirs
                mine.weight.copy_(weight[rows])
                mine.bias.copy_(other.bias[rows])
            else:
                mine.weight.copy_(weight.T)
                mine.bias.copy_(other.bias)


def test_affine_couplings_match_normflows():
    import normflows

    bound, features = 4.0, 3  # a power of two: normflows holds its inverse in float32
    ours, theirs = [], []
    for reverse in (False, True, False):
        passing = [1, 2] if reverse else [0]
        moved = [0] if reverse else [1, 2]
        mask = torch.zeros(features, dtype=F64)
        mask[passing] = 1.0
        scale = normflows.nets.MLP(
            [features, 8, 8, features],
            score_scale=1.0 / bound,
            output_fn="tanh",
            output_scale=bound,
        )
        shift = normflows.nets.MLP([features, 8, 8, features])
        theirs.append(away(normflows.flows.MaskedAffineFlow(mask, shift, scale)))
        layer = AffineCoupling(
            features,
            hidden=(8, 8),
            reverse=reverse,
            scale_activation="relu",
            log_scale_bound=bound,
        ).double()
        copy_mlp(layer.scale_net, scale, passing, moved)
        copy_mlp(layer.translation_net, shift, passing, moved)
        ours.append(layer)
    x = 2 * torch.randn(50, features, dtype=F64)
    value, log_det = x, torch.zeros(50, dtype=F64)
    for flow in theirs:
        value, part = flow(value)
        log_det = log_det + part
    assert log_det.abs().max() > 0.1
    check_same(Composition(ours), x, value, log_det)


@pytest.mark.parametrize("context", [0, 2])
def test_additive_coupling_matches_nflows(context):
    from nflows.transforms.coupling import AdditiveCouplingTransform

    layer = away(AdditiveCoupling(5, hidden=(8,), context_features=context))

    class Shared(torch.nn.Module):
        def forward(self, inputs, context=None):
            return layer.net(inputs if context is None else torch.cat([inputs, context], dim=1))

    theirs = AdditiveCouplingTransform([-1, -1, 1, 1, 1], lambda *sizes: Shared())
    x = torch.randn(20, 5, dtype=F64)
    c = torch.randn(20, context, dtype=F64) if context else None
    value, log_det = theirs(x, c)
    check_same(layer, x, value, log_det, c)


# masked autoregressive layers ---------------------------------------------------------------------


class NflowsScale(MaskedAffineAutoregressive):
    """z = (softplus(raw) + 0.001) x + shift."""

    def _shift_and_scale(self, raw):
        shift, raw_scale = torch.split(raw, self.features, dim=1)
        scale = F.softplus(raw_scale) + 1e-3
        return -shift / scale, scale.log()


class ZukoScale(MaskedAffineAutoregressive):
    """z = exp(a) x + shift, a = raw / (1 + |raw / log 0.001|)."""

    def _shift_and_scale(self, raw):
        shift, raw_scale = torch.split(raw, self.features, dim=1)
        log_scale = raw_scale / (1 + (raw_scale / math.log(1e-3)).abs())
        return -shift * (-log_scale).exp(), log_scale


def copy_made(made, linears, orders, shift_first):
    """A library's masked linears into our MADE; ``orders`` sort each layer's units by degree."""
    features = made.features
    before = torch.arange(linears[0].in_features)
    with torch.no_grad():
        for mine, other, order in zip(made.linears[:-1], linears[:-1], orders, strict=True):
            assert torch.equal(mine.mask, other.mask[order][:, before].T.to(F64))
            mine.weight.copy_(other.weight[order][:, before].T)
            mine.bias.copy_(other.bias[order])
            before = order
        # theirs interleave a feature's two outputs, ours come in blocks: shifts, then scales
        first, second = (0, 1) if shift_first else (1, 0)
        rows = torch.cat([torch.arange(features) * 2 + first, torch.arange(features) * 2 + second])
        last = made.linears[-1]
        assert torch.equal(last.mask, linears[-1].mask[rows][:, before].to(F64))
        last.weight.copy_(linears[-1].weight[rows][:, before])
        last.bias.copy_(linears[-1].bias[rows])


@pytest.mark.parametrize("features, blocks", [(1, 1), (3, 1), (5, 2)])
def test_masked_layer_matches_nflows(features, blocks):
    from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform

    theirs = away(
        MaskedAffineAutoregressiveTransform(
            features, hidden_features=12, num_blocks=blocks, use_residual_blocks=False
        )
    )
    net = theirs.autoregressive_net
    linears = [net.initial_layer, *(block.linear for block in net.blocks), net.final_layer]
    orders = [torch.argsort(linear.degrees, stable=True) for linear in linears[:-1]]
    layer = NflowsScale(features, hidden=(12,) * (blocks + 1)).double()
    copy_made(layer.made, linears, orders, shift_first=False)
    x = torch.randn(30, features, dtype=F64)
    value, log_det = theirs(x)
    check_same(layer, x, value, log_det)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("features, context", [(2, 0), (3, 0), (4, 2)])
def test_masked_layer_matches_zuko(features, context, reverse):
    zuko = pytest.importorskip("zuko", reason="zuko is an optional extra")
    order = list(range(features))
    theirs = away(
        zuko.flows.MaskedAutoregressiveTransform(
            features,
            context,
            order=order[::-1] if reverse else order,
            hidden_features=(12, 12),
        )
    )
    linears = [module for module in theirs.hyper if isinstance(module, torch.nn.Linear)]
    # zuko deals the degrees out in turn, in the order of its unique rows of the mask
    sees = linears[0].mask[:, :features].sum(dim=1)
    orders = [torch.argsort(sees, stable=True)] * 2
    layer = ZukoScale(features, hidden=(12, 12), context_features=context, reverse=reverse).double()
    copy_made(layer.made, linears, orders, shift_first=True)
    x = torch.randn(30, features, dtype=F64)
    c = torch.randn(30, context, dtype=F64) if context else None
    value, log_det = theirs(c).call_and_ladj(x)
    check_same(layer, x, value, log_det, c)


# batch-norm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_matches_nflows(training):
    """nflows divides the batch's squares by n - 1, ours by n: a factor its weight can carry."""
    from nflows.transforms.normalization import BatchNorm

    rows = 20
    ratio = rows / (rows - 1) if training else 1.0
    ours = away(InvertibleBatchNorm(3, momentum=0.2, eps=1e-3))
    ours.running_mean.normal_()
    ours.running_var.uniform_(0.5, 2.0)
    theirs = BatchNorm(3, eps=1e-3 * ratio, momentum=0.2).double()
    with torch.no_grad():
        weight = ours.log_gamma.exp() * ratio**0.5
        theirs.unconstrained_weight.copy_((weight - theirs.eps).expm1().log())
        theirs.bias.copy_(ours.beta)
        theirs.running_mean.copy_(ours.running_mean)
        theirs.running_var.copy_(ratio * ours.running_var)
    x = 3.0 + 2.0 * torch.randn(rows, 3, dtype=F64)
    value, log_det = theirs.train(training)(x)
    step = ours.train(training).encode(x)
    torch.testing.assert_close(step.value, value, rtol=0, atol=1e-12)
    torch.testing.assert_close(step.log_abs_det, log_det, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ratio * ours.running_var, theirs.running_var)
    if not training:
        check_same(ours, x, value, log_det)
