"""What one kind of layer does: batch-norm statistics, compositions, permutations, the ball."""

from itertools import pairwise

import pytest
import torch

from flowzoo.layers import (
    Composition,
    InvertibleBatchNorm,
    Permutation,
    RadialSquash,
)
from known_layers import (
    F64,
    autoregressive,
    batch_norm,
    composition,
    coupling,
    data,
    randomised,
)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# batch-norm ---------------------------------------------------------------------------------------


def test_batch_norm_training_statistics():
    layer = InvertibleBatchNorm(2, momentum=0.25).double()
    mean, var = layer.running_mean, layer.running_var
    x = 3.0 + 2.0 * torch.randn(50, 2, dtype=F64)
    z, log_abs_det = layer.encode(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(2, dtype=F64), rtol=0, atol=1e-12)
    expected = (x - x.mean(0)) / (x.var(0, correction=0) + layer.eps).sqrt()
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(log_abs_det[0], -0.5 * (x.var(0, correction=0) + 1e-5).log().sum())
    assert layer.running_mean is mean and layer.running_var is var  # updated in place
    torch.testing.assert_close(mean, 0.25 * x.mean(0))
    torch.testing.assert_close(var, 0.75 + 0.25 * x.var(0, correction=0))


def test_batch_norm_matches_torch_in_eval():
    layer = randomised(batch_norm(3, 0))
    x, _ = data(10, 3, 0)
    expected = torch.nn.functional.batch_norm(
        x,
        layer.running_mean,
        layer.running_var,
        layer.log_gamma.exp(),
        layer.beta,
        eps=layer.eps,
    )
    torch.testing.assert_close(layer.encode(x).value, expected)


def test_batch_norm_decode_uses_running_statistics_in_both_modes():
    layer = randomised(batch_norm(3, 0))
    z, _ = data(10, 3, 0)
    expected = layer.decode(z).value
    before = layer.running_mean.clone()
    assert torch.equal(layer.train().decode(z).value, expected)
    assert torch.equal(layer.running_mean, before)


def test_batch_norm_gradient_passes_through_the_statistics():
    layer = InvertibleBatchNorm(1).double()
    x = torch.randn(8, 1, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: tuple(layer.encode(v)), (x,))


def test_batch_norm_constant_column_is_finite():
    layer = InvertibleBatchNorm(2).double()
    x = torch.tensor([[1.0, 2.0], [1.0, 3.0]], dtype=F64, requires_grad=True)
    step = layer.encode(x)
    (step.value.sum() + step.log_abs_det.sum()).backward()
    assert step.value.isfinite().all() and x.grad.isfinite().all()


@pytest.mark.parametrize("options", [{"momentum": 0.0}, {"momentum": 1.5}, {"eps": 0.0}])
def test_batch_norm_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        InvertibleBatchNorm(2, **options)


# composition, permutation, squash -----------------------------------------------------------------


def test_composition_layers_compose_to_encode():
    flow = randomised(Composition([composition(3, 2), composition(3, 2)]))
    layers = flow.layers()
    assert len(layers) == 14
    x, c = data(6, 3, 2)
    value, total = x, torch.zeros(6, dtype=F64)
    for layer in layers:
        value, log_abs_det = layer.encode(value, c if layer.context_features else None)
        total = total + log_abs_det
    expected = flow.encode(x, c)
    assert torch.equal(value, expected.value)
    torch.testing.assert_close(total, expected.log_abs_det)


def test_composition_attributes():
    flow = Composition([Permutation(3, order="reverse"), autoregressive(3, 2)])
    assert (flow.features, flow.latent_features, flow.context_features) == (3, 3, 2)
    assert flow.num_charts is None
    assert flow.fast == "encode"
    assert Composition([coupling(3, 0)]).fast == "both"


@pytest.mark.parametrize(
    "flows, message",
    [
        (lambda: [], "flows: expected at least one flow, got none"),
        (lambda: [RadialSquash(2), RadialSquash(3)], r"part 1 \(RadialSquash\) to take 2 .* got 3"),
        (lambda: [coupling(3, 1), coupling(3, 2)], r"agree on context_features, got \[1, 2\]"),
    ],
)
def test_composition_bad_parts(flows, message):
    with pytest.raises(ValueError, match=message):
        Composition(flows())


def test_permutation_orders():
    x = torch.arange(4.0)[None]
    assert Permutation(4, order="reverse").encode(x).value.tolist() == [[3, 2, 1, 0]]
    assert Permutation(4, order=(1, 3, 0, 2)).encode(x).value.tolist() == [[1, 3, 0, 2]]
    orders = [
        Permutation(9, order="random", generator=torch.Generator().manual_seed(s)).order.tolist()
        for s in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(9))


@pytest.mark.parametrize("order", [(0, 0, 1), (0, 1), "backwards"])
def test_permutation_bad_order(order):
    with pytest.raises(ValueError, match=r"order: expected 'reverse', 'random' or a permutation"):
        Permutation(3, order=order)


@pytest.mark.parametrize("features", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_squash_near_the_sphere(features, dtype):
    squash = RadialSquash(features)
    direction = torch.nn.functional.normalize(torch.randn(1, features, dtype=dtype))
    radii = torch.logspace(-3, 6, 50, dtype=dtype)[:, None]
    z, log_abs_det = squash.encode(radii * direction)
    back = squash.decode(z)
    assert (z.norm(dim=1) <= 1 + 4 * torch.finfo(dtype).eps).all()
    for tensor in (z, log_abs_det, back.value, back.log_abs_det):
        assert tensor.isfinite().all()
    near = radii[:, 0] < (30 if dtype == torch.float32 else 3e4)
    tolerance = 1e-3 if dtype == torch.float32 else 1e-6
    torch.testing.assert_close(
        back.value[near], (radii * direction)[near], rtol=tolerance, atol=1e-12
    )
    norms = back.value.norm(dim=1)
    assert all(b >= a * (1 - tolerance) for a, b in pairwise(norms[near]))


def test_squash_outside_the_ball_is_not_hidden():
    z = torch.tensor([[1.5, 0.0], [0.5, 0.0]])
    back = RadialSquash(2).decode(z).value
    assert back[0].isnan().any() and back[1].isfinite().all()
