"""Exactness of every layer: inverse, volume term, structure, edge sizes."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from flowzoo.layers import (
    AffineCoupling,
    Composition,
    InvertibleBatchNorm,
    MaskedAffineAutoregressive,
    Permutation,
    RadialSquash,
)

F64 = torch.float64


def coupling(features, context, reverse=False):
    return AffineCoupling(features, hidden=(8, 8), context_features=context, reverse=reverse)


def autoregressive(features, context, reverse=False):
    # tanh: no dead units, so that a dependency allowed by the masks is seen
    return MaskedAffineAutoregressive(
        features,
        hidden=(9, 8),
        context_features=context,
        reverse=reverse,
        activation="tanh",
    )


def batch_norm(features, context):
    layer = InvertibleBatchNorm(features)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2.0)
    return layer


def composition(features, context):
    return Composition(
        [
            autoregressive(features, context),
            Permutation(features, order="random", generator=torch.Generator().manual_seed(3)),
            batch_norm(features, context),
            coupling(features, context, reverse=True),
            RadialSquash(features),
        ]
    )


UNCONDITIONAL = {
    "batch_norm": batch_norm,
    "reverse": lambda features, context: Permutation(features, order="reverse"),
    "squash": lambda features, context: RadialSquash(features),
}
CONDITIONAL = {
    "coupling": coupling,
    "coupling_reversed": lambda d, c: coupling(d, c, reverse=True),
    "autoregressive": autoregressive,
    "autoregressive_reversed": lambda d, c: autoregressive(d, c, reverse=True),
    "composition": composition,
}
CASES = [
    pytest.param(make, d, c, id=f"{name}-D{d}-C{c}")
    for name, make in (UNCONDITIONAL | CONDITIONAL).items()
    for d in (1, 2, 3, 5)
    for c in ((0, 2) if name in CONDITIONAL else (0,))
]


def randomised(layer, scale=0.5):
    """The layer in float64 and eval mode, away from its identity start."""
    layer = layer.double().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return layer


def data(rows, features, context):
    x = torch.randn(rows, features, dtype=F64)
    return x, torch.randn(rows, context, dtype=F64) if context else None


def jacobian(layer, x, context):
    def encode(row, c):
        return layer.encode(row[None], None if c is None else c[None]).value[0]

    rows = [
        torch.autograd.functional.jacobian(
            lambda v, i=i: encode(v, None if context is None else context[i]), x[i]
        )
        for i in range(len(x))
    ]
    return torch.stack(rows)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("make, features, context", CASES)
def test_inverse_and_volume(make, features, context):
    layer = randomised(make(features, context))
    x, c = data(6, features, context)
    z, log_abs_det = layer.encode(x, c)
    back, back_log_abs_det = layer.decode(z, c)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(back_log_abs_det, log_abs_det, rtol=0, atol=1e-9)
    _, expected = torch.linalg.slogdet(jacobian(layer, x, c))
    torch.testing.assert_close(log_abs_det, expected, rtol=0, atol=1e-8)
    # and from the latent side (inside the unit ball, where every layer's latent side is defined)
    z = 0.9 * z / (1.0 + z.norm(dim=1, keepdim=True))
    x, log_abs_det = layer.decode(z, c)
    forth, forth_log_abs_det = layer.encode(x, c)
    torch.testing.assert_close(forth, z, rtol=0, atol=1e-9)
    torch.testing.assert_close(forth_log_abs_det, log_abs_det, rtol=0, atol=1e-8)


@pytest.mark.parametrize("make, features, context", CASES)
@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("training", [False, True])
def test_edge_batches(make, features, context, rows, training):
    layer = randomised(make(features, context)).train(training)
    before = copy.deepcopy(layer.state_dict())
    x, c = data(rows, features, context)
    for step in (layer.encode(x, c), layer.decode(0.1 * x.tanh(), c)):
        assert step.value.shape == (rows, features)
        assert step.log_abs_det.shape == (rows,)
        assert step.value.isfinite().all() and step.log_abs_det.isfinite().all()
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("make, features, context", CASES)
def test_rows_are_independent(make, features, context):
    layer = randomised(make(features, context))
    x, c = data(5, features, context)
    whole = layer.encode(x, c)
    for i in range(5):
        one = layer.encode(x[i : i + 1], None if c is None else c[i : i + 1])
        torch.testing.assert_close(one.value[0], whole.value[i], rtol=0, atol=1e-12)
        torch.testing.assert_close(one.log_abs_det[0], whole.log_abs_det[i], rtol=0, atol=1e-12)


@pytest.mark.parametrize("make, features, context", CASES)
def test_copies_saves_and_moves(make, features, context):
    layer = randomised(make(features, context))
    x, c = data(4, features, context)
    expected = layer.encode(x, c)
    assert torch.equal(copy.deepcopy(layer).encode(x, c).value, expected.value)
    fresh = make(features, context).double().eval()
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh.encode(x, c).value, expected.value)
    meta = copy.deepcopy(layer).to("meta")
    for mode in (True, False):
        step = meta.train(mode).encode(x.to("meta"), None if c is None else c.to("meta"))
        assert step.value.is_meta and step.log_abs_det.is_meta
    back = meta.decode(x.to("meta"), None if c is None else c.to("meta"))
    assert back.value.is_meta and back.value.dtype == F64


@pytest.mark.parametrize(
    "make, features, context", [case for case in CASES if case.id[:4] not in ("reve", "squa")]
)
@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_every_parameter_gets_a_finite_gradient(make, features, context, direction):
    layer = randomised(make(features, context))
    x, c = data(16, features, context)
    step = getattr(layer, direction)(0.1 * x, c)
    (step.value.square().sum() + step.log_abs_det.sum()).backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("name", sorted(CONDITIONAL))
@pytest.mark.parametrize("features", [1, 2, 3, 5])
def test_context_reaches_every_moved_column(name, features):
    layer = randomised(CONDITIONAL[name](features, 2))
    x, c = data(1, features, 2)
    changed = (layer.encode(x, c).value != layer.encode(x, c + 1.0).value)[0]
    if name.startswith("coupling") and features > 1:
        passing = features - features // 2 if name.endswith("reversed") else features // 2
        assert changed.sum() == features - passing
    else:
        assert changed.all()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("features", [2, 3, 5])
def test_coupling_jacobian_zeros(features, reverse):
    layer = randomised(coupling(features, 0, reverse))
    j = jacobian(layer, *data(3, features, 0))
    split = features // 2
    passing = list(range(split, features)) if reverse else list(range(split))
    moved = [i for i in range(features) if i not in passing]
    assert torch.equal(
        j[:, passing][:, :, passing], torch.eye(len(passing), dtype=F64).expand(3, -1, -1)
    )
    assert (j[:, passing][:, :, moved] == 0).all()
    assert (j[:, moved][:, :, passing] != 0).all()
    diagonal = torch.diagonal(j[:, moved][:, :, moved], dim1=1, dim2=2)
    assert torch.equal(j[:, moved][:, :, moved], torch.diag_embed(diagonal))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("features", [2, 3, 5])
def test_autoregressive_jacobian_zeros(features, reverse):
    layer = randomised(autoregressive(features, 0, reverse))
    j = jacobian(layer, *data(3, features, 0))
    zero = torch.tril(j, -1) if reverse else torch.triu(j, 1)
    kept = torch.triu(j) if reverse else torch.tril(j)
    assert (zero == 0).all()
    assert ((kept != 0).sum(dim=(1, 2)) == features * (features + 1) // 2).all()


@pytest.mark.parametrize("make", [coupling, autoregressive])
@pytest.mark.parametrize("context", [0, 2])
def test_identity_at_initialisation(make, context):
    x, c = data(5, 3, context)
    step = make(3, context).double().encode(x, c)
    assert torch.equal(step.value, x)
    assert torch.equal(step.log_abs_det, torch.zeros(5, dtype=F64))


@pytest.mark.parametrize("make", [AffineCoupling, MaskedAffineAutoregressive])
def test_log_scale_is_bounded(make):
    layer = randomised(make(1, hidden=(8,), context_features=1, log_scale_bound=1.5), scale=100.0)
    x, c = data(200, 1, 1)
    log_scale = layer.encode(x, 1e4 * c).log_abs_det
    assert -1.5 <= log_scale.min() < -1.4 or 1.4 < log_scale.max() <= 1.5
    assert log_scale.abs().max() <= 1.5
    with pytest.raises(ValueError, match="log_scale_bound: expected a finite number > 0, got 0"):
        make(2, hidden=(8,), log_scale_bound=0)


def test_autoregressive_decode_ignores_unfinished_columns():
    """Column 2 overflows in the first pass, where column 1 is not there yet; it must not leak."""
    layer = MaskedAffineAutoregressive(2, hidden=())
    output = layer.made.linears[-1]
    with torch.no_grad():  # rows: mu_1, mu_2, raw_1, raw_2
        output.bias[3] = -1000.0
        output.weight[3, 0] = 2000.0
    x = layer.decode(torch.tensor([[1.0, 3e38]])).value
    torch.testing.assert_close(x, torch.tensor([[1.0, 3e38 * math.exp(-5)]]))


def test_coupling_matches_normflows():
    from normflows.flows import MaskedAffineFlow

    layer = randomised(coupling(3, 0))

    class Padded(torch.nn.Module):
        """Our net on the passing column, as a net of all columns."""

        def __init__(self, net, bound=None):
            super().__init__()
            self.net, self.bound = net, bound

        def forward(self, masked):
            out = self.net(masked[:, :1])
            if self.bound:
                out = self.bound * torch.tanh(out / self.bound)
            return torch.cat([torch.zeros_like(masked[:, :1]), out], dim=1)

    theirs = MaskedAffineFlow(
        torch.tensor([1.0, 0.0, 0.0], dtype=F64),
        Padded(layer.translation_net),
        Padded(layer.scale_net, layer.log_scale_bound),
    )
    x, _ = data(20, 3, 0)
    value, log_det = theirs.forward(x)
    step = layer.encode(x)
    torch.testing.assert_close(step.value, value, rtol=0, atol=1e-12)
    torch.testing.assert_close(step.log_abs_det, log_det, rtol=0, atol=1e-12)


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


# vmap ---------------------------------------------------------------------------------------------


class Encode(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, context):
        encoded = self.layer.encode(x, context)
        return encoded, self.layer.decode(0.5 * x.tanh(), context)


@pytest.mark.parametrize("features, context", [(1, 0), (1, 2), (3, 0), (3, 2)])
@pytest.mark.filterwarnings("error")  # no batching rule missing
def test_vmap_equals_loop(features, context):
    models = [Encode(randomised(composition(features, context)).train()) for _ in range(3)]
    alone = copy.deepcopy(models)
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    x = torch.randn(3, 6, features, dtype=F64)
    c = torch.randn(3, 6, context, dtype=F64) if context else None

    def run(p, b, x, c):
        return functional_call(base, (p, b), (x, c))

    in_dims = (0, 0, 0, None if c is None else 0)
    packed = vmap(run, in_dims=in_dims)(parameters, buffers, x, c)
    sum(t.square().sum() for step in packed for t in step).backward()
    for i, model in enumerate(alone):
        steps = model(x[i], None if c is None else c[i])
        sum(t.square().sum() for step in steps for t in step).backward()
        for ours, theirs in zip(packed, steps, strict=True):
            torch.testing.assert_close(ours.value[i], theirs.value, rtol=0, atol=1e-9)
            torch.testing.assert_close(ours.log_abs_det[i], theirs.log_abs_det, rtol=0, atol=1e-9)
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(buffers[name][i], buffer)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                parameters[name].grad[i], parameter.grad, rtol=1e-7, atol=1e-8
            )


# composition, permutation, squash -----------------------------------------------------------------


def test_composition_layers_compose_to_encode():
    flow = randomised(Composition([composition(3, 2), composition(3, 2)]))
    layers = flow.layers()
    assert len(layers) == 10
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


# errors -------------------------------------------------------------------------------------------


def test_bad_input_is_named():
    layer = coupling(3, 2)
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 3\), got \(5, 2\)"):
        layer.encode(torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"z: expected a floating dtype"):
        layer.decode(torch.zeros(5, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"context: expected shape \(5, 2\), got None"):
        layer.encode(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="context: expected None"):
        coupling(3, 0).encode(torch.zeros(5, 3), torch.zeros(5, 1))
    with pytest.raises(ValueError, match=r"activation: expected one of .*'relu'.*, got 'rleu'"):
        AffineCoupling(3, hidden=(4,), scale_activation="rleu")
    with pytest.raises(ValueError, match="hidden: expected a positive integer, got 0"):
        AffineCoupling(3, hidden=(4, 0))
