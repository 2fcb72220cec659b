"""VQAutoencoder: sizes, loss and its gradients, initialisation, dead codes, packing."""

import copy
import logging
import math

import pytest
import torch

from flowzoo.registry import build_part
from flowzoo.training import TrainingData, fit, train_pack
from flowzoo_plugins.partitioners import VQAutoencoder
from flowzoo_plugins.partitioners.coder import BatchNorm

SMALL = {"num_charts": 8, "hidden": (16, 16)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def circle(rows=400, seed=0, dtype=torch.float64):
    angle = 2 * math.pi * torch.rand(rows, generator=generator(seed), dtype=dtype)
    return torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], dim=1)


def small(seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VQAutoencoder(3, **{**SMALL, **options}).double()


def prepared(x=None, seed=0, **options):
    charts = small(**options)
    x = circle() if x is None else x
    charts.stages()[0].prepare(x, x, generator(seed))
    return charts


def test_default_sizes_and_training_are_the_papers():
    charts = VQAutoencoder(3)
    assert [tuple(layer.weight.shape) for layer in charts.encoder.linears] == [
        (128, 3),
        (128, 128),
        (128, 128),
        (128, 128),
        (2, 128),
    ]
    assert charts.codes.shape == (32, 2)
    hidden = 3 * (128 * 128 + 128) + 4 * 2 * 128  # and batch-norm weight and bias
    encoder = (3 * 128 + 128) + hidden + (128 * 2 + 2)
    decoder = (2 * 128 + 128) + hidden + (128 * 3 + 3)
    assert sum(p.numel() for p in charts.parameters()) == encoder + decoder + 64
    assert charts.encoder.negative_slope == 0.2
    (stage,) = charts.stages()
    assert (stage.epochs, stage.batch_size, stage.groups[0].lr) == (50, 128, 1e-4)


def test_training_options_change_the_papers():
    assert VQAutoencoder(3, training={"lr": 1e-2}).stages()[0].epochs == 50
    stage = VQAutoencoder(3, training={"steps": 7}).stages()[0]
    assert (stage.epochs, stage.steps, stage.groups[0].lr) == (None, 7, 1e-4)
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        VQAutoencoder(3, training={"epoch": 7})


def test_distance_is_to_the_encoding():
    charts = prepared()
    x = circle(20, seed=1)
    expected = torch.cdist(charts.encode(x), charts.codes)
    torch.testing.assert_close(charts.distances(x), expected)
    nearest = charts.codes[expected.argmin(dim=1)]
    torch.testing.assert_close(charts.reconstruct(x), charts.decoder(nearest))


@pytest.mark.parametrize("commitment", [0.25, 2.0])
def test_loss_and_gradients_follow_the_definition(commitment):
    charts = prepared(commitment=commitment).eval()
    (stage,) = charts.stages()
    x = circle(30, seed=2)
    loss = stage.loss(x, x[:, :0], 0.0)

    encoded = charts.encode(x).detach().requires_grad_()
    index = torch.cdist(encoded, charts.codes).argmin(dim=1)
    code = charts.codes.detach()[index].requires_grad_()
    reconstruction = (charts.decoder(code) - x).square().mean(dim=1)
    gap = (encoded - code).square().mean(dim=1)
    torch.testing.assert_close(loss, reconstruction + (1 + commitment) * gap)

    # codes learn from the codebook term alone, the encoder from reconstruction and commitment
    through = torch.autograd.grad(reconstruction.mean(), code, retain_graph=True)[0]
    difference = (encoded - code).detach() / code.shape[1] * 2 / len(x)
    to_encoding = through + commitment * difference
    to_codes = torch.zeros_like(charts.codes).index_add_(0, index, -difference)
    expected = torch.autograd.grad(
        charts.encode(x), tuple(charts.encoder.parameters()), grad_outputs=to_encoding
    )
    found = torch.autograd.grad(loss.mean(), (charts.codes, *charts.encoder.parameters()))
    torch.testing.assert_close(found[0], to_codes)
    for a, b in zip(found[1:], expected, strict=True):
        torch.testing.assert_close(a, b)


def test_every_parameter_gets_a_finite_gradient():
    charts = prepared().train()
    charts.stages()[0].loss(circle(200, seed=5), None, 0.0).mean().backward()
    for name, parameter in charts.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_distances_ignore_the_mode_and_the_other_rows():
    charts = prepared()
    x = circle(10, seed=3)
    before = copy.deepcopy(charts.state_dict())
    training = charts.train().distances(x)
    assert torch.equal(training, charts.eval().distances(x))
    torch.testing.assert_close(charts.train().distances(x[4:5]), training[4:5])
    assert charts.distances(x[:0]).shape == (0, 8)
    for name, tensor in charts.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_statistics_move_in_place_and_only_in_training():
    charts = prepared()
    (stage,) = charts.stages()
    norm = charts.encoder.norms[0]
    held, before = norm.running_mean, norm.running_mean.clone()
    x = circle(50, seed=4) + 1
    charts.eval()
    stage.loss(x, None, 0.0)
    assert torch.equal(held, before)
    charts.train()
    stage.loss(x, None, 0.0)
    assert norm.running_mean is held
    mean = charts.encoder.linears[0](x).mean(dim=0).detach()
    torch.testing.assert_close(held, 0.9 * before + 0.1 * mean)


def test_batch_norm_equals_torchs():
    ours, theirs = BatchNorm(4).double(), torch.nn.BatchNorm1d(4).double()
    for seed in range(3):
        x = 2 + 3 * torch.randn(20, 4, generator=generator(seed), dtype=torch.float64)
        torch.testing.assert_close(ours(x, 0.1), theirs(x))
    theirs.eval()
    torch.testing.assert_close(ours(x, None), theirs(x))
    torch.testing.assert_close(ours(x[:1], 0.1), theirs(x[:1]))  # one row has no variance


def test_kmeans_start_uses_every_code_and_fits_the_statistics():
    x = circle() * 4 + 10
    charts = prepared(x)
    assert (charts.usage(x) > 0).all()
    first = charts.encoder.linears[0](x)
    torch.testing.assert_close(charts.encoder.norms[0].running_mean, first.mean(dim=0))
    torch.testing.assert_close(charts.encoder.norms[0].running_var, first.var(dim=0))
    torch.testing.assert_close(charts.decoder.linears[-1].bias.detach(), x.mean(dim=0))


def test_random_start_is_uniform_and_seeded():
    same = [prepared(init="random", num_charts=500, seed=3).codes for _ in range(2)]
    other = prepared(init="random", num_charts=500, seed=4).codes
    assert torch.equal(*same)
    assert not torch.equal(same[0], other)
    assert same[0].abs().max() <= 1 / 500
    assert float(same[0].detach().std()) == pytest.approx(1 / 500 / math.sqrt(3), rel=0.1)


def test_dead_codes_restart_on_encodings(caplog):
    x = circle()
    charts = prepared(x)
    with torch.no_grad():
        charts.codes[2:5] = 1e6
    alive = charts.codes.detach().clone()
    state = torch.random.get_rng_state()
    with caplog.at_level(logging.INFO, logger="flowzoo_plugins.partitioners"):
        charts.stages()[0].after_epoch(x, generator())
    assert "5 of 8 codes used" in caplog.text
    assert torch.equal(torch.random.get_rng_state(), state)
    kept = torch.tensor([0, 1, 5, 6, 7])
    assert torch.equal(charts.codes[kept], alive[kept])
    assert charts.codes[2:5].unique(dim=0).shape == (3, 2)
    assert (
        torch.cdist(
            charts.codes[2:5], charts.encode(x), compute_mode="donot_use_mm_for_euclid_dist"
        )
        .amin(dim=1)
        .max()
        < 1e-12
    )
    assert (charts.usage(x) > 0).all()


def test_dead_codes_stay_without_restart():
    x = circle()
    charts = prepared(x, restart_dead=False)
    with torch.no_grad():
        charts.codes[2:5] = 1e6
    charts.stages()[0].after_epoch(x, generator())
    assert (charts.codes[2:5] == 1e6).all()


def test_more_dead_codes_than_rows():
    x = circle(3)
    charts = prepared(x, init="random")
    with torch.no_grad():
        charts.codes += 1e6
    charts.stages()[0].after_epoch(x, generator())
    assert charts.codes.isfinite().all()
    assert charts.codes.abs().max() < 1e6 + 1


def test_training_reconstructs_and_uses_the_codes():
    x, valid = circle(1000), circle(300, seed=7)
    charts = small(training={"epochs": 15, "lr": 3e-3})
    variance = float(valid.var(dim=0).mean())
    result = fit(charts, x, valid, seed=1)
    assert result.status == "ok"
    error = float((charts.reconstruct(valid) - valid).detach().square().mean())
    assert error < 0.15 * variance  # 8 arcs of a circle leave (1 - sinc(1/8)) at best, 0.026
    assert result.stages[0].best_valid == pytest.approx(error, rel=1e-6)  # the paper's objective
    assert (charts.usage(valid) > 0).sum() >= 7
    assert 6 < float(charts.perplexity(valid)) <= 8


def test_packed_training_equals_training_alone():
    data = [TrainingData(circle(100, seed=i), circle(40, seed=9 + i)) for i in range(3)]
    options = {"training": {"epochs": 3, "lr": 1e-3, "batch_size": 32}}
    packed = [small(seed=i, **options) for i in range(3)]
    alone = [copy.deepcopy(model) for model in packed]
    train_pack(packed, data, [5, 6, 7], packed=True)
    for model, pair, seed in zip(alone, data, [5, 6, 7], strict=True):
        fit(model, *pair, seed=seed)
    x = circle(50, seed=20)
    for a, b in zip(packed, alone, strict=True):
        torch.testing.assert_close(a.distances(x), b.distances(x), rtol=0, atol=1e-9)
        assert not torch.equal(a.codes, packed[0].codes) or a is packed[0]


def test_one_training_row_and_duplicates():
    one = torch.ones(1, 3, dtype=torch.float64)
    charts = prepared(one, init="random").train()
    assert charts.stages()[0].loss(one, None, 0.0).isfinite().all()
    with pytest.raises(ValueError, match="num_charts=8 rows, got 1"):
        prepared(one)
    same = one.repeat(20, 1)
    charts = prepared(same).train()
    loss = charts.stages()[0].loss(same, None, 0.0)
    loss.mean().backward()
    assert loss.isfinite().all()
    assert all(p.grad.isfinite().all() for p in charts.parameters())


def test_bad_input_is_refused():
    (stage,) = small().stages()
    bad = circle(20)
    bad[3, 1] = float("inf")
    with pytest.raises(ValueError, match="x_train: expected finite"):
        stage.prepare(bad, bad, generator())
    with pytest.raises(ValueError, match=r"x_train: expected shape \(N, 3\)"):
        stage.prepare(bad[:, :2], bad[:, :2], generator())
    with pytest.raises(ValueError, match="commitment"):
        VQAutoencoder(3, commitment=-1.0)
    with pytest.raises(ValueError, match="negative_slope"):
        VQAutoencoder(3, negative_slope=float("nan"))
    with pytest.raises(ValueError, match="latent"):
        VQAutoencoder(3, latent=0)
    with pytest.raises(ValueError, match="init"):
        VQAutoencoder(3, init="zeros")
    with pytest.raises(ValueError, match="hidden"):
        VQAutoencoder(3, hidden=(16, 0))
    with pytest.raises(ValueError, match="x: expected shape"):
        small().encode(torch.zeros(2, 2))


def test_state_moves_with_the_module():
    x = circle()
    charts = prepared(x)
    fresh = small(seed=8)
    fresh.load_state_dict(charts.state_dict())
    for other in (copy.deepcopy(charts), fresh):
        assert torch.equal(other.distances(x), charts.distances(x))
    single = charts.float()
    assert single.distances(x.float()).dtype == torch.float32
    meta = single.to("meta")
    rows = torch.empty(6, 3, device="meta")
    assert meta.distances(rows).shape == (6, 8)
    assert meta.stages()[0].loss(rows, None, 0.0).shape == (6,)


def test_is_built_by_name_from_plain_data():
    options = {"name": "vq-autoencoder", "num_charts": 4, "hidden": [8], "training": {"epochs": 1}}
    charts = build_part("partitioner", options, features=2)
    assert isinstance(charts, VQAutoencoder)
    assert charts.codes.shape == (4, 2)
    with pytest.raises(ValueError, match="did you mean 'commitment'"):
        build_part("partitioner", {"name": "vq-autoencoder", "comitment": 1.0}, features=2)
