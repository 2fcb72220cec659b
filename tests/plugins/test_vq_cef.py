"""VQ-CEF: K conformal embeddings indexed by chart over one shared flow."""

import copy
import math

import pytest
import torch
from torch import nn

from flowzoo.interfaces import BaseFlow, Step
from flowzoo.layers import surface_log_prob
from flowzoo.registry import build
from flowzoo.training import TrainingData, fit, train_pack
from flowzoo_plugins.vq_flows import VQFlow
from known_charts import Centres, centres, grid, points, stretched_grid

F64 = torch.float64
BENEATH = {"name": "realnvp", "layers": 2, "hidden": [8], "normalization": "none"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# mean log-density of the circle with noise 0.02: of the angle, and of the offset
TRUTH = -math.log(2 * math.pi) - 0.5 * math.log(2 * math.pi * 0.02**2) - 0.5


def circle(count, seed=0, noise=0.02):
    """Rows on the unit circle of the plane, with noise."""
    generator = seeded(seed)
    angle = 2 * math.pi * torch.rand(count, 1, generator=generator, dtype=F64)
    x = torch.cat([angle.cos(), angle.sin()], dim=1)
    return x + noise * torch.randn(count, 2, generator=generator, dtype=F64)


def model(features=2, charts=5, seed=0, cef=None, **options):
    """Untrained but placed on 400 rows, away from the identity, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = {"name": "cef", "base_flow": BENEATH, "init": "pca", **(cef or {})}
        made = VQFlow(
            features,
            base_flow=options.pop("base_flow", flow),
            **{"partitioner": Centres(centres(charts, features)), **options},
        ).double()
    rows = (
        points(400) if features == 2 else torch.randn(400, features, generator=seeded(9), dtype=F64)
    )
    for stage in made.stages():
        if stage.prepare is not None:
            stage.prepare(rows, rows, seeded())
    generator = seeded(seed + 1)
    with torch.no_grad():
        for name, parameter in made.flow.base.injection.named_parameters():
            scale = 0.3 if "bend" in name else 0.1
            noise = torch.randn(parameter.shape, generator=generator, dtype=F64)
            parameter.add_(scale * noise)
    return made.eval()


def injection(m):
    return m.flow.base.injection


# -- what it is -----------------------------------------------------------------------------------


def test_each_chart_has_its_own_embedding_over_a_shared_conditional_flow():
    m = model()
    flow = injection(m)
    assert flow.num_charts == 5 and flow.context_features == 2
    assert flow.embedding.bend.b.shape == (5, 2)
    assert flow.embedding.turn.matrix().shape == (5, 2, 2)
    assert m.flow.base.log_thickness.shape == (5,)
    x = points(1).expand(5, 2)
    chart = torch.arange(5)
    out = m.chart_encode(x, chart).value
    for k in range(5):  # by hand: the chart's own numbers and the code as context
        own = copy.deepcopy(flow)
        for part in (own.embedding.shift.offset, own.embedding.bend.b):
            part.data[:] = part.data[k].clone()
        own.embedding.scale.log_scale.data[:] = flow.embedding.scale.log_scale.data[k]
        own.embedding.turn.start[:] = flow.embedding.turn.start[k]
        own.embedding.turn.angles.data[:] = flow.embedding.turn.angles.data[k]
        code = m.partitioner.codes[k : k + 1]
        zw = own.encode_thick(x[k : k + 1], code, torch.tensor([(k + 1) % 5])).value
        zw[:, 1] /= m.flow.base.log_thickness[k].exp()
        torch.testing.assert_close(out[k : k + 1], zw)
    assert not torch.allclose(out[0], out[1])


@pytest.mark.parametrize("prior", ["standard-normal", "uniform-ball"])
@pytest.mark.parametrize("options", [{}, {"overlap": 2}])
def test_full_density_integrates_to_one(options, prior):
    m = model(prior=prior, **options)
    with torch.no_grad():
        m.flow.base.log_thickness.fill_(math.log(0.2))
        x, area = stretched_grid()  # how far an untrained chart reaches depends on its draw
        mass = float((m.log_prob(x).exp() * area).sum())
        truncated = float((m.log_prob(x, evaluation="truncated").exp() * area).sum())
    # the ball's tails are heavy, and its density has an edge
    assert mass == pytest.approx(1.0, abs=1e-3 if prior == "standard-normal" else 0.015)
    assert truncated < mass


def test_evaluations_and_their_measures():
    m = model()
    assert list(m.evaluations) == ["full", "manifold", "truncated", "elbo", "renormalised"]
    measures = {name: str(e.measure) for name, e in m.evaluations.items()}
    assert measures.pop("manifold") == "surface(dim=1, learned)"
    assert set(measures.values()) == {"lebesgue"}
    assert "reconstruct" in m.capabilities and "reconstruct" not in VQFlow.capabilities
    x = points(50)
    elbo, truncated, full = (m.log_prob(x, evaluation=e) for e in ("elbo", "truncated", "full"))
    assert (elbo <= truncated + 1e-9).all() and (truncated <= full + 1e-9).all()
    assert torch.isfinite(m.log_prob(x, evaluation="renormalised")).all()


def test_manifold_is_the_nearest_charts_surface_density():
    m, x = model(), points(60)
    chart = m.assign(x)
    got = m.log_prob(x, evaluation="manifold")
    for i in range(60):
        k = int(chart[i])
        code = m.partitioner.codes[k : k + 1]
        own = surface_log_prob(
            injection(m), m.flow.prior.part(0), x[i : i + 1], code, chart[i : i + 1]
        )
        expected = own + m.weights.probabilities[k].log()
        torch.testing.assert_close(got[i : i + 1], expected)
    m.rows_per_call = 7
    torch.testing.assert_close(m.log_prob(x, evaluation="manifold"), got)
    assert m.log_prob(x[:0], evaluation="manifold").shape == (0,)
    torch.testing.assert_close(m.responsibilities(x, evaluation="manifold").argmax(dim=1), chart)


@pytest.mark.parametrize("options", [{"overlap": 2}, {"margin": 0.1}])
def test_manifold_is_refused_where_charts_overlap(options):
    m = model(**options)
    assert "manifold" not in m.evaluations
    with pytest.raises(ValueError, match=r"'manifold' needs .* one chart a point"):
        m.log_prob(points(3), evaluation="manifold")


def test_manifold_is_refused_for_flows_that_keep_the_dimension():
    plain = VQFlow(2, base_flow=BENEATH, partitioner=Centres(centres()))
    with pytest.raises(ValueError, match="'manifold' needs an injection"):
        plain.log_prob(points(3).float(), evaluation="manifold")
    with pytest.raises(TypeError, match="expected an injection"):
        plain.reconstruct(points(3).float())
    assert "reconstruct" not in plain.capabilities


def test_reconstruction_is_the_nearest_charts_point():
    m, x = model(), points(40)
    chart = m.assign(x)
    expected = injection(m).reconstruct(x, m.partitioner.codes[chart], chart)
    assert torch.equal(m.reconstruct(x), expected)
    m.rows_per_call = 7
    torch.testing.assert_close(m.reconstruct(x), expected)
    other = injection(m).reconstruct(x, m.partitioner.codes[chart], (chart + 1) % 5)
    assert not torch.allclose(other, expected)
    with pytest.raises(ValueError, match="x: expected finite"):
        m.reconstruct(x / 0)


def test_sampling_embedding_and_layers():
    m = model(3)
    x, log_prob = m.sample_and_log_prob(50, generator=seeded(2))
    torch.testing.assert_close(m.log_prob(x), log_prob)
    for mode in ("sample", "mean", "argmax"):
        assert m.embed(x, mode).shape == (50, 2)
    layers = m.transform_layers(x)
    z = layers[-1][:, :2]
    own = injection(m).encode(x, m.partitioner.codes[m.assign(x)], m.assign(x)).value
    torch.testing.assert_close(z, own)
    assert m.sample(20, evaluation="renormalised", generator=seeded(3)).shape == (20, 3)


# -- what is refused ------------------------------------------------------------------------------


class Drops(BaseFlow):
    """Fewer latent columns, and no injection."""

    def __init__(self):
        super().__init__(3, latent_features=2, context_features=3)
        self.offset = nn.Parameter(torch.zeros(2))

    def _encode(self, x, context, chart):
        return Step(x[:, :2] + self.offset, x.new_zeros(len(x)))

    def _decode(self, z, context, chart):
        return Step(torch.cat([z - self.offset, z[:, :1]], dim=1), z.new_zeros(len(z)))


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected 3 latent columns or an Injection"):
        VQFlow(3, base_flow=Drops(), partitioner=Centres(centres(5, 3)))
    with pytest.raises(ValueError, match="frames: expected 'none'"):
        VQFlow(2, base_flow="cef", partitioner=Centres(centres()), frames="pca")
    with pytest.raises(ValueError, match="prior: expected features=1"):
        from flowzoo.priors import StandardNormal

        VQFlow(2, base_flow="cef", partitioner=Centres(centres()), prior=StandardNormal(2))
    joint = {"name": "cef", "mode": "joint"}
    for wrong in ({"objective": "exact"}, {"leak_penalty": 0.1}):
        with pytest.raises(ValueError, match="objective: expected 'hard'"):
            VQFlow(2, base_flow=joint, partitioner=Centres(centres()), **wrong)
    with pytest.raises(ValueError, match="num_charts: set by what contains the part"):
        VQFlow(2, base_flow={"name": "cef", "num_charts": 4}, partitioner=Centres(centres()))
    with pytest.raises(ValueError, match="features: expected >= 2"):
        VQFlow(1, base_flow="cef", partitioner={"name": "kmeans", "num_charts": 2})


def test_a_built_embedding_without_charts_is_shared():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = build("base-flow", "cef", features=2, context_features=2, base_flow=BENEATH)
    m = model(base_flow=flow)
    assert m.flow.base.num_charts is None and m.flow.base.log_thickness.shape == ()
    x, area = grid(12.0, 600)
    with torch.no_grad():
        m.flow.base.log_thickness.fill_(math.log(0.2))
        assert float(m.log_prob(x).exp().sum() * area) == pytest.approx(1.0, abs=1e-3)
        assert torch.isfinite(m.log_prob(x[:5], evaluation="manifold")).all()


# -- training -------------------------------------------------------------------------------------


def untrained(seed=0, cef=None, training=None, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = {
            "name": "cef",
            "base_flow": BENEATH,
            "init": "pca",
            "reconstruction": {"epochs": 4, "lr": 5e-3},
            **(cef or {}),
        }
        return VQFlow(
            2,
            base_flow=flow,
            **{
                "partitioner": {"name": "kmeans", "num_charts": 4},
                "condition": "one-hot",
                "training": {"epochs": 4, "lr": 5e-3, **(training or {})},
                **options,
            },
        ).double()


def error(m, x):
    return (x - m.reconstruct(x)).square().mean().item()


def test_stages_in_order():
    names = [stage.name for stage in untrained().stages()]
    assert names[-5:] == [
        "charts",
        "embedding",
        "reconstruction",
        "thickness",
        "maximum-likelihood",
    ]
    groups = {stage.name: stage.groups for stage in untrained(weights="learned").stages()}
    assert groups["reconstruction"][0].names == ("flow.base.injection.embedding",)
    assert groups["maximum-likelihood"][0].names == (
        "flow.base.injection.flow",
        "flow.prior",
        "weights",
    )
    names = [stage.name for stage in untrained(cef={"mode": "joint"}).stages()]
    assert names[-3:] == ["embedding", "joint", "thickness"]


@pytest.mark.parametrize("overlap", [1, 2])
def test_sequential_training_bends_the_charts_and_then_leaves_them(overlap):
    x, valid = circle(800), circle(200, 1)
    options = {"cef": {"reconstruction": {"epochs": 25, "lr": 2e-2}}, "training": {"epochs": 6}}
    if overlap == 2:
        options = {**options, "overlap": 2, "objective": "exact"}
    m = untrained(**options)
    errors = []
    plain = VQFlow.stages

    class Watched(VQFlow):
        def stages(self):
            *before, ml = plain(self)
            note = {**vars(ml), "prepare": lambda *_: errors.append(error(self, valid))}
            return (*before, ml.__class__(**note))

    m.__class__ = Watched
    assert fit(m, x, valid, seed=0).status == "ok"
    assert error(m, valid) == errors[0]  # B12
    assert errors[0] < 2 * 0.02**2 / 2  # four arcs fit the circle to its noise; planes do not
    sigma = m.flow.base.log_thickness.exp()
    assert ((sigma > 0.014) & (sigma < 0.03)).all()
    assert TRUTH - 0.1 < float(m.log_prob(valid).detach().mean()) < TRUTH + 0.05


def test_thickened_training_improves_everything_together():
    x, valid = circle(800), circle(200, 1)
    m = untrained(cef={"mode": "thickened"}, training={"epochs": 60, "lr": 1e-2})
    assert fit(m, x, valid, seed=0).status == "ok"
    assert TRUTH - 0.1 < float(m.log_prob(valid).detach().mean()) < TRUTH + 0.05
    assert error(m, valid) < 2 * 0.02**2 / 2


@pytest.mark.parametrize(
    "options",
    [
        {"cef": {"mode": "sequential"}},
        {"cef": {"mode": "joint"}},
        {"cef": {"mode": "thickened"}, "overlap": 2, "objective": "exact"},
        {"cef": {"mode": "thickened"}, "overlap": 2, "objective": "sampled", "leak_penalty": 0.1},
    ],
    ids=["sequential", "joint", "exact", "sampled"],
)
def test_packed_training_equals_training_alone(options):
    data = [TrainingData(circle(120, s), circle(40, s + 9)) for s in range(3)]
    # no chart may be near the rows' pole for the comparison, so nothing moves far
    small = {"training": {"epochs": 2, "lr": 1e-3}}
    packed = [untrained(seed, **small, **options) for seed in range(3)]
    alone = [copy.deepcopy(m) for m in packed]
    train_pack(packed, data, [1, 2, 3], packed=True)
    x = circle(20, 40)
    for a, b, pair, seed in zip(packed, alone, data, [1, 2, 3], strict=True):
        fit(b, *pair, seed=seed)
        for evaluation in ("full", "truncated"):
            torch.testing.assert_close(
                a.log_prob(x, evaluation=evaluation),
                b.log_prob(x, evaluation=evaluation),
                rtol=0,
                atol=1e-6,
            )


class Moody(Centres):
    """Assigns rows otherwise while it trains, as batch-norm makes an encoder do."""

    def _distances(self, x):
        distances = super()._distances(x)
        return distances.flip(1) if self.training else distances


@pytest.mark.parametrize("name", ["embedding", "thickness"])
def test_closed_forms_see_the_charts_in_eval_mode(name):
    m = untrained(partitioner=Moody(centres(4)), condition="code").train()
    x = points(300)
    stages = {stage.name: stage for stage in m.stages()}
    stages["embedding"].prepare(x, x, seeded())
    stages[name].prepare(x, x, seeded())
    assert m.training and m.partitioner.training
    chart = m.eval().assign(x)
    assert (chart.bincount(minlength=4) >= 4).all()
    for k in range(4):
        own = x[chart == k]
        torch.testing.assert_close(injection(m).embedding.shift.offset[k], own.mean(dim=0))
        if name == "thickness":  # what PCA leaves
            least = torch.linalg.eigvalsh(torch.cov(own.mT, correction=0))[0]
            torch.testing.assert_close(m.flow.base.log_thickness[k], 0.5 * least.log())


def test_runs_on_meta():
    m = copy.deepcopy(model()).to("meta")
    x = torch.empty(5, 2, device="meta", dtype=F64)
    for evaluation in m.evaluations:
        assert m.log_prob(x, evaluation=evaluation).shape == (5,)
    assert m.reconstruct(x).shape == (5, 2)
