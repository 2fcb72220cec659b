"""The adapters to nflows and normflows: signs, directions, and the libraries' known traps."""

import copy
import math
import subprocess
import sys

import normflows
import pytest
import torch
from nflows.transforms import (
    AffineCouplingTransform,
    CompositeTransform,
    MaskedAffineAutoregressiveTransform,
    ReversePermutation,
)

from flowzoo_plugins.base_flows import (
    NflowsMAF,
    NflowsNSF,
    NflowsRealNVP,
    NflowsTransform,
    NormflowsFlows,
    NormflowsRealNVP,
)

F64 = torch.float64
CASES = [
    pytest.param(cls, d, c, id=f"{cls.__name__}-D{d}-C{c}")
    for cls in (NflowsRealNVP, NflowsMAF, NflowsNSF, NormflowsRealNVP)
    for d in (1, 2, 3, 5)
    for c in ((0,) if cls is NormflowsRealNVP else (0, 2))
]


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def perturbed(flow, scale=0.2):
    flow = flow.double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return flow


def small(cls, features, context=0, **options):
    return perturbed(
        cls(features, context_features=context, **({"layers": 3, "hidden": (12, 12)} | options))
    )


def data(rows, features, context=0):
    x = 1.5 * torch.randn(rows, features, dtype=F64)
    return x, torch.randn(rows, context, dtype=F64) if context else None


def check_exact(flow, x, c, atol=1e-9):
    z, log_abs_det = flow.encode(x, c)
    back = flow.decode(z, c)
    torch.testing.assert_close(back.value, x, rtol=0, atol=atol)
    torch.testing.assert_close(back.log_abs_det, log_abs_det, rtol=0, atol=atol)
    assert z.dtype == log_abs_det.dtype == F64 and log_abs_det.shape == (len(x),)
    j = torch.autograd.functional.jacobian(lambda v: flow.encode(v, c).value.sum(0), x)
    _, expected = torch.linalg.slogdet(j.permute(1, 0, 2))
    torch.testing.assert_close(log_abs_det, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("cls, features, context", CASES)
@pytest.mark.filterwarnings("error")
def test_inverse_and_volume(cls, features, context):
    check_exact(small(cls, features, context), *data(6, features, context), atol=1e-8)


@pytest.mark.parametrize("cls, features, context", CASES)
@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("training", [False, True])
def test_edge_batches(cls, features, context, rows, training):
    flow = small(cls, features, context).train(training)
    x, c = data(rows, features, context)
    for step in (flow.encode(x, c), flow.decode(x, c)):
        assert step.value.shape == (rows, features) and step.log_abs_det.shape == (rows,)
        assert step.value.isfinite().all() and step.log_abs_det.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in flow.buffers())


@pytest.mark.parametrize("cls, features, context", CASES)
def test_gradients_copies_and_saves(cls, features, context):
    flow = small(cls, features, context).train()
    x, c = data(32, features, context)
    step = flow.encode(x, c)
    (0.5 * step.value.square().sum(dim=1) - step.log_abs_det).mean().backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    flow.eval()
    expected = flow.encode(x, c).value
    assert torch.equal(copy.deepcopy(flow).encode(x, c).value, expected)
    fresh = cls(features, context_features=context, layers=3, hidden=(12, 12)).double().eval()
    fresh.load_state_dict(flow.state_dict())
    assert torch.equal(fresh.encode(x, c).value, expected)


@pytest.mark.parametrize("cls", [NflowsRealNVP, NflowsMAF, NflowsNSF])
@pytest.mark.parametrize("features", [1, 2, 3])
def test_context_changes_every_column(cls, features):
    flow = small(cls, features, 2, hidden=(32, 32))
    x, c = data(4, features, 2)
    assert (flow.encode(x, c).value != flow.encode(x, c + 0.5).value).any(dim=0).all()


@pytest.mark.parametrize("cls", [NflowsRealNVP, NflowsMAF, NflowsNSF, NormflowsRealNVP])
@pytest.mark.parametrize("features, points", [(1, 2000), (2, 300)])
def test_integrates_to_one(cls, features, points):
    flow = small(cls, features)
    u = (torch.arange(points, dtype=F64) + 0.5) / points * 2 - 1
    x = 2 * u / (1 - u**2)
    weight = 2 * (1 + u**2) / (1 - u**2) ** 2 * 2 / points
    grid = torch.cartesian_prod(*[x] * features).reshape(-1, features)
    weights = torch.cartesian_prod(*[weight] * features).reshape(-1, features).prod(dim=1)
    with torch.no_grad():
        z, log_abs_det = flow.encode(grid)
    log_prob = -0.5 * z.square().sum(1) - features / 2 * math.log(2 * math.pi) + log_abs_det
    assert (log_prob.exp() * weights).sum().item() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("cls", [NflowsRealNVP, NflowsMAF, NflowsNSF, NormflowsRealNVP])
def test_layers_compose_to_encode(cls):
    flow = small(cls, 3)
    assert len(flow.layers()) == 3
    x, _ = data(6, 3)
    value, total = x, torch.zeros(6, dtype=F64)
    for layer in flow.layers():
        value, log_abs_det = layer.encode(value)
        total = total + log_abs_det
    expected = flow.encode(x)
    assert torch.equal(value, expected.value)
    torch.testing.assert_close(total, expected.log_abs_det)
    assert not cls.packable and any(not getattr(m, "packable", True) for m in flow.modules())


# any transform of nflows --------------------------------------------------------------------------


def test_nflows_composite():
    transform = CompositeTransform(
        [
            ReversePermutation(3),
            MaskedAffineAutoregressiveTransform(3, hidden_features=8, context_features=2),
            CompositeTransform([ReversePermutation(3)]),
        ]
    )
    flow = perturbed(NflowsTransform(3, transform, context_features=2, fast="encode"))
    x, c = data(6, 3, 2)
    check_exact(flow, x, c)
    theirs, log_det = transform(x, c)  # nflows' forward is x to z
    step = flow.encode(x, c)
    assert torch.equal(step.value, theirs) and torch.equal(step.log_abs_det, log_det)
    assert flow.fast == "encode" and len(flow.layers()) == 3
    value = x
    for layer in flow.layers():
        value = layer.encode(value, c).value
    assert torch.equal(value, theirs)


def test_nflows_single_transform_cannot_be_taken_apart():
    with pytest.raises(TypeError, match="got ReversePermutation, which cannot be taken apart"):
        NflowsTransform(3, ReversePermutation(3)).layers()
    with pytest.raises(TypeError, match="expected an nflows Transform, got Linear"):
        NflowsTransform(3, torch.nn.Linear(3, 3))


def test_nflows_coupling_scale_is_the_librarys():
    """The coupling inside is nflows' own: its scale never exceeds 1.001."""
    flow = small(NflowsRealNVP, 3, normalization="none", layers=1)
    assert isinstance(flow.layers()[0].transform, AffineCouplingTransform)
    assert flow.encode(data(200, 3)[0]).log_abs_det.max() <= 2 * math.log(1.001)


def test_spline_tails():
    """Rows fully inside, fully outside, and exactly on the bound."""
    flow = small(NflowsNSF, 2, normalization="none", tail_bound=3.0)
    inside = torch.rand(5, 2, dtype=F64) * 4 - 2
    outside = 4 + torch.rand(5, 2, dtype=F64)
    bound = torch.tensor([[3.0, -3.0], [-3.0, 3.0]], dtype=F64)
    for x in (inside, outside, bound, torch.cat([inside, outside, bound])):
        step = flow.encode(x)
        torch.testing.assert_close(flow.decode(step.value).value, x, rtol=0, atol=1e-8)
    assert torch.equal(flow.encode(outside).value, outside)
    assert (flow.encode(outside).log_abs_det == 0).all()


class Twice(torch.nn.Module):
    def forward(self, inputs, context=None):
        return torch.cat([inputs, inputs], dim=1)


def twice(in_features, out_features):
    return Twice()


class Rounding(AffineCouplingTransform):
    """Trips an assertion in float32 only, as nflows' spline inverse can."""

    def inverse(self, inputs, context=None):
        assert inputs.dtype == F64
        return super().inverse(inputs, context)


def test_failing_spline_assertion_falls_back_to_float64():
    flow = NflowsTransform(2, Rounding([-1, 1], twice))
    x = torch.randn(4, 2)
    step = flow.encode(x)
    back = flow.decode(step.value)
    assert back.value.dtype == back.log_abs_det.dtype == torch.float32
    torch.testing.assert_close(back.value, x)
    torch.testing.assert_close(back.log_abs_det, step.log_abs_det)


class Never(ReversePermutation):
    def inverse(self, inputs, context=None):
        raise AssertionError


def test_spline_that_cannot_be_inverted_says_so():
    with pytest.raises(ValueError, match="nflows' Never cannot be inverted here"):
        NflowsTransform(2, Never(2)).decode(torch.zeros(3, 2))


# any flows of normflows ---------------------------------------------------------------------------


def test_normflows_list():
    b = torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    flows = [
        normflows.flows.MaskedAffineFlow(
            b, normflows.nets.MLP([3, 8, 3]), normflows.nets.MLP([3, 8, 3])
        ),
        normflows.flows.Permute(3),
        normflows.flows.AffineConstFlow((3,)),  # its volume term is a scalar
    ]
    flow = perturbed(NormflowsFlows(3, flows))
    x, _ = data(6, 3)
    check_exact(flow, x, None)
    model = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(3), flows).double()
    step = flow.encode(x)
    expected = model.log_prob(x)
    base = -0.5 * step.value.square().sum(1) - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(base + step.log_abs_det, expected)
    assert len(flow.layers()) == 3
    value = x
    for layer in flow.layers():
        value = layer.encode(value).value
    assert torch.equal(value, step.value)


def test_normflows_conditional():
    flows = [
        normflows.flows.AutoregressiveRationalQuadraticSpline(
            2, num_blocks=1, num_hidden_channels=8, num_context_channels=2
        ),
        normflows.flows.AffineConstFlow((2,)),  # takes no context
    ]
    flow = perturbed(NormflowsFlows(2, flows, context_features=2))
    x, c = data(6, 2, 2)
    check_exact(flow, x, c, atol=1e-7)
    assert (flow.encode(x, c).value != flow.encode(x, c + 1).value).any()
    value = x
    for layer in flow.layers():
        value = layer.encode(value, c if layer.context_features else None).value
    assert torch.equal(value, flow.encode(x, c).value)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: NormflowsFlows(2, []), ValueError, "flows: expected at least one flow"),
        (lambda: NormflowsFlows(2, [torch.nn.Tanh()]), TypeError, "normflows Flows, got Tanh"),
        (
            lambda: NormflowsFlows(2, [normflows.flows.AffineConstFlow((2,))], context_features=1),
            TypeError,
            r"none of \['AffineConstFlow'\] takes a context",
        ),
        (lambda: NormflowsRealNVP(2, context_features=3), ValueError, "takes no context"),
        (lambda: NflowsMAF(2, hidden=(8, 4)), ValueError, "hidden: expected equal widths"),
        (lambda: NflowsMAF(2, hidden=()), ValueError, "hidden: expected equal widths"),
        (lambda: NflowsRealNVP(2, hidden=()), ValueError, "hidden: expected at least one width"),
        (lambda: NflowsNSF(2, num_bins=1), ValueError, "num_bins: expected >= 2, got 1"),
        (lambda: NflowsNSF(2, tail_bound=0.0), ValueError, "tail_bound: .* > 0, got 0.0"),
        (lambda: NflowsNSF(2, tail_bound=math.inf), ValueError, "tail_bound: .*got inf"),
        (lambda: NflowsNSF(0), ValueError, "features: expected a positive integer, got 0"),
        (lambda: NflowsMAF(2, layers=0), ValueError, "layers: expected a positive integer"),
        (lambda: NormflowsRealNVP(2, hidden=(0,)), ValueError, "hidden: expected a positive"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "name", ["nflows-realnvp", "nflows-maf", "nflows-nsf", "normflows-realnvp"]
)
def test_built_through_the_registry(name):
    from flowzoo.registry import build_part

    flow = build_part("base-flow", {"name": name, "layers": 1, "hidden": [8]}, features=3)
    assert flow.encode(torch.zeros(2, 3)).value.shape == (2, 3)


def test_imports_leave_global_state_alone():
    code = """
import sys, warnings, torch
before = (torch.get_default_dtype(), torch.get_num_threads(), list(warnings.filters),
          torch.random.get_rng_state().sum(), torch.distributions.Distribution._validate_args)
from flowzoo_plugins.base_flows import NflowsNSF, NflowsMAF, NflowsRealNVP, NormflowsRealNVP
torch.random.get_rng_state()
for make in (NflowsNSF, NflowsMAF, NflowsRealNVP, NormflowsRealNVP):
    with torch.random.fork_rng():
        make(2, layers=1, hidden=(4,))
after = (torch.get_default_dtype(), torch.get_num_threads(), list(warnings.filters),
         torch.random.get_rng_state().sum(), torch.distributions.Distribution._validate_args)
assert before == after, (before, after)
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
