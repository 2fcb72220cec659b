"""Conformal maps and embeddings: similar Jacobians, pseudo-inverses, volumes, exact thickening."""

import copy
import math

import pytest
import torch
from torch.func import functional_call, jacrev, stack_module_state, vmap

from flowzoo.interfaces import Injection
from flowzoo.layers import (
    ConformalEmbedding,
    Orthogonal,
    Pad,
    Scale,
    Shift,
    SpecialConformal,
    Thickened,
    surface_log_prob,
)
from flowzoo.priors import Product, StandardNormal, UniformBall

F64 = torch.float64
MAPS = [Scale, Shift, Orthogonal, SpecialConformal]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}  # relative, for rows near a pole


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(count, features, seed=1, scale=1.0):
    return scale * torch.randn(count, features, generator=seeded(seed), dtype=F64)


def moved(module, seed=0, scale=0.3):
    """In float64, away from its start."""
    module = module.double().eval()
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=F64))
    return module


def charts(count, num_charts):
    return None if num_charts is None else torch.arange(count) % num_charts


def jacobian(function, x, chart):
    """(N, out, in) of a batched ``function(x, None, chart) -> value``."""

    def one(row, index):
        return function(row[None], None, None if chart is None else index[None])[0]

    index = torch.zeros(len(x), dtype=torch.int64) if chart is None else chart
    return torch.stack([jacrev(one)(x[i], index[i]) for i in range(len(x))])


# -- maps of R^D ----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_charts", [None, 4])
@pytest.mark.parametrize("features", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", MAPS)
def test_maps_are_conformal_bijections_with_the_jacobians_volume(kind, features, num_charts):
    layer = moved(kind(features, num_charts=num_charts))
    x, chart = rows(8, features), charts(8, num_charts)
    z, volume = layer.encode(x, None, chart)
    back, volume_back = layer.decode(z, None, chart)
    torch.testing.assert_close(back, x, **CLOSE)
    torch.testing.assert_close(volume_back, volume, **CLOSE)
    j = jacobian(lambda *a: layer.encode(*a).value, x, chart)
    torch.testing.assert_close(torch.linalg.slogdet(j).logabsdet, volume, **CLOSE)
    similar = (2 * volume / features).exp()[:, None, None] * torch.eye(features, dtype=F64)
    torch.testing.assert_close(j.mT @ j, similar, **CLOSE)
    assert layer.encode(x[:0], None, None if chart is None else chart[:0]).value.shape[0] == 0


@pytest.mark.parametrize("kind", MAPS)
def test_each_chart_has_its_own_map(kind):
    layer = moved(kind(3, num_charts=2))
    x = rows(1, 3).expand(2, 3)
    first, second = layer.encode(x, None, torch.tensor([0, 1])).value
    assert not torch.allclose(first, second)
    again = layer.encode(x, None, torch.tensor([1, 0])).value
    assert torch.allclose(again.flip(0), torch.stack([first, second]))


def test_volume_of_the_special_conformal_map_has_the_right_sign_and_exponent():
    # B33: log|det| = -D log|1 - 2 b.x + |b|^2 |x|^2|, here slogdet = +0.95267 for a ratio below 1
    layer = SpecialConformal(3).double()
    ratio = math.exp(-0.95267 / 3)
    b, x2 = 0.4, 0.3  # b along the first axis; solve for x1
    x1 = (1 - math.sqrt(ratio - b * b * x2 * x2)) / b
    layer.b.data.copy_(torch.tensor([b, 0.0, 0.0], dtype=F64))
    x = torch.tensor([[x1, x2, 0.0]], dtype=F64)
    assert layer.encode(x).log_abs_det.item() == pytest.approx(0.95267, abs=1e-12)
    j = jacobian(lambda *a: layer.encode(*a).value, x, None)
    assert torch.linalg.slogdet(j[0]).logabsdet.item() == pytest.approx(0.95267, abs=1e-10)


def test_volume_of_an_embedded_plane_is_the_length_scale_to_the_power_d():
    # B1: lambda = 1.373767 stretches areas by its square, 1.887237
    flow = ConformalEmbedding(3, latent_features=2).double()
    b, u2 = -0.4, 0.3
    u1 = (1 - math.sqrt(1 / 1.373767 - b * b * u2 * u2)) / -b
    flow.bend.b.data.copy_(torch.tensor([b, 0.0, 0.0], dtype=F64))
    u = torch.tensor([[u1, u2]], dtype=F64)
    j = jacobian(lambda *a: flow.decode(*a).value, u, None)[0]
    area = torch.linalg.det(j.mT @ j).sqrt().item()
    assert area == pytest.approx(1.887237, abs=2e-6)
    assert flow.decode(u).log_abs_det.item() == pytest.approx(-math.log(area), abs=1e-12)


def test_orthogonal_starts_at_its_start_and_stays_orthogonal():
    layer = Orthogonal(4, num_charts=3).double()
    start = torch.linalg.qr(torch.randn(3, 4, 4, generator=seeded(), dtype=F64)).Q
    layer.start.copy_(start)
    assert torch.equal(layer.matrix(), start)
    layer = moved(layer, scale=3.0)
    q = layer.matrix()
    assert (q - start).abs().max() > 0.5
    torch.testing.assert_close(q.mT @ q, torch.eye(4, dtype=F64).expand(3, 4, 4), **CLOSE)
    assert layer.angles.shape == (3, 6)


def test_pad_drops_what_it_adds():
    pad = Pad(3, latent_features=1)
    assert pad.encode(torch.tensor([[1.0, 2.0, 3.0]])).value.tolist() == [[1.0]]
    for latent in (0, 3, 4):
        with pytest.raises(ValueError, match="latent_features"):
            Pad(3, latent_features=latent)
    with pytest.raises(ValueError, match="num_charts"):
        Scale(3, num_charts=0)


# -- embeddings -----------------------------------------------------------------------------------

SIZES = [(2, 1), (3, 2), (3, 1), (5, 3)]


def embedding(features, latent, num_charts=None, seed=0):
    return moved(ConformalEmbedding(features, latent_features=latent, num_charts=num_charts), seed)


@pytest.mark.parametrize("num_charts", [None, 4])
@pytest.mark.parametrize("features, latent", SIZES)
def test_decoder_is_conformal_with_the_volume_of_autograd(features, latent, num_charts):
    flow = embedding(features, latent, num_charts)
    z, chart = rows(8, latent), charts(8, num_charts)
    x, volume = flow.decode(z, None, chart)
    j = jacobian(lambda *a: flow.decode(*a).value, z, chart)
    gram = j.mT @ j
    uv = torch.cat([z, z.new_zeros(8, features - latent)], dim=1)
    scale = flow.log_length_scale(uv, chart).exp()
    similar = scale.square()[:, None, None] * torch.eye(latent, dtype=F64)
    torch.testing.assert_close(gram, similar, **CLOSE)
    torch.testing.assert_close(volume, -0.5 * torch.linalg.slogdet(gram).logabsdet, **CLOSE)
    back, volume_back = flow.encode(x, None, chart)
    torch.testing.assert_close(back, z, **CLOSE)
    torch.testing.assert_close(volume_back, volume, **CLOSE)
    torch.testing.assert_close(flow.reconstruct(x, None, chart), x, **CLOSE)
    # B4: the left inverse whose Jacobian is the pseudo-inverse
    left = jacobian(lambda *a: flow.encode(*a).value, x.detach(), chart)
    torch.testing.assert_close(left, torch.linalg.pinv(j), **CLOSE)


@pytest.mark.parametrize("features, latent", SIZES)
def test_off_the_manifold_the_volume_is_that_of_the_point_x_is_taken_to(features, latent):
    flow = embedding(features, latent)  # B2
    x = rows(8, features)
    z, volume = flow.encode(x)
    there, at = flow.decode(z)
    torch.testing.assert_close(volume, at, **CLOSE)
    torch.testing.assert_close(flow.reconstruct(x), there, **CLOSE)
    assert (x - there).norm(dim=1).min() > 1e-3
    assert not torch.allclose(flow.conformal_map().encode(x).log_abs_det, volume, atol=1e-3)


def test_the_conformal_map_of_an_embedding_is_the_embedding():
    flow = embedding(3, 2, 4)
    z, chart = rows(8, 2), charts(8, 4)
    x, volume = flow.conformal_map().decode(flow.pad.decode(z).value, None, chart)
    torch.testing.assert_close(x, flow.decode(z, None, chart).value, **CLOSE)
    torch.testing.assert_close(2 / 3 * volume, flow.decode(z, None, chart).log_abs_det, **CLOSE)


def test_planes_become_spheres():
    flow = embedding(3, 2, seed=3)
    x = flow.decode(rows(50, 2, scale=2.0)).value.detach()
    # |x|^2 = 2 c.x + t is linear in c and t
    design = torch.cat([2 * x, torch.ones(50, 1, dtype=F64)], dim=1)
    solved = torch.linalg.lstsq(design, x.square().sum(dim=1, keepdim=True)).solution
    residual = (design @ solved)[:, 0] - x.square().sum(dim=1)
    assert residual.abs().max() < 1e-9
    assert not (torch.linalg.svdvals(x - x.mean(dim=0))[-1] < 1e-3)  # no plane


# -- thickened ------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_charts", [None, 4])
@pytest.mark.parametrize("features, latent", SIZES)
def test_thickened_is_a_bijection_with_the_jacobians_volume(features, latent, num_charts):
    flow = moved(Thickened(embedding(features, latent, num_charts)), seed=5)
    x, chart = rows(8, features), charts(8, num_charts)
    z, volume = flow.encode(x, None, chart)
    back, volume_back = flow.decode(z, None, chart)
    torch.testing.assert_close(back, x, **CLOSE)
    torch.testing.assert_close(volume_back, volume, **CLOSE)
    j = jacobian(lambda *a: flow.encode(*a).value, x, chart)
    torch.testing.assert_close(torch.linalg.slogdet(j).logabsdet, volume, **CLOSE)
    inner = flow.injection.encode(x, None, chart).value
    torch.testing.assert_close(z[:, :latent], inner, **CLOSE)


def circle(sigma):
    """A strongly bent line in the plane, thickened: most of a circle of radius about 0.6."""
    flow = ConformalEmbedding(2, latent_features=1).double()
    with torch.no_grad():
        flow.bend.b.copy_(torch.tensor([0.3, 0.8]))
        flow.turn.angles.fill_(0.7)
        flow.scale.log_scale.fill_(-0.1)
        flow.shift.offset.copy_(torch.tensor([0.4, -0.2]))
    thick = Thickened(flow).double()
    thick.log_thickness.data.fill_(math.log(sigma))
    return thick


def thick_log_prob(thick, x, prior=None):
    prior = prior or Product([StandardNormal(1).double(), StandardNormal(1).double()])
    z, volume = thick.encode(x)
    return prior.log_prob(z) + volume


def literature(thick, x):
    """log p_M(c+(x)) + log N(x - c(c+(x)); 0, sigma^2 I), the formula of B11."""
    flow, sigma = thick.injection, thick.log_thickness.exp()
    codimension = flow.features - flow.latent_features
    prior = StandardNormal(flow.latent_features).double()
    square = (x - flow.reconstruct(x)).square().sum(dim=1)
    normal = -0.5 * codimension * (2 * math.pi * sigma**2).log() - square / (2 * sigma**2)
    return surface_log_prob(flow, prior, x) + normal


def plane_grid(width=6.0, steps=1200):
    line = (torch.arange(steps, dtype=F64) + 0.5) / steps * 2 * width - width
    return torch.cartesian_prod(line, line), (2 * width / steps) ** 2


@torch.no_grad()
@pytest.mark.parametrize("sigma", [0.05, 0.15])
def test_thickened_integrates_to_one_where_the_formula_of_the_literature_does_not(sigma):
    thick = circle(sigma)
    x, area = plane_grid()
    assert float(thick_log_prob(thick, x).exp().sum() * area) == pytest.approx(1.0, abs=1e-4)
    if sigma == 0.15:
        assert abs(float(literature(thick, x).exp().sum() * area) - 1.0) > 3e-3


@torch.no_grad()
def test_thickened_agrees_with_the_literature_to_first_order_in_sigma():
    gaps = []
    for sigma in (1e-1, 1e-2, 1e-3):
        thick = circle(sigma)
        # points at distance of the order of sigma
        z = rows(500, 2, seed=4)
        x = thick.decode(z).value
        gaps.append(float((thick_log_prob(thick, x) - literature(thick, x)).abs().mean()))
    assert gaps[1] < 0.15 * gaps[0]
    assert gaps[2] < 0.15 * gaps[1]
    assert gaps[2] < 5e-3


@torch.no_grad()
@pytest.mark.parametrize("features, latent", SIZES)
def test_thickened_is_the_literatures_formula_for_planes(features, latent):
    flow = embedding(features, latent, seed=2)
    flow.bend.b.zero_()
    thick = Thickened(flow).double()
    thick.log_thickness.fill_(math.log(0.3))
    x = rows(20, features)
    prior = Product([StandardNormal(latent), StandardNormal(features - latent)]).double()
    torch.testing.assert_close(thick_log_prob(thick, x, prior), literature(thick, x), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("prior", [StandardNormal(1), UniformBall(1)], ids=["normal", "ball"])
def test_surface_density_integrates_to_one_over_the_manifold(prior):
    flow = circle(0.1).injection
    edge = 9.0  # points in u evenly in asinh(u): the ball's tails are |u|^-3
    t = torch.linspace(-edge, edge, 200_001, dtype=F64)
    x = flow.decode(t.sinh()[:, None]).value
    arc = x.diff(dim=0).norm(dim=1)
    middle = flow.decode((0.5 * (t[1:] + t[:-1])).sinh()[:, None]).value
    mass = (surface_log_prob(flow, prior.double(), middle).exp() * arc).sum()
    assert float(mass) == pytest.approx(1.0, abs=1e-5)


@torch.no_grad()
def test_thickness_is_the_offsets_root_mean_square():
    thick = circle(1.0)
    truth = circle(0.07)
    x = truth.decode(rows(20_000, 2, seed=8)).value
    thick.fit(x)
    assert float(thick.log_thickness.exp()) == pytest.approx(0.07, rel=0.02)
    # it is the best: the likelihood falls on both sides
    best = float(thick_log_prob(thick, x).mean())
    for factor in (0.97, 1.03):
        other = copy.deepcopy(thick)
        other.log_thickness.add_(math.log(factor))
        assert float(thick_log_prob(other, x).mean()) < best


@torch.no_grad()
def test_thickness_by_chart_with_a_fallback_and_a_floor():
    flow = ConformalEmbedding(3, latent_features=2, num_charts=3).double()
    thick = Thickened(flow).double()
    x = rows(1000, 3)
    chart = (torch.arange(1000) % 2).clamp(max=1)
    x[:, 2] *= torch.where(chart == 0, 0.1, 0.5)
    chart[:5] = 2  # fewer than 2 D rows
    thick.fit(x, None, chart)
    sigma = thick.log_thickness.exp()
    own = x[chart == 1, 2].square().mean().sqrt()
    torch.testing.assert_close(sigma[1], own, **CLOSE)
    torch.testing.assert_close(sigma[2], x[:, 2].square().mean().sqrt(), **CLOSE)
    assert 0.08 < sigma[0] < 0.12
    flat = torch.cat([x[:, :2], torch.zeros(1000, 1, dtype=F64)], dim=1)
    thick.fit(flat, None, chart)
    floor = (1e-6 * flat.var(dim=0, correction=0).mean()).sqrt()
    torch.testing.assert_close(thick.log_thickness.exp(), floor.expand(3), **CLOSE)
    thick.fit(torch.zeros(4, 3, dtype=F64), None, chart[:4])
    assert torch.isfinite(thick.log_thickness).all()
    with pytest.raises(ValueError, match="at least one row"):
        thick.fit(x[:0], None, chart[:0])


# -- packing, devices, gradients ------------------------------------------------------------------


class Both(torch.nn.Module):
    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, x, chart):
        step = self.flow.encode(x, None, chart)
        return step, self.flow.decode(0.3 * step.value.tanh(), None, chart)


@pytest.mark.parametrize("num_charts", [None, 4])
@pytest.mark.filterwarnings("error")  # no batching rule missing
def test_vmap_equals_loop_with_gradients(num_charts):
    models = [
        Both(moved(Thickened(embedding(3, 2, num_charts, seed)), seed + 7)) for seed in range(3)
    ]
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    x = rows(18, 3).reshape(3, 6, 3)
    chart = charts(6, num_charts)

    def run(p, b, x):
        return functional_call(base, (p, b), (x, chart))

    packed = vmap(run)(parameters, buffers, x)
    sum(t.square().sum() for step in packed for t in step).backward()
    for i, model in enumerate(models):
        steps = model(x[i], chart)
        sum(t.square().sum() for step in steps for t in step).backward()
        for ours, theirs in zip(packed, steps, strict=True):
            torch.testing.assert_close(ours.value[i], theirs.value, rtol=0, atol=1e-9)
            torch.testing.assert_close(ours.log_abs_det[i], theirs.log_abs_det, rtol=0, atol=1e-9)
        for name, parameter in model.named_parameters():
            assert torch.isfinite(parameter.grad).all() and (parameter.grad != 0).any(), name
            torch.testing.assert_close(
                parameters[name].grad[i], parameter.grad, rtol=1e-7, atol=1e-8
            )


@pytest.mark.parametrize("num_charts", [None, 4])
def test_runs_on_meta_and_in_float32(num_charts):
    flow = Thickened(ConformalEmbedding(3, latent_features=2, num_charts=num_charts))
    x, chart = torch.randn(5, 3), charts(5, num_charts)
    assert flow.encode(x, None, chart).value.dtype == torch.float32
    torch.testing.assert_close(flow.encode(x, None, chart).value, x)  # starts as the identity
    meta = copy.deepcopy(flow).to("meta")
    far = None if chart is None else chart.to("meta")
    step = meta.encode(x.to("meta"), None, far)
    assert step.value.is_meta and step.value.shape == (5, 3)
    assert meta.injection.reconstruct(x.to("meta"), None, far).shape == (5, 3)


def test_a_bend_of_zero_still_has_a_gradient():
    flow = ConformalEmbedding(3, latent_features=2).double()
    x = rows(20, 3)
    (x - flow.reconstruct(x)).square().sum().backward()
    assert (flow.bend.b.grad.abs() > 1e-6).any()
    assert (flow.turn.angles.grad.abs() > 1e-6).any()


# -- the contract ---------------------------------------------------------------------------------


def test_bad_input_is_named():
    for latent in (0, 3):
        with pytest.raises(ValueError, match="latent_features"):
            ConformalEmbedding(3, latent_features=latent)
    with pytest.raises(ValueError, match="features: expected >= 2"):
        ConformalEmbedding(1, latent_features=1)
    flow = ConformalEmbedding(3, latent_features=2, num_charts=2)
    for call in (flow.reconstruct, flow.encode_thick, flow.decode_thick, flow.encode):
        with pytest.raises(ValueError, match=r"expected shape \(N, 3\), got \(5, 2\)"):
            call(torch.zeros(5, 2), None, torch.zeros(5, dtype=torch.int64))
        with pytest.raises(ValueError, match="chart: expected int64"):
            call(torch.zeros(5, 3))
    with pytest.raises(TypeError, match="expected an Injection, got Scale"):
        Thickened(Scale(3))


def test_an_injection_of_its_own_has_sensible_defaults():
    flow = ConformalEmbedding(3, latent_features=2)
    assert isinstance(flow, Injection) and flow.mode == "sequential"
    assert flow.reconstruction_stage(lambda x, n, p: x[:, 0], ("",)) is None
    flow.initialise(torch.zeros(4, 3), None, seeded())
    assert Thickened(flow).layers()[0].features == 3


@pytest.mark.parametrize("features", [2, 3, 8])
def test_the_special_conformal_map_keeps_its_digits_near_its_pole(features):
    bend = SpecialConformal(features)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        bend.b.copy_(torch.randn(features, generator=generator))
    pole = bend.b.detach().double() / bend.b.detach().double().square().sum()
    away = torch.randn(500, features, generator=generator, dtype=torch.float64)
    away = pole.norm() * away / away.norm(dim=1, keepdim=True)
    exact = copy.deepcopy(bend).double()
    for distance, allowed in ((1e-2, 1e-3), (1e-3, 1e-2), (1e-4, 0.1)):
        x = (pole + distance * away).float()
        found, wanted = bend.encode(x), exact.encode(x.double())
        assert bool(found.value.isfinite().all() and found.log_abs_det.isfinite().all())
        off = (found.log_abs_det - wanted.log_abs_det).detach().abs().max() / features
        assert float(off) < allowed, (distance, float(off))


@pytest.mark.parametrize("start", [[0.0, 0.0, 0.0], [0.3, -0.2, 0.5]])
def test_the_special_conformal_map_at_the_origin(start):
    """Training data have rows at the centre of their chart, where the map has no direction."""
    bend = SpecialConformal(3).double()
    with torch.no_grad():
        bend.b.copy_(torch.tensor(start))
    x = torch.tensor([[0.0, 0.0, 0.0], [1e-9, 0.0, 0.0], [1.0, 2.0, -0.5]], dtype=torch.float64)
    for direction in (bend.encode, bend.decode):
        step = direction(x)
        assert (
            step.value[0].tolist() == [0.0, 0.0, 0.0] and float(step.log_abs_det[0].detach()) == 0.0
        )

        def of(x, b, direction=direction):
            bend.b = b
            return tuple(direction(x))

        weight = bend.b
        del bend.b
        at = x.clone().requires_grad_(), weight.detach().clone().requires_grad_()
        assert torch.autograd.gradcheck(of, at)
        del bend.b
        bend.b = weight


def test_the_two_forms_of_the_special_conformal_map_meet():
    bend = SpecialConformal(4).double()
    with torch.no_grad():
        bend.b.normal_(generator=seeded())
    away = torch.randn(200, 4, dtype=torch.float64, generator=seeded())
    edge = 0.5 / bend.b.detach().norm() * away / away.norm(dim=1, keepdim=True)
    below, above = bend.encode(edge * (1 - 1e-12)), bend.encode(edge * (1 + 1e-12))
    torch.testing.assert_close(below.value, above.value, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(below.log_abs_det, above.log_abs_det, rtol=1e-10, atol=1e-10)
