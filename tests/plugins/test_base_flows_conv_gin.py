"""The image flow, and the networks of the spread-flow paper: layouts, counts, volume, packs."""

import pytest
import torch
from torch.func import functional_call, jacrev, stack_module_state, vmap

from flowzoo.layers import (
    AffineCoupling,
    ChannelPermutation,
    ConvCoupling,
    DownSampling,
    VolumePreservingCoupling,
)
from flowzoo.registry import build_part
from flowzoo.training.options import TrainingOptions
from flowzoo_plugins.base_flows import GIN, ConvGIN
from flowzoo_plugins.spread_flows.presets import BASELINES, PRESETS, TRAINING
from known_flows import F64, Loss

FEATURES = {"toy": 2, "s-curve": 3, "fading-square": 1024, "fading-square-code": 1024, "mnist": 784}
SMALL = {"couplings": (2, 1), "channels": 4, "hidden": (8,), "activation": "tanh"}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def moved_away(flow, scale=0.3):
    flow = flow.double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return flow


def conv_gin(shape, **options):
    channels, height, width = shape
    return moved_away(
        ConvGIN(channels * height * width, shape=shape, **{**SMALL, **options}), scale=0.5
    )


def count(flow):
    return sum(parameter.numel() for parameter in flow.parameters())


def preset(name, table=PRESETS):
    return build_part("base-flow", table[name], features=FEATURES[name])


# volume and inverse -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 4, 4)])
@pytest.mark.parametrize("keeps", [True, False])
def test_volume_and_inverse(shape, keeps):
    flow = conv_gin(shape, volume_preserving=keeps)
    x = torch.randn(4, flow.features, dtype=F64)
    z, log_abs_det = flow.encode(x)
    j = vmap(jacrev(lambda row: flow.encode(row[None]).value[0]))(x)
    torch.testing.assert_close(torch.linalg.slogdet(j).logabsdet, log_abs_det, rtol=0, atol=1e-10)
    assert (log_abs_det == 0).all() if keeps else (log_abs_det.abs() > 0.01).all()
    back = flow.decode(z)
    torch.testing.assert_close(back.value, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(back.log_abs_det, log_abs_det)
    assert (j != 0).float().mean() > 0.5  # and pixels do meet


def test_starts_as_the_pixels_in_another_order():
    flow = ConvGIN(64, shape=(1, 8, 8), couplings=(2, 2)).double()
    x = torch.randn(3, 64, dtype=F64)
    z = flow.encode(x).value
    assert torch.equal(z.sort(dim=1).values, x.sort(dim=1).values) and not torch.equal(z, x)


@pytest.mark.parametrize("permute", [True, False])
def test_layout(permute):
    flow = ConvGIN(784, shape=(1, 28, 28), couplings=(3, 2), flat_couplings=2, permute=permute)
    layers = [[type(part) for part in layer.layers()] for layer in flow.layers()]
    permutation = [ChannelPermutation] if permute else []
    assert layers == [
        [DownSampling, ConvCoupling, *permutation],
        [ConvCoupling, *permutation],
        [ConvCoupling],
        [DownSampling, ConvCoupling, *permutation],
        [ConvCoupling],
        [VolumePreservingCoupling],
        [VolumePreservingCoupling],
    ]
    couplings = [part for part in flow.modules() if isinstance(part, ConvCoupling)]
    assert [part.shape for part in couplings] == [(4, 14, 14)] * 3 + [(16, 7, 7)] * 2
    assert [part.reverse for part in couplings] == [False, True, False, False, True]
    orders = [part.order for part in flow.modules() if isinstance(part, ChannelPermutation)]
    assert [len(order) for order in orders] == ([4, 4, 16] if permute else [])


def test_context_reaches_every_column():
    flow = conv_gin((1, 4, 4), context_features=2)
    x, c = torch.randn(3, 16, dtype=F64), torch.randn(3, 2, dtype=F64)
    z = flow.encode(x, c).value
    assert (z != flow.encode(x, c + 1.0).value).all()
    torch.testing.assert_close(flow.decode(z, c).value, x, rtol=0, atol=1e-9)
    context = torch.full((3, 2), 0.5, dtype=F64)  # the same to every row and every pixel
    shifted = flow.encode(x.roll(1, dims=0), context).value
    torch.testing.assert_close(shifted, flow.encode(x, context).value.roll(1, dims=0))


@pytest.mark.filterwarnings("error")  # no batching rule missing
@pytest.mark.parametrize("context", [0, 2])
def test_packed_training_equals_training_alone(context):
    models = [Loss(conv_gin((1, 4, 4), context_features=context)) for _ in range(3)]
    orders = [dict(model.named_buffers()) for model in models]
    assert any(not torch.equal(orders[0][name], orders[1][name]) for name in orders[0])
    parameters, buffers = stack_module_state(models)
    packed = vmap(
        lambda p, b, x, c: functional_call(models[0], (p, b), (x, c)),
        in_dims=(0, 0, 0, 0 if context else None),
    )
    optimiser = torch.optim.Adam(parameters.values(), lr=1e-2)
    batches = [
        (torch.randn(3, 8, 16, dtype=F64), torch.randn(3, 8, 2, dtype=F64) if context else None)
        for _ in range(4)
    ]
    for x, c in batches:
        optimiser.zero_grad()
        packed(parameters, buffers, x, c).sum().backward()
        optimiser.step()
    for i, model in enumerate(models):
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        for x, c in batches:
            optimiser.zero_grad()
            model(x[i], None if c is None else c[i]).backward()
            optimiser.step()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameters[name][i], parameter, rtol=0, atol=1e-7, msg=name)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"features": 17}, r"features: expected 16 for \(1, 4, 4\), got 17"),
        ({"shape": (4, 4)}, r"shape: expected \(C, H, W\), got \(4, 4\)"),
        ({"couplings": (1, 1, 1)}, r"shape: expected an even height and width, got \(16, 1, 1\)"),
        ({"couplings": (0,)}, "couplings: expected a positive integer, got 0"),
        ({"couplings": (), "flat_couplings": 0}, "couplings: expected at least one"),
        ({"flat_couplings": -1}, "couplings: expected at least one"),
        ({"activation": "leaky-relu-0.3"}, "activation: expected one of"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ConvGIN(**({"features": 16, "shape": (1, 4, 4)} | options))


# the paper's networks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, keeps, baseline",
    [
        # Weights and biases by hand; a convolution a -> b of width k has a b k^2 + b.
        # 1 -> 24 -> 24 -> 24 -> 1: 48 + 600 + 600 + 25 = 1273, translations only: with one moved
        # column s - mean s = 0, and no net is kept for it. The baseline has two nets.
        ("toy", 2 * 1273, 2 * 2 * 1273),
        # 1 -> 2: 48 + 1200 + 50 = 1298, twice; 2 -> 1: 72 + 1200 + 25 = 1297, once. The paper's
        # code owns the idle scale nets as well and has the baseline's count.
        ("s-curve", 3 * (2 * 1298 + 1297), 3 * (2 * 1298 + 2 * 1297)),
        # 2 -> 16 -> 16 -> 4 by 3-3-3: 304 + 2320 + 580 = 3204; 8 -> 16 -> 16 -> 16: 1168 + 2320
        # + 2320 = 5808; 512 -> 24 -> 24 -> 24 -> 512: 12312 + 1200 + 12800 = 26312, s and t apart
        ("fading-square", 2 * 3204 + 2 * 5808 + 4 * 26312, None),
        # by 3-1-3 the middle one has 272: 304 + 272 + 580 = 1156 and 1168 + 272 + 2320 = 3760
        ("fading-square-code", 3 * 1156 + 3 * 3760 + 4 * 26312, None),
        # 392 -> 24 -> 24 -> 24 -> 392: 9432 + 1200 + 9800 = 20432
        ("mnist", 4 * 3204 + 4 * 5808 + 4 * 20432, None),
    ],
)
def test_parameter_counts_of_the_tables(name, keeps, baseline):
    assert count(preset(name)) == keeps
    assert count(preset(name, BASELINES)) == (baseline or keeps)


def test_the_public_code_prints_1168572_parameters():
    """The nets of its fading-square notebook, and A kept as a full matrix of 1024 x 1024."""
    assert count(preset("fading-square-code")) == 119_996
    assert count(preset("fading-square-code")) + 1024 * 1024 == 1_168_572


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_keep_volume_and_baselines_do_not(name):
    x = torch.rand(2, FEATURES[name], dtype=F64)
    flow = moved_away(preset(name), scale=0.05)
    z, log_abs_det = flow.encode(x)
    assert (log_abs_det == 0).all() and not torch.equal(z.sort().values, x.sort().values)
    torch.testing.assert_close(flow.decode(z).value, x, rtol=0, atol=1e-8)
    twin = moved_away(preset(name, BASELINES), scale=0.05)
    z, log_abs_det = twin.encode(x)
    assert (log_abs_det != 0).all()
    torch.testing.assert_close(twin.decode(z).value, x, rtol=0, atol=1e-8)
    assert len(twin.layers()) == len(flow.layers())
    if twin.features > 3:  # the same nets, name by name
        assert {n: p.shape for n, p in twin.named_parameters()} == {
            n: p.shape for n, p in flow.named_parameters()
        }
        assert isinstance(twin.layers()[-1], AffineCoupling)


def test_the_code_bounds_images_by_tanh_and_columns_not_at_all():
    code, paper = preset("fading-square-code"), preset("fading-square")
    for flow, bound in ((code, 1.0), (paper, "none")):
        images = [part for part in flow.modules() if isinstance(part, ConvCoupling)]
        assert {part.log_scale_bound for part in images} == {bound}
        assert {part.translation_bound for part in images} == {bound}
        assert flow.layers()[-1].log_scale_bound == "none"


def test_a_coupling_of_two_columns_is_additive():
    """Eq. 42 with one moved column: by finite differences nothing is stretched, whatever passes."""
    flow = moved_away(preset("toy"), scale=1.0)
    x, step = torch.randn(50, 2, dtype=F64), 1e-4
    for layer, moved in zip(flow.layers(), (1, 0), strict=True):
        up, down = x.clone(), x.clone()
        up[:, moved] += step
        down[:, moved] -= step
        slope = (layer.encode(up).value - layer.encode(down).value) / (2 * step)
        expected = torch.eye(2, dtype=F64)[moved].expand(50, 2)
        torch.testing.assert_close(slope, expected, rtol=0, atol=1e-9)
        assert (layer.encode(x).value - x)[:, moved].std() > 0.01  # and yet it moves
    assert not any("scale_net" in name for name in flow.state_dict())
    # on the S-curve the couplings 1 -> 2 stretch, those 2 -> 1 do not
    curve = moved_away(preset("s-curve"), scale=1.0)
    rows = torch.randn(9, 3, dtype=F64)
    for index, layer in enumerate(curve.layers()):
        j = vmap(jacrev(lambda row, f=layer: f.encode(row[None]).value[0]))(rows)
        diagonal = j.diagonal(dim1=1, dim2=2)
        one = torch.equal(diagonal, torch.ones_like(diagonal))
        assert one == (index % 2 == 1)
        assert layer.moved_features == (1 if index % 2 else 2)


def test_training_of_the_presets():
    assert TRAINING.keys() == PRESETS.keys() == BASELINES.keys()
    stages = {
        name: TrainingOptions.of(options).stage("fit", lambda x, noise, progress: x.sum(dim=1))
        for name, options in TRAINING.items()
    }
    # reductions of the learning rate by 0.9 until the end
    reductions = {
        name: (stage.steps - stage.decay_after) // stage.decay_every if stage.decay_every else 0
        for name, stage in stages.items()
    }
    assert reductions == {
        "toy": 0,
        "s-curve": 20,
        "fading-square": 20,
        "fading-square-code": 0,
        "mnist": 20,
    }
    decay = {name: stage.groups[0].weight_decay for name, stage in stages.items()}
    assert decay["fading-square"] == 0.1 and decay["fading-square-code"] == 0.5
    assert all(stage.epochs is None and stage.patience is None for stage in stages.values())


@pytest.mark.parametrize("order", ["halves", "random"])
def test_a_block_is_two_single_couplings(order):
    options = {"hidden": (8,), "order": order, "log_scale_bound": "none"}
    single = moved_away(GIN(5, layers=4, couplings="single", **options))
    both = GIN(5, layers=2, **options).double()
    with torch.no_grad():
        for theirs, ours in zip(
            [*both.parameters(), *both.buffers()],
            [*single.parameters(), *single.buffers()],
            strict=True,
        ):
            theirs.copy_(ours)
    x = torch.randn(9, 5, dtype=F64)
    assert (len(single.layers()), len(both.layers())) == (4, 2)
    assert torch.equal(single.encode(x).value, both.encode(x).value)
    with pytest.raises(ValueError, match=r"couplings: expected one of \('both', 'single'\)"):
        GIN(3, couplings="one")


@pytest.mark.parametrize("coupling_class", [AffineCoupling, VolumePreservingCoupling])
def test_log_scales_without_a_bound(coupling_class):
    layer = coupling_class(4, hidden=(8,), log_scale_bound="none").double()
    with torch.no_grad():
        layer.scale_net.linears[-1].bias.copy_(torch.tensor([9.0, -1.0]))
    x = torch.ones(1, 4, dtype=F64)
    log_scale = layer.encode(x).value[0, 2:].log()
    expected = [9.0, -1.0] if coupling_class is AffineCoupling else [5.0, -5.0]
    assert log_scale.tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="log_scale_bound: expected a finite number > 0 or 'none'"):
        coupling_class(4, hidden=(8,), log_scale_bound="off")


def test_without_a_shape_columns_are_a_grey_square():
    options = {"couplings": [1], "channels": 4, "hidden": [8]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = ConvGIN(16, **options)
        torch.manual_seed(0)
        wanted = ConvGIN(16, shape=(1, 4, 4), **options)
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.encode(x).value, wanted.encode(x).value)
    with pytest.raises(ValueError, match="shape: expected"):
        ConvGIN(15, **options)
