"""Our own base flows: exactness, normalisation, packing, structure."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from flowzoo.layers import AffineCoupling, InvertibleBatchNorm
from flowzoo.priors import build_prior
from flowzoo_plugins.base_flows import GIN, MAF, NICE, NSFAutoregressive, NSFCoupling, RealNVP
from known_flows import F64, Loss, data, log_prob, mass, small, train

SPLINES = [NSFCoupling, NSFAutoregressive]
STACKS = pytest.mark.parametrize("flow_class", [RealNVP, MAF, *SPLINES])  # with batch-norm
FLOWS = pytest.mark.parametrize("flow_class", [RealNVP, MAF, *SPLINES, NICE, GIN])


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@FLOWS
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("features", [1, 2, 3, 5])
def test_inverse_and_volume(flow_class, features, context):
    flow = small(flow_class, features, context)
    x, c = data(6, features, context)
    atol = 1e-7 if flow_class in SPLINES else 1e-9  # splines have flat stretches
    z, log_abs_det = flow.encode(x, c)
    back = flow.decode(z, c)
    torch.testing.assert_close(back.value, x, rtol=0, atol=atol)
    torch.testing.assert_close(back.log_abs_det, log_abs_det, rtol=0, atol=atol)
    forth = flow.encode(flow.decode(x, c).value, c)
    torch.testing.assert_close(forth.value, x, rtol=0, atol=atol)
    j = torch.autograd.functional.jacobian(lambda v: flow.encode(v, c).value.sum(0), x)
    _, expected = torch.linalg.slogdet(j.permute(1, 0, 2))
    torch.testing.assert_close(log_abs_det, expected, rtol=0, atol=1e-8)


@FLOWS
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_any_number_of_rows(flow_class, features, rows, training):
    flow = small(flow_class, features, 2).train(training)
    x, c = data(rows, features, 2)
    for step in (flow.encode(x, c), flow.decode(x, c)):
        assert step.value.shape == (rows, features) and step.log_abs_det.shape == (rows,)
        assert step.value.isfinite().all() and step.log_abs_det.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in flow.buffers())


@FLOWS
def test_rows_are_independent_in_eval(flow_class):
    flow = small(flow_class, 3, 2)
    x, c = data(8, 3, 2)
    order = torch.randperm(8)
    whole, shuffled = flow.encode(x, c), flow.encode(x[order], c[order])
    torch.testing.assert_close(shuffled.value, whole.value[order], rtol=0, atol=1e-11)
    torch.testing.assert_close(shuffled.log_abs_det, whole.log_abs_det[order], rtol=0, atol=1e-11)


@FLOWS
@pytest.mark.parametrize("features", [1, 2, 3])
def test_context_changes_every_column(flow_class, features):
    flow = small(flow_class, features, 2)
    x, c = data(4, features, 2)
    assert (flow.encode(x, c).value != flow.encode(x, c + 0.5).value).all()


# densities ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow_class", [RealNVP, MAF])
@pytest.mark.parametrize("prior", ["standard-normal", "uniform-ball"])
@pytest.mark.parametrize("normalization", ["batch", "none"])
@pytest.mark.parametrize("features, points", [(1, 4000), (2, 600)])
def test_trains_and_integrates_to_one(flow_class, prior, normalization, features, points):
    # smooth nets, for the quadrature's sake: ReLU leaves kinks
    smooth = "activation" if flow_class is MAF else "translation_activation"
    flow = small(flow_class, features, normalization=normalization, **{smooth: "tanh"})
    density = build_prior(prior, features).double()
    t = 2 * math.pi * torch.rand(500, dtype=F64)
    circle = torch.stack([2 * t.cos(), t.sin()], dim=1)[:, :features]
    x = circle + 0.2 * torch.randn(500, features, dtype=F64)
    x = 3.0 + 2.0 * x
    before = log_prob(flow, density, x).mean().item()
    train(flow, density, x)
    if features > 1:  # in 1-D the map is affine, which batch-norm has right from the start
        assert log_prob(flow, density, x).mean().item() > before + 0.1
    assert mass(flow, density, features, points, scale=8.0) == pytest.approx(1.0, abs=1e-3)


@STACKS
def test_samples_follow_the_density(flow_class):
    """E over samples of 1[x in A] equals the integral over A, for a half-plane-like box A."""
    flow = small(flow_class, 1)
    prior = build_prior("standard-normal", 1).double()
    with torch.no_grad():
        x = flow.decode(prior.sample(20_000)).value[:, 0]
        middle = x.median()
        grid = torch.linspace(-60, middle, 200_001, dtype=F64)
        below = torch.trapezoid(log_prob(flow, prior, grid[:, None]).exp(), grid)
    assert below.item() == pytest.approx(0.5, abs=0.015)


# training -----------------------------------------------------------------------------------------


@STACKS
@pytest.mark.parametrize("normalization", ["batch", "none"])
@pytest.mark.parametrize("features, context", [(1, 0), (1, 2), (3, 2)])
def test_every_parameter_gets_a_finite_gradient(flow_class, normalization, features, context):
    flow = small(flow_class, features, context, normalization=normalization).train()
    step = flow.encode(*data(32, features, context))
    (0.5 * step.value.square().sum(dim=1) - step.log_abs_det).mean().backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@FLOWS
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.filterwarnings("error")  # no batching rule missing
def test_packed_training_equals_training_alone(flow_class, context):
    models = [Loss(small(flow_class, 3, context).train()) for _ in range(3)]
    alone = copy.deepcopy(models)
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    batches = [
        (torch.randn(3, 16, 3, dtype=F64), torch.randn(3, 16, 2, dtype=F64) if context else None)
        for _ in range(5)
    ]
    packed = vmap(
        lambda p, b, x, c: functional_call(base, (p, b), (x, c)),
        in_dims=(0, 0, 0, 0 if context else None),
    )
    optimiser = torch.optim.Adam(parameters.values(), lr=1e-2)
    for x, c in batches:
        optimiser.zero_grad()
        packed(parameters, buffers, x, c).sum().backward()
        optimiser.step()
    for i, model in enumerate(alone):
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        for x, c in batches:
            optimiser.zero_grad()
            model(x[i], None if c is None else c[i]).backward()
            optimiser.step()
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            stacked = (parameters | buffers)[name][i]
            torch.testing.assert_close(stacked, value, rtol=0, atol=1e-7, msg=name)
        assert any("running_mean" in name for name in buffers) == (flow_class not in (NICE, GIN))


# structure ----------------------------------------------------------------------------------------


@FLOWS
@pytest.mark.parametrize("context", [0, 2])
def test_layers_compose_to_encode(flow_class, context):
    flow = small(flow_class, 3, context, layers=4)
    layers = flow.layers()
    assert len(layers) == 4
    value, c = data(6, 3, context)
    expected = flow.encode(value, c)
    total = torch.zeros(6, dtype=F64)
    for layer in layers:
        value, log_abs_det = layer.encode(value, c)
        total = total + log_abs_det
    assert torch.equal(value, expected.value)
    torch.testing.assert_close(total, expected.log_abs_det)


def test_paper_presets():
    realnvp, maf = RealNVP(3), MAF(3)
    assert len(realnvp.layers()) == len(maf.layers()) == 5
    for flow in (realnvp, maf):
        assert all(isinstance(layer.layers()[-1], InvertibleBatchNorm) for layer in flow.layers())

    def net(inputs, outputs):
        return inputs * 128 + 128 + 128 * 128 + 128 + 128 * outputs + outputs

    def count(flow):
        return sum(parameter.numel() for parameter in flow.parameters())

    assert count(realnvp) == 3 * 2 * net(1, 2) + 2 * 2 * net(2, 1) + 5 * 6
    assert count(maf) == 5 * (3 * 128 + 128 + 128 * 6 + 6) + 5 * 6
    couplings = [layer.layers()[0] for layer in realnvp.layers()]
    assert all(isinstance(coupling, AffineCoupling) for coupling in couplings)
    assert isinstance(couplings[0].scale_net.activation, torch.nn.Tanh)
    assert isinstance(couplings[0].translation_net.activation, torch.nn.ReLU)
    assert [coupling.reverse for coupling in couplings] == [False, True, False, True, False]
    reversed_ = [int(layer.layers()[0].degrees[0]) == 3 for layer in maf.layers()]
    assert reversed_ == [False, True, False, True, False]
    assert (realnvp.fast, maf.fast) == ("both", "encode")


def test_two_masked_layers_couple_every_pair_of_columns():
    flow = small(MAF, 4, activation="tanh")
    x, _ = data(3, 4)
    j = torch.autograd.functional.jacobian(lambda v: flow.encode(v).value.sum(0), x)
    assert (j != 0).all()


@FLOWS
def test_copies_saves_and_moves(flow_class):
    flow = small(flow_class, 3, 2)
    x, c = data(5, 3, 2)
    expected = flow.encode(x, c)
    assert torch.equal(copy.deepcopy(flow).encode(x, c).value, expected.value)
    fresh = flow_class(3, context_features=2, layers=3, hidden=(16, 16)).double().eval()
    fresh.load_state_dict(flow.state_dict())
    assert torch.equal(fresh.encode(x, c).log_abs_det, expected.log_abs_det)
    assert expected.value.dtype == expected.log_abs_det.dtype == F64
    step = flow.to("meta").train().encode(x.to("meta"), c.to("meta"))
    assert step.value.is_meta and step.log_abs_det.is_meta


@FLOWS
def test_arguments_are_left_alone(flow_class):
    flow = small(flow_class, 3, 2).train()
    x, c = data(5, 3, 2)
    x_before, c_before = x.clone(), c.clone()
    state = torch.random.get_rng_state()
    flow.encode(x, c)
    flow.decode(x, c)
    assert torch.equal(x, x_before) and torch.equal(c, c_before)
    assert torch.equal(torch.random.get_rng_state(), state)


@STACKS
@pytest.mark.parametrize(
    "options, message",
    [
        ({"layers": 0}, "layers: expected a positive integer, got 0"),
        ({"hidden": (8, -1)}, "hidden: expected a positive integer, got -1"),
        ({"normalization": "layer"}, "normalization: expected 'batch' or 'none', got 'layer'"),
        ({"momentum": 0.0}, r"momentum: expected in \(0, 1\], got 0.0"),
        ({"context_features": -1}, "context_features: expected >= 0, got -1"),
        ({"features": 0}, "features: expected a positive integer, got 0"),
    ],
)
def test_bad_options_are_named(flow_class, options, message):
    with pytest.raises(ValueError, match=message):
        flow_class(**({"features": 3} | options))


@pytest.mark.parametrize("flow_class", [RealNVP, MAF, GIN])
@pytest.mark.parametrize("bound", [-1.0, float("inf")])
def test_bad_bounds_are_named(flow_class, bound):
    with pytest.raises(ValueError, match="log_scale_bound: expected a finite number > 0, got"):
        flow_class(3, log_scale_bound=bound)


def test_built_through_the_registry():
    from flowzoo.registry import build_part

    flow = build_part(
        "base-flow",
        {"name": "maf", "layers": 2, "hidden": [8]},
        features=3,
        context_features=2,
    )
    assert isinstance(flow, MAF) and flow.context_features == 2 and len(flow.layers()) == 2


def test_package_is_lazy():
    code = (
        "import sys, flowzoo_plugins.base_flows.plugin\n"
        "assert 'torch' not in sys.modules\n"
        "from flowzoo_plugins.base_flows import RealNVP, MAF\n"
        "assert 'nflows' not in sys.modules and 'normflows' not in sys.modules\n"
        "import flowzoo_plugins.base_flows as package\n"
        "assert 'NflowsTransform' in dir(package)\n"
        "try:\n    package.Nothing\n"
        "except AttributeError as error:\n    assert 'Nothing' in str(error)\n"
        "else:\n    raise SystemExit(1)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
