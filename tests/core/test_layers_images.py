"""Layers of images: the order of pixels, what passes, volume, inverse."""

import pytest
import torch
from torch.func import jacrev

from flowzoo.layers import ChannelPermutation, ConvCoupling, DownSampling, ImageShape
from flowzoo.nets import ConvNet, build_activation
from known_layers import F64, jacobian, randomised


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# the order of pixels ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 4, 6), (3, 2, 4)])
def test_down_sampling_pixel_by_pixel(shape):
    channels, height, width = shape
    layer = DownSampling(shape)
    x = torch.randn(3, layer.features)
    expected = torch.empty(3, 4 * channels, height // 2, width // 2)
    for c in range(channels):
        for row in range(height):
            for column in range(width):
                corner = 2 * (row % 2) + column % 2  # upper left, upper right, lower left, right
                value = x[:, c * height * width + row * width + column]
                expected[:, corner * channels + c, row // 2, column // 2] = value
    z, log_abs_det = layer.encode(x)
    assert torch.equal(z, expected.reshape(3, -1)) and torch.equal(log_abs_det, torch.zeros(3))
    assert torch.equal(layer.decode(z).value, x)
    assert layer.latent_shape == (4 * channels, height // 2, width // 2)


def test_down_sampling_matches_torch():
    """Torch keeps a channel's four pixels together, we keep the channels of one corner together."""
    x = torch.randn(2, 3, 4, 6)
    theirs = torch.nn.functional.pixel_unshuffle(x, 2).reshape(2, 3, 4, 2, 3).transpose(1, 2)
    ours = DownSampling((3, 4, 6)).encode(x.reshape(2, -1)).value
    assert torch.equal(ours, theirs.reshape(2, -1))


def test_channel_permutation_keeps_pixels_in_place():
    layer = ChannelPermutation((3, 2, 2), order=(2, 0, 1))
    x = torch.randn(5, 3, 2, 2)
    z, log_abs_det = layer.encode(x.reshape(5, 12))
    assert torch.equal(z.reshape(5, 3, 2, 2), torch.stack([x[:, 2], x[:, 0], x[:, 1]], dim=1))
    assert torch.equal(layer.decode(z).value, x.reshape(5, 12)) and (log_abs_det == 0).all()
    drawn = ChannelPermutation((16, 1, 1), generator=torch.Generator().manual_seed(1)).order
    assert sorted(drawn.tolist()) == list(range(16)) != drawn.tolist()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: DownSampling((1, 7, 8)), r"shape: expected an even height and width, got \(1, 7"),
        (lambda: DownSampling((1, 8)), r"shape: expected \(C, H, W\), got \(1, 8\)"),
        (lambda: DownSampling((0, 8, 8)), "shape: expected a positive integer, got 0"),
        (lambda: ChannelPermutation((2, 1, 1), order=(0, 0)), "order: expected 'reverse', 'rand"),
        (lambda: ConvCoupling((1, 4, 4)), r"shape: expected at least 2 channels, got \(1, 4, 4\)"),
        (lambda: ConvCoupling((2, 4, 4), kernels=(3, 2)), r"kernels: expected odd numbers, .* 2\)"),
        (
            lambda: ConvCoupling((2, 4, 4), kernels=()),
            "kernels: expected odd numbers, at least one",
        ),
        (lambda: ConvCoupling((2, 4, 4), channels=0), "channels: expected a positive integer"),
        (lambda: ConvCoupling((2, 4, 4), log_scale_bound=0), "log_scale_bound: expected a finite"),
        (
            lambda: ConvCoupling((2, 4, 4), translation_bound="off"),
            "translation_bound: expected a finite number > 0 or 'none', got 'off'",
        ),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# couplings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 2, 3), (4, 3, 2)])
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("keeps", [False, True])
def test_coupling_inverse_volume_and_structure(shape, context, reverse, keeps):
    channels, height, width = shape
    layer = randomised(
        ConvCoupling(
            shape,
            channels=5,
            context_features=context,
            reverse=reverse,
            activation="tanh",
            volume_preserving=keeps,
        )
    )
    x = torch.randn(3, layer.features, dtype=F64)
    c = torch.randn(3, context, dtype=F64) if context else None
    z, log_abs_det = layer.encode(x, c)
    back = layer.decode(z, c)
    torch.testing.assert_close(back.value, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(back.log_abs_det, log_abs_det)
    j = jacobian(layer, x, c)
    torch.testing.assert_close(torch.linalg.slogdet(j).logabsdet, log_abs_det, rtol=0, atol=1e-10)
    assert (log_abs_det == 0).all() if keeps else (log_abs_det.abs() > 1e-3).all()
    # whole channels pass; a moved pixel keeps its own place and sees the channels that pass
    j = j.reshape(3, channels, height * width, channels, height * width)
    first = list(range(channels // 2))
    rest = list(range(channels // 2, channels))
    passing, moved = (rest, first) if reverse else (first, rest)
    eye = torch.eye(len(passing) * height * width, dtype=F64)
    square = j[:, passing][:, :, :, passing].reshape(3, *eye.shape)
    assert torch.equal(square, eye.expand(3, -1, -1))
    own = j[:, moved][:, :, :, moved].reshape(3, len(moved) * height * width, -1)
    scale = own.diagonal(dim1=1, dim2=2)
    assert torch.equal(own, torch.diag_embed(scale))
    assert (j[:, moved][:, :, :, passing] != 0).any(dim=-1).all()
    # at each pixel the stretches of the moved channels cancel, and there are some if they can
    at_pixel = scale.reshape(3, len(moved), height * width).log().sum(dim=1)
    assert (at_pixel.abs().max() < 1e-12) == keeps
    additive = keeps and len(moved) == 1
    assert torch.equal(scale, torch.ones_like(scale)) == additive
    assert layer.net.convolutions[-1].out_channels == len(moved) * (1 if additive else 2)


def test_coupling_sees_neighbouring_pixels_only():
    """Kernels 3-1-3 reach two pixels far, 3-3-3 three, 1-1-1 none."""
    for kernels, reach in (((3, 1, 3), 2), ((3, 3, 3), 3), ((1, 1, 1), 0)):
        layer = randomised(ConvCoupling((2, 1, 9), channels=4, kernels=kernels, activation="tanh"))
        j = jacobian(layer, torch.randn(1, 18, dtype=F64), None)[0, 9:, :9]
        distance = (torch.arange(9)[:, None] - torch.arange(9)).abs()
        assert torch.equal(j != 0, distance <= reach)


def test_bounds_of_scale_and_translation():
    layer = randomised(
        ConvCoupling(
            (4, 2, 2),
            channels=4,
            volume_preserving=False,
            log_scale_bound=1.5,
            translation_bound=0.5,
        ),
        scale=30.0,
    )
    x = torch.randn(50, 16, dtype=F64)
    x[:, 8:] = 0.0
    shift = layer.encode(x).value[:, 8:]
    assert 0.49 < shift.abs().max() <= 0.5
    slope = torch.stack([jacrev(lambda r: layer.encode(r[None]).value[0])(row) for row in x[:5]])
    stretch = slope.diagonal(dim1=1, dim2=2)[:, 8:].log()
    assert 1.49 < stretch.abs().max() <= 1.5 + 1e-12
    free = ConvCoupling((4, 2, 2), channels=4, volume_preserving=False, log_scale_bound="none")
    free = randomised(free, scale=1.0)
    x = 3.0 * x
    raw = free.net(x[:, :8].reshape(50, 2, 2, 2))
    torch.testing.assert_close(free.encode(x).value[:, 8:], raw[:, 2:].reshape(50, 8))
    torch.testing.assert_close(free.encode(x).log_abs_det, raw[:, :2].sum(dim=(1, 2, 3)))
    assert raw.abs().max() > 5.0


def test_leaky_relu_of_slope_a_fifth():
    x = torch.tensor([-1.0, 2.0])
    assert build_activation("leaky-relu-0.2")(x).tolist() == pytest.approx([-0.2, 2.0])
    net = ConvNet(1, 1, channels=1, kernels=(1, 1), activation="leaky-relu-0.2")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1.0)
    image = torch.tensor([-3.0, 1.0]).reshape(1, 1, 1, 2)
    assert net(image).flatten().tolist() == pytest.approx([0.2 * -2.0 + 1.0, 3.0])


def test_image_shape():
    assert ImageShape.of([2, 3, 4]).features == 24
    rows = torch.arange(24.0)[None]
    assert ImageShape.of([2, 3, 4]).image(rows)[0, 1, 2, 3] == (1 * 3 + 2) * 4 + 3
