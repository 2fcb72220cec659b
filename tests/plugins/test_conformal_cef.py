"""CEF: placement, volumes over a flow beneath, the three ways to train it under one global flow."""

import copy
import math

import pytest
import torch

from flowzoo.interfaces import Measure
from flowzoo.registry import build, build_part
from flowzoo.training import TrainingData, fit, is_packable, train_pack
from flowzoo_plugins.baselines import GlobalFlow
from flowzoo_plugins.conformal import CEF
from flowzoo_plugins.conformal.placement import place, random_rotation

F64 = torch.float64
BENEATH = {"name": "realnvp", "layers": 2, "hidden": [8], "normalization": "none"}
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(count, features, seed=1):
    return torch.randn(count, features, generator=seeded(seed), dtype=F64)


def moved(module, seed=0, scale=0.2):
    module = module.double().eval()
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=F64))
    return module


def cef(features=3, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return moved(CEF(features, **{"base_flow": BENEATH, **options}))


def sphere(count, seed=0, noise=0.01, radius=1.0, centre=(0.5, -0.3, 0.2)):
    """A cap of a sphere, with noise: what one conformal embedding can fit."""
    generator = seeded(seed)
    flat = 0.5 * torch.randn(count, 2, generator=generator, dtype=F64)
    point = torch.cat([flat, torch.ones(count, 1, dtype=F64)], dim=1)
    point = radius * point / point.norm(dim=1, keepdim=True)
    point = point + noise * torch.randn(count, 3, generator=generator, dtype=F64)
    return point + torch.tensor(centre, dtype=F64)


# -- the flow -------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_charts", [None, 3])
@pytest.mark.parametrize("features, latent, context", [(2, 1, 0), (3, 2, 2), (3, 1, 0), (5, 3, 2)])
def test_volume_and_inverse(features, latent, context, num_charts):
    flow = cef(features, latent_features=latent, context_features=context, num_charts=num_charts)
    z, c = rows(6, latent), rows(6, context, 2) if context else None
    chart = None if num_charts is None else torch.arange(6) % num_charts
    x, volume = flow.decode(z, c, chart)

    def decode(row, i):
        pick = slice(i, i + 1)
        own = (None if c is None else c[pick], None if chart is None else chart[pick])
        return flow.decode(row[None], *own).value[0]

    for i in range(6):
        j = torch.func.jacrev(decode)(z[i], i)
        torch.testing.assert_close(
            volume[i], -0.5 * torch.linalg.slogdet(j.mT @ j).logabsdet, **CLOSE
        )
    back, volume_back = flow.encode(x, c, chart)
    torch.testing.assert_close(back, z, **CLOSE)
    torch.testing.assert_close(volume_back, volume, **CLOSE)
    y = rows(6, features, 3)
    zw, thick = flow.encode_thick(y, c, chart)
    torch.testing.assert_close(zw[:, :latent], flow.encode(y, c, chart).value, **CLOSE)
    again, thick_back = flow.decode_thick(zw, c, chart)
    torch.testing.assert_close(again, y, **CLOSE)
    torch.testing.assert_close(thick_back, thick, **CLOSE)
    torch.testing.assert_close(
        flow.reconstruct(y, c, chart), flow.decode(zw[:, :latent], c, chart).value, **CLOSE
    )
    composed = y
    for layer in flow.layers():
        composed = layer.encode(
            composed,
            c if layer.context_features else None,
            chart if layer.num_charts is not None else None,
        ).value
    torch.testing.assert_close(composed, zw[:, :latent], **CLOSE)


def test_reconstruction_leaves_the_flow_beneath_alone():
    flow = cef(base_flow={**BENEATH, "normalization": "batch"}).train()
    before = copy.deepcopy(flow.state_dict())
    x = rows(50, 3)
    flow.reconstruct(x).square().sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    assert all(parameter.grad is None for parameter in flow.flow.parameters())


def test_options_are_checked():
    with pytest.raises(ValueError, match="features: expected >= 2"):
        build("base-flow", "cef", features=1)
    with pytest.raises(ValueError, match="latent_features: expected 1 to 2, got 3"):
        build("base-flow", "cef", features=3, latent_features=3)
    for wrong in ({"init": "random"}, {"mode": "both"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            CEF(3, **wrong)
    with pytest.raises(ValueError, match="joint_weights"):
        CEF(3, joint_weights=(0.0, 1.0))
    with pytest.raises(ValueError, match="keeps its dimension"):
        CEF(3, base_flow={"name": "cef"}, latent_features=2)
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        CEF(3, reconstruction={"epoch": 3})
    built = build_part("base-flow", BENEATH, features=2)
    assert CEF(3, base_flow=built).flow is built
    assert CEF(4).latent_features == 3
    assert not is_packable(CEF(3, base_flow={"name": "nflows-realnvp", "layers": 2}))
    assert CEF(3, base_flow={"name": "maf", "layers": 2, "hidden": [4]}).fast == "encode"


# -- placement ------------------------------------------------------------------------------------


def test_pca_puts_the_latent_plane_on_the_principal_axes():
    x = rows(500, 3) * torch.tensor([3.0, 0.1, 1.0], dtype=F64) + 5.0
    flow = cef()
    place(flow.embedding, x, None, "pca", seeded())
    point = flow.reconstruct(x)
    lost = (x - point).square().sum(dim=1).mean()
    third = torch.linalg.eigvalsh(torch.cov(x.mT, correction=0))[0]
    torch.testing.assert_close(lost, third, **CLOSE)
    u = flow.embedding.encode(x).value
    torch.testing.assert_close(u.mean(dim=0), torch.zeros(2, dtype=F64), **CLOSE)
    assert u.std(dim=0, correction=0).mean().item() == pytest.approx(1.0, abs=1e-6)


def test_scale_is_the_papers_start():
    x = rows(500, 3) * torch.tensor([3.0, 0.1, 1.0], dtype=F64) + 5.0
    flow = cef()
    place(flow.embedding, x, None, "scale", seeded(1))
    uv = flow.embedding.conformal_map().encode(x).value
    torch.testing.assert_close(uv.mean(dim=0), torch.zeros(3, dtype=F64), **CLOSE)
    # one scale: distances shrink by the mean standard deviation, whatever the direction
    mean_std = x.std(dim=0, correction=0).mean()
    torch.testing.assert_close(uv.norm(dim=1), (x - x.mean(dim=0)).norm(dim=1) / mean_std, **CLOSE)
    other = cef()
    place(other.embedding, x, None, "scale", seeded(2))
    assert not torch.allclose(other.embedding.turn.start, flow.embedding.turn.start)


def test_charts_are_placed_by_their_own_rows():
    x = rows(300, 3)
    chart = (x[:, 0] > 0).long()
    chart[:4] = 2  # fewer than 2 D
    flow = cef(num_charts=4)
    place(flow.embedding, x, chart, "pca", seeded())
    offset = flow.embedding.shift.offset
    torch.testing.assert_close(offset[1], x[chart == 1].mean(dim=0), **CLOSE)
    for few in (2, 3):
        torch.testing.assert_close(offset[few], x.mean(dim=0), **CLOSE)
    assert (flow.embedding.bend.b == 0).all() and (flow.embedding.turn.angles == 0).all()


@pytest.mark.parametrize("start", ["scale", "pca"])
def test_data_without_spread_give_finite_maps(start):
    flow = cef()
    place(flow.embedding, torch.full((20, 3), 7.3, dtype=F64), None, start, seeded())
    assert all(torch.isfinite(p).all() for p in flow.parameters())
    assert float(flow.embedding.scale.log_scale.detach()) == 0.0
    before = copy.deepcopy(flow.state_dict())
    place(flow.embedding, rows(20, 3), None, "none", seeded())
    assert all(torch.equal(v, before[k]) for k, v in flow.state_dict().items())


def test_random_rotations_are_orthogonal_and_spread():
    many = torch.stack([random_rotation(3, seeded(s)) for s in range(2000)])
    eye = torch.eye(3, dtype=F64).expand_as(many)
    torch.testing.assert_close(many.mT @ many, eye, **CLOSE)
    # entries of a uniform rotation have mean 0 and variance 1/3
    assert many.mean(dim=0).abs().max() < 0.05
    assert (many.square().mean(dim=0) - 1 / 3).abs().max() < 0.04


# -- under one global flow ------------------------------------------------------------------------


def model(training=None, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = {"name": "cef", "base_flow": {**BENEATH, "normalization": "batch"}, **options}
        return GlobalFlow(
            3, base_flow=flow, training={"epochs": 3, "lr": 1e-2, **(training or {})}
        ).double()


def error(trained, x):
    return (x - trained.reconstruct(x)).square().mean().item()


def test_global_declares_a_thickened_and_a_manifold_density():
    m = model()
    assert {name: str(e.measure) for name, e in m.evaluations.items()} == {
        "thickened": "lebesgue",
        "manifold": "surface(dim=2, learned)",
    }
    assert "reconstruct" in m.capabilities and "reconstruct" not in GlobalFlow.capabilities
    assert "reconstruct" not in GlobalFlow(3, base_flow=BENEATH).capabilities
    with pytest.raises(TypeError, match="expected an injection"):
        GlobalFlow(3, base_flow=BENEATH).reconstruct(torch.zeros(1, 3))
    assert m.eval().embed(rows(5, 3)).shape == (5, 2)
    assert Measure("surface", dim=2) != m.evaluations["manifold"].measure


def test_the_density_in_space_is_that_on_the_manifold_times_a_normal_for_planes():
    m = moved(model(), scale=0.1)
    flow = m.base_flow.injection
    with torch.no_grad():
        flow.embedding.bend.b.zero_()
    x = rows(50, 3)
    square = (x - m.reconstruct(x)).square().sum(dim=1)
    sigma = m.base_flow.log_thickness.exp()
    normal = -0.5 * square / sigma**2 - 0.5 * (2 * math.pi * sigma**2).log()
    torch.testing.assert_close(m.log_prob(x), m.log_prob(x, evaluation="manifold") + normal)


@pytest.mark.parametrize("prior", ["standard-normal", "uniform-ball"])
def test_density_in_the_plane_integrates_to_one(prior):
    flow = {"name": "cef", "base_flow": BENEATH}
    m = moved(GlobalFlow(2, base_flow=flow, prior=prior), seed=3)
    with torch.no_grad():
        m.base_flow.log_thickness.fill_(math.log(0.15))
        m.base_flow.injection.embedding.bend.b.copy_(torch.tensor([0.2, 0.6]))
        steps = 1100
        edge = 5.0 if prior == "standard-normal" else 9.0
        t = -edge + 2 * edge / steps * (torch.arange(steps, dtype=F64) + 0.5)
        axis, weight = t.sinh(), t.cosh() * 2 * edge / steps
        if prior == "standard-normal":
            step = 12.0 / steps
            axis = -6.0 + step * (torch.arange(steps, dtype=F64) + 0.5)
            weight = torch.full_like(axis, step)
        grid, area = torch.cartesian_prod(axis, axis), torch.outer(weight, weight).flatten()
        mass = float((m.log_prob(grid).exp() * area).sum())
    tolerance = 1e-4 if prior == "standard-normal" else 2e-2
    assert mass == pytest.approx(1.0, abs=tolerance)


def test_samples_scatter_around_the_manifold_and_carry_their_density():
    m = moved(model(), scale=0.1)
    with torch.no_grad():
        m.base_flow.log_thickness.fill_(math.log(0.02))
    x, log_prob = m.sample_and_log_prob(4000, generator=seeded(3))
    torch.testing.assert_close(m.log_prob(x), log_prob, rtol=1e-7, atol=1e-7)
    distance = (x - m.reconstruct(x)).square().sum(dim=1).mean().sqrt().item()
    assert distance == pytest.approx(0.02, rel=0.1)


def test_stages_by_mode():
    names = {
        mode: [stage.name for stage in model(mode=mode).stages()]
        for mode in ("sequential", "joint", "thickened")
    }
    assert names == {
        "sequential": ["embedding", "reconstruction", "thickness", "maximum-likelihood"],
        "joint": ["embedding", "joint", "thickness"],
        "thickened": ["embedding", "thickness", "maximum-likelihood"],
    }
    reconstruction = model().stages()[1]
    settings = (reconstruction.epochs, reconstruction.groups[0].lr, reconstruction.batch_size)
    assert settings == (20, 1e-4, 128)
    assert reconstruction.groups[0].names == ("base_flow.injection.embedding",)
    other = model(reconstruction={"epochs": 7}).stages()[1]
    assert other.epochs == 7


def test_sequential_freezes_the_embedding_so_that_reconstruction_does_not_get_worse():
    x, valid = sphere(600), sphere(200, 1)
    options = {"init": "pca", "reconstruction": {"epochs": 15, "lr": 2e-2}}
    m = model({"epochs": 4}, **options)
    errors = []
    own = type(m).stages

    def stages(self):  # note the error when the likelihood stage begins
        made = list(own(self))
        ml = made[-1]
        made[-1] = ml.__class__(**{**vars(ml), "prepare": lambda *_: errors.append(error(m, x))})
        return tuple(made)

    placed = copy.deepcopy(m)
    placed.stages()[0].prepare(x, valid, seeded())
    m.__class__ = type("Watched", (type(m),), {"stages": stages})
    before = copy.deepcopy(m.base_flow.injection.flow.state_dict())
    assert fit(m, x, valid, seed=0).status == "ok"
    assert errors[0] < 0.3 * error(placed, x)  # the first stage learns
    assert error(m, x) == errors[0]  # B12: the second leaves it alone
    after = m.base_flow.injection.flow.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert m.base_flow.log_thickness.exp().item() == pytest.approx(
        math.sqrt(3 * errors[0]), rel=0.1
    )


def test_likelihood_alone_collapses_what_sequential_keeps():
    """B11, B12: the density on the manifold grows as the projection gets worse."""
    x, valid = sphere(600), sphere(200, 1)
    joint = {"init": "pca", "mode": "joint"}
    blind = model({"epochs": 25}, **joint, joint_weights=(1.0, 1e-6))
    both = model({"epochs": 25}, **joint, joint_weights=(1.0, 1e3))
    for m in (blind, both):
        assert fit(m, x, valid, seed=0).status == "ok"
    scores = [
        float(m.log_prob(valid, evaluation="manifold").detach().mean()) for m in (blind, both)
    ]
    assert scores[0] > scores[1] + 0.3
    assert error(blind, valid) > 5 * error(both, valid)
    full = [float(m.log_prob(valid).detach().mean()) for m in (blind, both)]
    assert full[1] > full[0]  # in space the collapse shows


def test_thickened_training_finds_the_sphere_and_its_noise():
    x, valid = sphere(1500, noise=0.02), sphere(300, 1, noise=0.02)
    m = model({"epochs": 40}, init="pca", mode="thickened")
    assert fit(m, x, valid, seed=0).status == "ok"
    assert error(m, valid) < 1.3 * 0.02**2 / 3
    assert m.base_flow.log_thickness.exp().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("mode", ["sequential", "joint", "thickened"])
def test_packed_training_equals_training_alone(mode):
    data = [TrainingData(sphere(100, s), sphere(40, s + 9)) for s in range(3)]
    options = {"mode": mode, "reconstruction": {"epochs": 1, "lr": 1e-3}}
    packed = [moved(model({"epochs": 2, "lr": 1e-3}, **options), seed) for seed in range(3)]
    alone = [copy.deepcopy(m) for m in packed]
    train_pack(packed, data, [1, 2, 3], packed=True)
    x = sphere(20, 40)
    for a, b, pair, seed in zip(packed, alone, data, [1, 2, 3], strict=True):
        fit(b, *pair, seed=seed)
        for evaluation in a.evaluations:
            torch.testing.assert_close(
                a.log_prob(x, evaluation=evaluation),
                b.log_prob(x, evaluation=evaluation),
                rtol=0,
                atol=1e-7,
            )


def test_state_goes_to_another_model_and_to_meta():
    m = moved(model())
    m.stages()[0].prepare(sphere(100), sphere(10), seeded())
    fresh = model().eval()
    fresh.load_state_dict(m.state_dict())
    x = sphere(7)
    assert torch.equal(fresh.log_prob(x), m.log_prob(x))
    meta = copy.deepcopy(m).to("meta")
    assert meta.log_prob(torch.empty(5, 3, device="meta", dtype=F64)).shape == (5,)
    assert m.log_prob(x[:0]).shape == (0,)


def test_thickened_training_stops_at_the_floor_of_sigma():
    x = torch.cat([torch.randn(300, 2, dtype=torch.float64), torch.zeros(300, 1).double()], dim=1)
    m = model({"epochs": 60, "lr": 5e-2}, init="pca", mode="thickened")
    assert fit(m, x, x[:50], seed=0).status == "ok"
    with torch.no_grad():
        thick = m.base_flow
        floor = 1e-3 * x.var(dim=0, correction=0).mean().sqrt()
        torch.testing.assert_close(thick.log_floor, floor.log())
        _, w = thick.injection.encode_thick(x).value.split([2, 1], dim=1)
        best = m.log_prob(x).mean()
        assert float(w.abs().max()) < 1e-2
        thick.log_thickness.fill_(-30.0)  # a thinner manifold is no better
        assert float(m.log_prob(x).mean()) <= float(best) + 0.1
        assert m.sample(200).sub(m.reconstruct(m.sample(200))).isfinite().all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_joint_weights_mean_the_same_in_any_units(scale):
    x = sphere(400)
    m = model(mode="joint", init="pca")
    m.stages()[0].prepare(scale * x, scale * x, seeded())
    m.eval()
    with torch.no_grad():
        loss = m.stages()[1].loss(scale * x, x, 0.0)
        density = m.log_prob(scale * x, evaluation="manifold")
    share = (x - x.mean(dim=0)).square().mean()
    reference = model(mode="joint", init="pca")
    reference.stages()[0].prepare(x, x, seeded())
    expected = 1e4 * (x - reference.eval().reconstruct(x)).square().mean(dim=1) / share
    torch.testing.assert_close(loss + 10 * density, expected.detach(), rtol=1e-6, atol=1e-6)
