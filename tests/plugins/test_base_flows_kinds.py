"""What one kind of base flow does: splines on raw data, exact volume, and what the specs say."""

import copy
import math

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

import flowzoo_plugins.base_flows.plugin as specs
from flowzoo.layers import InvertibleBatchNorm, SplineCoupling
from flowzoo.plugin import PluginSpec
from flowzoo.priors import build_prior
from flowzoo.registry import build, build_part
from flowzoo.training import is_packable
from flowzoo_plugins.base_flows import GIN, NICE, NSFAutoregressive, NSFCoupling, RealNVP
from known_flows import F64, Loss, data, log_prob, mass, small, train

SPECS = [  # those that take any number of columns
    value
    for value in vars(specs).values()
    if isinstance(value, PluginSpec) and "features" not in value.capabilities
]
SPLINES = pytest.mark.parametrize("flow_class", [NSFCoupling, NSFAutoregressive])
VOLUME_PRESERVING = pytest.mark.parametrize("flow_class", [NICE, GIN])


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# specs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_capabilities_agree_with_the_instance(spec):
    flow = build_part("base-flow", {"name": spec.name, **spec.check_options}, features=3)
    assert len(flow.layers()) == 2  # of the small instance
    assert spec.capabilities["fast"] == flow.fast
    assert spec.capabilities["packable"] == is_packable(flow)
    if spec.capabilities["conditional"]:
        part = {"name": spec.name, **spec.check_options}
        assert build_part("base-flow", part, features=3, context_features=2).context_features == 2


@pytest.mark.parametrize(
    "spec", [s for s in SPECS if s.capabilities["packable"]], ids=lambda spec: spec.name
)
@pytest.mark.filterwarnings("error")  # no batching rule missing
def test_what_says_packable_runs_under_vmap(spec):
    part = {"name": spec.name, **spec.check_options}
    models = [
        Loss(build_part("base-flow", part, features=3, context_features=2).double())
        for _ in range(3)
    ]
    x, c = torch.randn(3, 9, 3, dtype=F64), torch.randn(3, 9, 2, dtype=F64)
    parameters, buffers = stack_module_state(models)
    packed = vmap(lambda p, b, x, c: functional_call(models[0], (p, b), (x, c)))
    losses = packed(parameters, buffers, x, c)
    losses.sum().backward()
    for i, model in enumerate(models):
        loss = model(x[i], c[i])
        torch.testing.assert_close(losses[i], loss, rtol=0, atol=1e-10)
        loss.backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameters[name].grad[i], parameter.grad, msg=name)


# splines ------------------------------------------------------------------------------------------


def helix(rows):
    t = 25.0 * torch.rand(rows, dtype=F64)
    curve = torch.stack([t.cos(), t.sin(), t], dim=1)
    return curve + 0.1 * torch.randn(rows, 3, dtype=F64)


@SPLINES
def test_raw_data_far_outside_the_box(flow_class):
    """Heights of 0 to 25, the box ends at 5: as good as on standardised data."""
    x = helix(1000)
    scale = x.std(0)
    prior = build_prior("standard-normal", 3).double()
    scores = []
    for rows, shift in ((x, 0.0), ((x - x.mean(0)) / scale, scale.log().sum())):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            flow = flow_class(3, layers=2, hidden=(16,), num_bins=6).double()
            train(flow, prior, rows, steps=70)
        scores.append((log_prob(flow, prior, rows).mean() - shift).item())
    gaussian = -0.5 * torch.logdet(torch.cov(x.T)) - 1.5 * (1 + math.log(2 * math.pi))
    assert scores[0] > gaussian + 0.1
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


@SPLINES
@pytest.mark.parametrize("normalization", ["batch", "none"])
@pytest.mark.parametrize("features, points", [(1, 2000), (2, 250)])
def test_splines_train_and_integrate_to_one(flow_class, normalization, features, points):
    options = {"min_bin_size": 0.05, "min_derivative": 0.1}  # no spikes between grid points
    flow = small(
        flow_class,
        features,
        layers=2,
        num_bins=5,
        normalization=normalization,
        activation="tanh",
        **options,
    )
    prior = build_prior("standard-normal", features).double()
    t = 2 * math.pi * torch.rand(500, dtype=F64)
    x = torch.stack([2 * t.cos(), t.sin()], dim=1) + 0.2 * torch.randn(500, 2, dtype=F64)
    x = x[:, :features]
    before = log_prob(flow, prior, x).mean()
    train(flow, prior, x, steps=40)
    assert log_prob(flow, prior, x).mean() > before + 0.1
    assert mass(flow, prior, features, points, scale=4.0) == pytest.approx(1.0, abs=2e-3)


@SPLINES
def test_a_batch_norm_stands_before_the_first_layer_too(flow_class):
    first, second = flow_class(3, layers=2, hidden=(8,)).layers()
    norms = [isinstance(part, InvertibleBatchNorm) for part in first.layers()]
    assert norms == [True, False, True]
    assert [isinstance(part, InvertibleBatchNorm) for part in second.layers()] == [False, True]
    bare = flow_class(3, layers=2, hidden=(8,), normalization="none")
    assert not any(isinstance(part, InvertibleBatchNorm) for part in bare.modules())


@SPLINES
def test_without_batch_norm_the_start_is_the_identity(flow_class):
    flow = flow_class(3, normalization="none", context_features=1, hidden=(8,)).double()
    x, c = data(20, 3, 1)
    step = flow.encode(10 * x, c)  # in and out of the box
    torch.testing.assert_close(step.value, 10 * x, rtol=0, atol=1e-13)
    torch.testing.assert_close(step.log_abs_det, torch.zeros(20, dtype=F64), rtol=0, atol=1e-12)


@SPLINES
def test_spline_options_arrive(flow_class):
    options = {"num_bins": 6, "tail_bound": 2.0, "min_bin_size": 0.01, "min_derivative": 0.1}
    flow = flow_class(2, layers=2, hidden=(8,), normalization="none", **options)
    for layer in flow.layers():
        assert vars(layer.spline) == options
    with pytest.raises(ValueError, match="num_bins: expected >= 2, got 1"):
        flow_class(2, num_bins=1)
    far = torch.full((1, 2), 2.5)
    small_flow = small(flow_class, 2, normalization="none", **options)
    assert torch.equal(small_flow.encode(far.double()).value, far.double())


def test_defaults():
    flow = NSFCoupling(3)
    couplings = [part for part in flow.modules() if isinstance(part, SplineCoupling)]
    assert [coupling.reverse for coupling in couplings] == [False, True, False, True, False]
    assert all(coupling.spline.num_bins == 8 for coupling in couplings)
    assert NSFAutoregressive(3).fast == "encode" and flow.fast == "both"


# volume preserving --------------------------------------------------------------------------------


@VOLUME_PRESERVING
@pytest.mark.parametrize("features", [1, 2, 3, 5])
def test_volume_is_exactly_zero_after_training(flow_class, features):
    flow = small(flow_class, features, layers=2)
    prior = build_prior("standard-normal", features).double()
    x = 2.0 + torch.randn(300, features, dtype=F64)
    before = log_prob(flow, prior, x).mean()
    train(flow, prior, x, steps=40)
    assert log_prob(flow, prior, x).mean() > before + 0.2
    step = flow.encode(x)
    assert torch.equal(step.log_abs_det, torch.zeros(300, dtype=F64))
    assert torch.equal(flow.decode(x).log_abs_det, torch.zeros(300, dtype=F64))
    torch.testing.assert_close(log_prob(flow, prior, x), prior.log_prob(step.value))
    assert not any(isinstance(part, InvertibleBatchNorm) for part in flow.modules())


@VOLUME_PRESERVING
def test_volume_preserving_density_integrates_to_one(flow_class):
    flow = small(flow_class, 2, **{_smooth(flow_class): "tanh"})
    prior = build_prior("standard-normal", 2).double()
    assert mass(flow, prior, 2, 400, scale=4.0) == pytest.approx(1.0, abs=1e-3)


def _smooth(flow_class):
    return "activation" if flow_class is NICE else "translation_activation"


@VOLUME_PRESERVING
def test_volume_preserving_flows_start_as_the_identity(flow_class):
    x, c = data(5, 4, 2)
    assert torch.equal(flow_class(4, context_features=2, hidden=(8,)).double().encode(x, c)[0], x)


def test_gin_blocks_move_every_column_and_scale():
    flow = small(GIN, 4, layers=1)
    (block,) = flow.layers()
    assert [part.reverse for part in block.layers()] == [False, True]
    x, _ = data(20, 4)
    assert (flow.encode(x).value != x).all()
    j = torch.autograd.functional.jacobian(lambda v: flow.encode(v).value.sum(0), x)
    diagonal = j[2:, :, 2:].permute(1, 0, 2).diagonal(dim1=1, dim2=2)
    assert (diagonal - 1.0).abs().max() > 0.01  # NICE has ones here


def test_gin_of_two_columns_is_nice():
    flow = small(GIN, 2)
    assert "scale_net" not in "".join(flow.state_dict())
    nice = small(NICE, 2, layers=6)
    assert len(nice.layers()) == sum(len(block.layers()) for block in flow.layers())
    names = [name for name, _ in flow.named_parameters()]
    assert len(names) == len(list(nice.parameters()))
    with torch.no_grad():
        for ours, theirs in zip(nice.parameters(), flow.parameters(), strict=True):
            ours.copy_(theirs)
    x, _ = data(9, 2)
    assert torch.equal(nice.encode(x).value, flow.encode(x).value)


@VOLUME_PRESERVING
@pytest.mark.parametrize(
    "options, message",
    [
        ({"layers": 0}, "layers: expected a positive integer, got 0"),
        ({"hidden": (0,)}, "hidden: expected a positive integer, got 0"),
        ({"features": 0}, "features: expected a positive integer, got 0"),
        ({"context_features": -1}, "context_features: expected >= 0, got -1"),
    ],
)
def test_bad_options_are_named(flow_class, options, message):
    with pytest.raises(ValueError, match=message):
        flow_class(**({"features": 3} | options))


def test_one_batch_norm_a_layer_stays_for_the_others():
    assert all(len(layer.layers()) == 2 for layer in RealNVP(3, layers=2, hidden=(8,)).layers())


@pytest.mark.parametrize("order", ["random", "rotation"])
@pytest.mark.parametrize("name", ["nice", "gin"])
def test_orders_keep_volume(name, order):
    torch.manual_seed(0)
    flow = build("base-flow", name, features=6, layers=4, hidden=[8], order=order).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(std=0.3)
    x = torch.randn(5, 6, dtype=torch.float64)
    step = flow.encode(x)
    torch.testing.assert_close(flow.decode(step.value).value, x)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda r: flow.encode(r[None]).value[0]))(x)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, step.log_abs_det)
    assert float(step.log_abs_det.detach().abs().max()) < 1e-9
    mixing = [type(part).__name__ for part in flow.modules()]
    wanted = "Orthogonal" if order == "rotation" else "Permutation"
    assert mixing.count(wanted) == (4 if name == "gin" else 2) and len(flow.layers()) == 4


@pytest.mark.parametrize("name", ["realnvp", "nsf-coupling"])
def test_random_halves(name):
    options = {"features": 8, "layers": 4, "hidden": [8], "normalization": "none"}
    torch.manual_seed(0)
    flow = build("base-flow", name, order="random", **options).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(std=0.3)
    x = torch.randn(5, 8, dtype=torch.float64)
    step = flow.encode(x)
    torch.testing.assert_close(flow.decode(step.value).value, x, rtol=1e-6, atol=1e-6)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda r: flow.encode(r[None]).value[0]))(x)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, step.log_abs_det)
    assert len(flow.layers()) == 4  # one a coupling, with its permutation
    orders = [b for n, b in flow.named_buffers() if n.endswith("order") and "inverse" not in n]
    assert len(orders) == 2 and not torch.equal(*orders)
    # each coupling passes half of the columns, and the next one those that moved
    for layer in flow.layers():
        jacobian = torch.func.jacrev(lambda r, f=layer: f.encode(r[None]).value[0])(x[0])
        passed = ((jacobian == 0) | (jacobian == 1)).all(dim=1)
        assert int(passed.sum()) == 4
    with pytest.raises(ValueError, match="order: expected"):
        build("base-flow", name, order="shuffled", **options)


@pytest.mark.parametrize("order", ["random", "rotation"])
def test_orders_can_be_packed(order):
    from flowzoo.training import TrainingData, fit, train_pack

    options = {
        "base_flow": {"name": "realnvp", "layers": 2, "hidden": [8], "order": order},
        "training": {"epochs": 2, "lr": 1e-2, "batch_size": 32},
    }
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(build("mixture", "global", features=5, **options).double())
    if order == "random":
        assert not torch.equal(*(one.base_flow.flows[0].flows[0].flows[0].order for one in models))
    alone = copy.deepcopy(models)
    data = [TrainingData(torch.randn(64, 5).double(), torch.randn(32, 5).double()) for _ in models]
    train_pack(models, data, [1, 2], packed=True)
    x = torch.randn(9, 5, dtype=torch.float64)
    for packed, one, rows, seed in zip(models, alone, data, (1, 2), strict=True):
        fit(one, *rows, seed=seed)
        torch.testing.assert_close(packed.eval().log_prob(x), one.eval().log_prob(x))
