"""Exactness of every layer: inverse, volume term, structure, edge sizes."""

import copy
import math

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from flowzoo.layers import (
    AffineCoupling,
    MaskedAffineAutoregressive,
    Permutation,
    RadialSquash,
)
from known_layers import (
    F64,
    additive_coupling,
    autoregressive,
    batch_norm,
    composition,
    coupling,
    data,
    jacobian,
    randomised,
    spline_autoregressive,
    spline_coupling,
    volume_preserving_coupling,
)

COUPLINGS = [coupling, additive_coupling, volume_preserving_coupling, spline_coupling]
MASKED = [autoregressive, spline_autoregressive]

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
    "additive_coupling": additive_coupling,
    "volume_preserving_coupling": volume_preserving_coupling,
    "spline_coupling": spline_coupling,
    "spline_coupling_reversed": lambda d, c: spline_coupling(d, c, reverse=True),
    "spline_autoregressive": spline_autoregressive,
    "composition": composition,
}
CASES = [
    pytest.param(make, d, c, id=f"{name}-D{d}-C{c}")
    for name, make in (UNCONDITIONAL | CONDITIONAL).items()
    for d in (1, 2, 3, 5)
    for c in ((0, 2) if name in CONDITIONAL else (0,))
]


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
    if "coupling" in name and features > 1:
        passing = features - features // 2 if name.endswith("reversed") else features // 2
        assert changed.sum() == features - passing
    else:
        assert changed.all()


@pytest.mark.parametrize("make", COUPLINGS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("features", [2, 3, 5])
def test_coupling_jacobian_zeros(make, features, reverse):
    layer = randomised(make(features, 0, reverse))
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


@pytest.mark.parametrize("make", MASKED)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("features", [2, 3, 5])
def test_autoregressive_jacobian_zeros(make, features, reverse):
    layer = randomised(make(features, 0, reverse))
    j = jacobian(layer, *data(3, features, 0))
    zero = torch.tril(j, -1) if reverse else torch.triu(j, 1)
    kept = torch.triu(j) if reverse else torch.tril(j)
    assert (zero == 0).all()
    assert ((kept != 0).sum(dim=(1, 2)) == features * (features + 1) // 2).all()


@pytest.mark.parametrize("make", [*COUPLINGS, *MASKED])
@pytest.mark.parametrize("context", [0, 2])
def test_identity_at_initialisation(make, context):
    x, c = data(5, 3, context)
    step = make(3, context).double().encode(2 * x, c)
    tolerance = 1e-14 if "spline" in make.__name__ else 0.0
    torch.testing.assert_close(step.value, 2 * x, rtol=0, atol=tolerance)
    torch.testing.assert_close(
        step.log_abs_det, torch.zeros(5, dtype=F64), rtol=0, atol=10 * tolerance
    )


@pytest.mark.parametrize("make", [additive_coupling, volume_preserving_coupling])
@pytest.mark.parametrize("features", [1, 2, 3, 5])
def test_volume_is_preserved_exactly(make, features):
    layer = randomised(make(features, 2), scale=2.0)
    x, c = data(9, features, 2)
    assert torch.equal(layer.encode(x, c).log_abs_det, torch.zeros(9, dtype=F64))
    _, log_abs_det = torch.linalg.slogdet(jacobian(layer, x, c))
    torch.testing.assert_close(log_abs_det, torch.zeros(9, dtype=F64), rtol=0, atol=1e-12)


def test_volume_preserving_scale_is_centred():
    """With several moved columns they stretch, by factors whose product is one; one only moves."""
    layer = randomised(volume_preserving_coupling(5, 0))  # moves columns 2, 3 and 4
    factors = torch.diagonal(jacobian(layer, *data(9, 5, 0)), dim1=1, dim2=2)[:, 2:]
    assert (factors - 1.0).abs().min(dim=1).values.mean() > 1e-3
    torch.testing.assert_close(factors.prod(dim=1), torch.ones(9, dtype=F64))
    alone = randomised(volume_preserving_coupling(3, 2, reverse=True), scale=2.0)
    x, c = data(9, 3, 2)
    other = torch.cat([x[:, :1] + 1.0, x[:, 1:]], dim=1)
    shift = alone.encode(x, c).value - x
    torch.testing.assert_close(alone.encode(other, c).value - other, shift, rtol=0, atol=1e-14)
    assert shift[:, 0].abs().min() > 1e-3


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
