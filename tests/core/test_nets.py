"""The networks: shapes, masks, and MADE against nflows with copied weights."""

from typing import get_args

import pytest
import torch

from flowzoo.nets import MADE, MLP, Activation, Linear, build_activation

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_linear_is_affine():
    layer = Linear(3, 2).double()
    x = torch.randn(5, 3, dtype=F64)
    torch.testing.assert_close(layer(x), x @ layer.weight + layer.bias)
    assert layer.weight.abs().max() <= 3**-0.5


@pytest.mark.parametrize("hidden", [(), (7,), (7, 5)])
def test_mlp_matches_torch(hidden):
    net = MLP(3, 2, hidden=hidden, activation="tanh").double()
    x = torch.randn(5, 3, dtype=F64)
    h = x
    *first, last = net.linears
    for linear in first:
        h = torch.tanh(h @ linear.weight + linear.bias)
    torch.testing.assert_close(net(x), h @ last.weight.T + last.bias)


@pytest.mark.parametrize("activation", get_args(Activation))
def test_mlp_leaves_its_input_alone(activation):
    x = torch.randn(5, 3)
    before = x.clone()
    for hidden in ((), (4,), (4, 4)):
        MLP(3, 2, hidden=hidden, activation=activation)(x).sum().backward()
        assert torch.equal(x, before)


def test_zero_last_is_the_zero_function():
    x = torch.randn(5, 3)
    assert (MLP(3, 2, hidden=(4,), zero_last=True)(x) == 0).all()
    assert (MADE(3, hidden=(4,), outputs=2, zero_last=True)(x) == 0).all()


def dependencies(net, features, context):
    """Whether output j depends on input i and on each context column, for random weights."""
    x = torch.randn(1, features, dtype=F64)
    c = torch.randn(1, context, dtype=F64) if context else None
    jx = torch.autograd.functional.jacobian(lambda v: net(v, c)[0], x)[:, 0]
    jc = torch.autograd.functional.jacobian(lambda v: net(x, v)[0], c)[:, 0] if context else None
    return jx, jc


@pytest.mark.parametrize("features", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("hidden", [(), (36,), (36, 24)])
@pytest.mark.parametrize("reverse", [False, True])
def test_made_dependencies_are_exact(features, context, hidden, reverse):
    order = list(range(features, 0, -1)) if reverse else None
    net = MADE(
        features,
        hidden=hidden,
        outputs=2,
        context_features=context,
        order=order,
        activation="tanh",
    ).double()
    jx, jc = dependencies(net, features, context)
    degrees = torch.tensor(order or range(1, features + 1))
    expected = (degrees[:, None] > degrees[None, :]).repeat(2, 1)
    assert torch.equal(jx != 0, expected)
    if jc is not None:
        assert (jc != 0).all()  # the first feature too


def test_made_uses_early_features_when_narrow():
    net = MADE(10, hidden=(4,), outputs=1, activation="tanh").double()
    jx, _ = dependencies(net, 10, 0)
    assert (torch.triu(jx) == 0).all()
    assert (jx[-1, :7] != 0).all()


@pytest.mark.parametrize("features, hidden", [(1, (8,)), (3, (8,)), (5, (8, 8))])
def test_made_matches_nflows(features, hidden):
    from nflows.transforms.made import MADE as NflowsMADE

    theirs = NflowsMADE(
        features,
        hidden[0],
        num_blocks=len(hidden) - 1,
        output_multiplier=2,
        use_residual_blocks=False,
    ).double()
    ours = MADE(features, hidden=hidden, outputs=2).double()
    layers = [theirs.initial_layer, *(block.linear for block in theirs.blocks)]
    before = torch.arange(features)
    with torch.no_grad():
        for mine, other in zip(ours.linears, layers, strict=False):
            order = torch.argsort(other.degrees, stable=True)  # ours are in rising order
            mine.weight.copy_(other.weight[order][:, before].T)
            mine.bias.copy_(other.bias[order])
            assert torch.equal(mine.mask, other.mask[order][:, before].T)
            before = order
        # nflows interleaves the outputs of a feature, ours come in blocks
        rows = torch.cat([torch.arange(features) * 2, torch.arange(features) * 2 + 1])
        ours.linears[-1].weight.copy_(theirs.final_layer.weight[rows][:, before])
        ours.linears[-1].bias.copy_(theirs.final_layer.bias[rows])
    x = torch.randn(7, features, dtype=F64)
    torch.testing.assert_close(ours(x), theirs(x)[:, rows])


def test_parameter_counts_of_the_literature():
    # MADE(2; 4 x 50) -> 4 outputs, ten of them with a batch-norm of 2 D: 80,080 (Cornish et al.)
    count = sum(p.numel() for p in MADE(2, hidden=(50,) * 4, outputs=2).parameters())
    assert 10 * (count + 4) == 80_080


def test_masks_are_buffers_and_follow_dtype():
    net = MADE(3, hidden=(4,)).double()
    assert {name for name, _ in net.named_buffers()} == {"linears.0.mask", "linears.1.mask"}
    assert all(mask.dtype == F64 for mask in net.buffers())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MADE(3, hidden=(4,), order=(1, 1, 2)), r"order: expected a permutation of 1\.\.3"),
        (lambda: MADE(0, hidden=(4,)), "features: expected a positive integer, got 0"),
        (lambda: MADE(3, hidden=(0,)), "hidden: expected a positive integer, got 0"),
        (lambda: MLP(0, 1, hidden=()), "in_features: expected a positive integer"),
        (lambda: build_activation("swish"), "activation: expected one of .*'silu'"),
        (lambda: MADE(3, hidden=(4,))(torch.zeros(2, 4)), r"x: expected shape \(N, 3\)"),
        (lambda: MADE(3, hidden=(4,), context_features=1)(torch.zeros(2, 3)), "context: expected"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
