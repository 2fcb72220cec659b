"""Spread flows: what their objectives reward, by closed forms; density, manifold, dimension."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)
from torch.func import jacrev, vmap

from flowzoo.interfaces import BaseFlow, Step
from flowzoo.priors import GeneralisedGaussian
from flowzoo.training import TrainingData, TrainingWarning, fit, train_pack
from flowzoo_plugins.spread_flows.annealing import Annealing
from flowzoo_plugins.spread_flows.collapse import collapse_message
from flowzoo_plugins.spread_flows.entropy import mixture_log_prob, noise_entropy
from flowzoo_plugins.spread_flows.flow import SpreadFlow
from flowzoo_plugins.spread_flows.geometry import local_rank, pushed_lengths
from flowzoo_plugins.spread_flows.presets import NOISE_STD, PRESETS, TRAINING

F64 = torch.float64
NICE = {"name": "nice", "layers": 2, "hidden": [16], "activation": "tanh"}
CURVED = {"name": "nice", "layers": 2, "hidden": [32, 32]}
GIN = {"name": "gin", "layers": 2, "hidden": [8]}
REALNVP = {"name": "realnvp", "layers": 2, "hidden": [8], "normalization": "none"}
CONV = {"name": "conv-gin", "shape": [1, 4, 4], "couplings": [1], "channels": 4, "hidden": [8]}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Diagonal(BaseFlow):
    """z = x exp(log_scale), column by column."""

    def __init__(self, *log_scale: float) -> None:
        super().__init__(len(log_scale))
        self.log_scale = nn.Parameter(torch.tensor(log_scale))

    def _encode(self, x, context, chart):
        return Step(x * self.log_scale.exp(), self.log_scale.sum().expand(len(x)))

    def _decode(self, z, context, chart):
        return Step(z * (-self.log_scale).exp(), self.log_scale.sum().expand(len(z)))


class Shell(BaseFlow):
    """Decodes radii r to 1 + thickness (r - 1): a normal z comes near the unit sphere."""

    def __init__(self, features: int, thickness: float) -> None:
        super().__init__(features)
        self.thickness = thickness

    def _moved(self, rows, factor):
        radius = rows.norm(dim=1, keepdim=True)
        return rows / radius * (1.0 + factor * (radius - 1.0)), radius[:, 0]

    def _encode(self, x, context, chart):
        z, radius = self._moved(x, 1.0 / self.thickness)
        stretched = (z.norm(dim=1) / radius).log()
        return Step(z, (self.features - 1) * stretched - math.log(self.thickness))

    def _decode(self, z, context, chart):
        x = self._moved(z, self.thickness)[0]
        return Step(x, self._encode(x, None, None).log_abs_det)


def model_of(base_flow=NICE, features=2, moved=0.0, **options) -> SpreadFlow:
    given = {"frame": "none", "noise": 0.01, "spread": "latent", **options}
    model = SpreadFlow(features, base_flow=base_flow, **given).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(moved * torch.randn_like(parameter))
    return model


def objective(model):
    return next(stage for stage in model.stages() if stage.loss is not None)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(count, features=2, seed=0):
    return torch.randn(count, features, generator=generator(seed), dtype=F64)


def exact_mean(features):
    """Rows that have the mean and the covariance of standard normal ones."""
    points = math.sqrt(features) * torch.eye(features, dtype=F64)
    return torch.cat([points, -points])


def entropy_of(prior):
    """-E log p under p itself, exactly."""
    points = exact_mean(prior.features) @ torch.linalg.cholesky(prior.covariance()).mT
    return -prior.log_prob(prior.mean + points).mean()


# B20: what leaving out the entropy rewards --------------------------------------------------------


def squeezed_line(s, **options):
    """x = (x_1, 0), x_1 ~ N(0, 1), taken to (e^-s x_1, 0) in a plane, A as fits best."""
    model = model_of(Diagonal(-float(s), float(s)), **options)
    with torch.no_grad():
        model.prior.weight.copy_(torch.diag(torch.tensor([math.exp(-s), 0.0])))
    return model


def expected_loss(model):
    """By rows of (x_1, epsilon) of exact second moments: the loss is quadratic in them."""
    points = exact_mean(3)
    x = torch.cat([points[:, :1], torch.zeros(6, 1, dtype=F64)], dim=1)
    return objective(model).loss(x, points[:, 1:], 1.0).mean()


def test_without_the_entropy_squeezing_pays_and_the_divergence_does_not_see_it():
    """Data on a line in the plane, sigma 0.01: -1.767 ... -5.637, at a spread KL of 0."""
    found = []
    for s in range(5):
        model = squeezed_line(s, entropy="drop")
        loss = expected_loss(model)
        found.append(loss.item())
        codes = torch.diag(torch.tensor([math.exp(-2 * s) + 1e-4, 1e-4], dtype=F64))
        true = MultivariateNormal(torch.zeros(2, dtype=F64), codes)
        model_law = MultivariateNormal(torch.zeros(2, dtype=F64), model.prior.covariance())
        assert float(kl_divergence(true, model_law).detach()) == pytest.approx(0.0, abs=1e-6)
        assert (loss - true.entropy()).item() == pytest.approx(0.0, abs=1e-6)
        for _ in range(5):  # A is the best for this s
            moved = copy.deepcopy(model)
            with torch.no_grad():
                moved.prior.weight.add_(0.1 * math.exp(-s) * torch.randn(2, 2))
            assert expected_loss(moved) > loss
    assert found == pytest.approx([-1.767, -2.767, -3.765, -4.748, -5.637], abs=6e-4)


def slope_of_squeezing(model, x, noise):
    """d loss / d s."""
    objective(model).loss(x, noise, 1.0).mean().backward()
    down, up = model.base_flow.log_scale.grad
    return float(up - down)


def line_rows(count):
    """x_1 at the quantiles of N(0, 1), and noise of unit variance that x_1 knows nothing of."""
    levels = (torch.arange(count, dtype=F64) + 0.5) / count
    x = torch.stack([torch.special.ndtri(levels), torch.zeros(count, dtype=F64)], dim=1)
    signs = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype=F64)
    return x, signs.repeat(count // 4, 1)


def test_the_estimated_entropy_takes_the_reward_away_where_rows_are_near():
    x, noise = line_rows(1200)  # 0.002 apart in the middle, sigma 0.05
    means = []
    for s in (0.0, 1.0, 2.0):
        model = squeezed_line(s, entropy="kde", noise=0.05)
        means.append(objective(model).loss(x, noise, 1.0).mean().item())
        signal, noise_part = math.exp(-2 * s), 0.05**2
        expected = signal * noise_part / (signal + noise_part) ** 2  # of N(0, signal + noise)
        assert slope_of_squeezing(model, x, noise) == pytest.approx(expected, abs=0.02)
        plain = squeezed_line(s, entropy="drop", noise=0.05)
        assert slope_of_squeezing(plain, x, noise) < -0.85
    # eq. 39 takes log q at the codes and not around them, which leaves half a nat an axis of noise
    assert means == pytest.approx([0.5, 0.5, 0.5 + 0.5 * 0.12], abs=0.03)


def test_the_estimated_entropy_is_blind_where_rows_are_far():
    x, noise = line_rows(20)  # 0.125 apart at least, sigma 0.01
    slopes = {
        entropy: slope_of_squeezing(squeezed_line(0.0, entropy=entropy), x, noise)
        for entropy in ("kde", "drop")
    }
    assert slopes["drop"] < -0.9
    assert slopes["kde"] == pytest.approx(slopes["drop"], abs=1e-9)
    alone = mixture_log_prob(x, torch.tensor(0.01, dtype=F64))  # one of 20, at its own centre
    expected = -math.log(20) - math.log(2 * math.pi * 1e-4)
    torch.testing.assert_close(alone, torch.full_like(alone, expected), rtol=0, atol=1e-9)


def test_noise_on_the_data_takes_the_reward_away():
    """Whatever a map presses along the line or across, the least is H(x + sigma epsilon)."""
    points = exact_mean(3)
    x = torch.cat([points[:, :1], torch.zeros(6, 1, dtype=F64)], dim=1)
    spread = torch.tensor([1.0 + 1e-4, 1e-4], dtype=F64)  # variances of x + sigma epsilon
    entropy = 0.5 * (2.0 * math.pi * math.e * spread).log().sum()
    for scales in ((0.0, 0.0), (-1.0, 1.0), (-2.0, 2.0), (1.0, 1.0), (-1.0, 3.0)):
        model = model_of(Diagonal(*scales), spread="data")
        codes = spread * torch.tensor(scales, dtype=F64).mul(2.0).exp()
        with torch.no_grad():  # as fits best
            model.prior.weight.copy_(torch.diag((codes - 1e-4).sqrt()))
        loss = objective(model).loss(x, points[:, 1:], 1.0).mean()
        assert loss.item() == pytest.approx(entropy.item(), abs=1e-4)
        with torch.no_grad():
            model.prior.weight.mul_(0.8)
        assert objective(model).loss(x, points[:, 1:], 1.0).mean() > loss


def test_a_little_more_noise_on_the_data_does_the_same_for_noisy_codes():
    losses = []
    for s in range(3):
        model = squeezed_line(s, entropy="drop", data_noise=0.1)
        with torch.no_grad():
            stds = torch.tensor([math.exp(-s) * math.sqrt(1.01), math.exp(s) * 0.1])
            model.prior.weight.copy_(torch.diag(stds))
        points = exact_mean(5)
        x = torch.cat([points[:, :1], torch.zeros(10, 1, dtype=F64)], dim=1)
        losses.append(objective(model).loss(x, points[:, 1:], 1.0).mean().item())
    assert losses == pytest.approx([losses[0]] * 3, abs=0.01)


def test_entropy_of_a_mixture_at_its_centres():
    z, std = rows(30, 3), torch.tensor(0.4, dtype=F64)
    reference = MixtureSameFamily(
        Categorical(logits=torch.zeros(30, dtype=F64)), Independent(Normal(z, std), 1)
    )
    torch.testing.assert_close(mixture_log_prob(z, std), reference.log_prob(z))
    far = (1e3 + z).float()  # differences of large numbers
    exact = mixture_log_prob(far.double(), std)
    torch.testing.assert_close(
        mixture_log_prob(far, std.float()).double(), exact, rtol=1e-5, atol=0
    )
    assert mixture_log_prob(z[:0], std).shape == (0,)
    torch.testing.assert_close(
        noise_entropy(3, std), Independent(Normal(torch.zeros(3, dtype=F64), std), 1).entropy()
    )


# B21, B23, B24 ------------------------------------------------------------------------------------


def test_a_flow_that_changes_volume_keeps_its_log_det():
    model = model_of(REALNVP, 3, moved=0.3, entropy="drop")
    x, noise = rows(7, 3), rows(7, 3, seed=1)
    j = vmap(jacrev(lambda row: model.codes(row[None])[0]))(x)
    volume = torch.linalg.slogdet(j).logabsdet
    assert bool((volume.abs() > 1e-3).all())
    cross = -model.prior.log_prob(model.codes(x) + 0.01 * noise)
    stage = objective(model)
    torch.testing.assert_close(stage.loss(x, noise, 1.0), cross - volume, rtol=1e-6, atol=1e-6)
    watched = stage.monitor(x, noise)
    torch.testing.assert_close(watched["surrogate"], cross - volume, rtol=1e-6, atol=1e-6)
    drawn = -Normal(0.0, 0.01).log_prob(0.01 * noise).sum(dim=1)
    torch.testing.assert_close(watched["floor"], drawn - volume, rtol=1e-6, atol=1e-6)


def test_with_its_log_det_a_scale_is_not_rewarded():
    """x ~ N(0, 1) in R, A = e^a: 0.5 log 2 pi e (e^2a + sigma^2) - a, flat down to the noise."""
    points = exact_mean(2)
    losses = []
    for a in (0.0, -1.0, -2.0):
        model = model_of(Diagonal(a), 1, entropy="drop")
        with torch.no_grad():
            model.prior.weight.fill_(math.exp(a))
        losses.append(objective(model).loss(points[:, :1], points[:, 1:], 1.0).mean().item())
        expected = 0.5 * math.log(2 * math.pi * math.e * (math.exp(2 * a) + 1e-4)) - a
        assert losses[-1] == pytest.approx(expected, abs=1e-6)
    assert max(losses) - min(losses) < 3e-3


@pytest.mark.parametrize(("base_flow", "features"), [(GIN, 3), (NICE, 3), (CONV, 16)])
def test_flows_that_keep_volume_have_no_log_det(base_flow, features):
    model = model_of(base_flow, features, moved=0.3)
    x = rows(5, features)
    assert not model.base_flow.encode(x).log_abs_det.any()
    assert not torch.allclose(model.codes(x), x)


def gaussian(loading, noise):
    prior = GeneralisedGaussian(len(loading), noise_std=noise).double()
    with torch.no_grad():
        prior.weight.copy_(torch.tensor(loading, dtype=F64))
    return prior


def test_entropy_of_noisy_codes_depends_on_the_flow():
    """The paper's B.1; it fades with the noise for data with a density, not for data on a line."""
    wide = [[[math.sqrt(v), 0.0], [0.0, 1 / math.sqrt(v)]] for v in (2.0, 3.0)]
    with torch.no_grad():
        first, second = (entropy_of(gaussian(loading, 1.0)) for loading in wide)
    assert first.item() == pytest.approx(math.log(2 * math.pi * math.e) + 0.5 * math.log(4.5))
    assert second.item() == pytest.approx(math.log(2 * math.pi * math.e) + 0.5 * math.log(16 / 3))
    line = [[[v, 0.0], [0.0, 0.0]] for v in (1.0, math.exp(-1.0))]
    with torch.no_grad():
        first, second = (entropy_of(gaussian(loading, 1e-3)) for loading in wide)
        assert abs(float(first - second)) < 1e-5
        first, second = (entropy_of(gaussian(loading, 1e-3)) for loading in line)
        assert (first - second).item() == pytest.approx(1.0, abs=1e-5)


def test_independent_noise_raises_entropy():
    """I(Z + K; K) falls to 0 with sigma; on a line I(Z + K; Z), the gap of the bound, grows."""
    levels = (1.0, 0.3, 0.1, 0.01)
    full, line = [[1.5, 0.0], [0.7, 0.4]], [[1.5, 0.0], [0.7, 0.0]]
    variances = torch.linalg.svdvals(torch.tensor(full, dtype=F64)).square()
    clean = 0.5 * (2 * math.pi * math.e * variances).log().sum()
    gained, told = [], []
    with torch.no_grad():
        for level in levels:
            gained.append(float(entropy_of(gaussian(full, level)) - clean))
            expected = 0.5 * (level**2 / variances).log1p().sum()
            assert gained[-1] == pytest.approx(float(expected), abs=1e-6)
            std = torch.tensor(level, dtype=F64)
            told.append(float(entropy_of(gaussian(line, level)) - noise_entropy(2, std)))
            square = 1.5**2 + 0.7**2
            assert told[-1] == pytest.approx(0.5 * math.log1p(square / level**2), abs=1e-5)
    assert gained == sorted(gained, reverse=True) and gained[-1] < 1e-3
    assert told == sorted(told) and told[-1] > 4.0


# C2: the public code ------------------------------------------------------------------------------


def test_a_constant_offset_passes_the_floor():
    """D = 1024, sigma 0.01: H(K) = -3262.70, and -3774.70 where the flow takes the offset back."""
    std = torch.tensor(NOISE_STD, dtype=F64)
    floor = noise_entropy(1024, std)
    assert floor.item() == pytest.approx(-3262.70, abs=5e-3)
    signs = torch.ones(4, 1024, dtype=F64)  # noise of unit variance, mean 0
    signs[1::2] = -1.0
    found = {}
    for spread in ("latent", "offset"):
        model = model_of(Diagonal(*[0.0] * 1024), 1024, spread=spread, entropy="drop", rank=1)
        with torch.no_grad():
            model.prior.weight.zero_()
        loss = objective(model).loss
        at = {place: loss(place * torch.ones_like(signs), signs, 1.0) for place in (0.0, -0.01)}
        found[spread] = {place: float(value.mean().detach()) for place, value in at.items()}
    assert found["offset"][-0.01] == pytest.approx(-3774.70, abs=5e-3)
    assert found["offset"][0.0] == pytest.approx(float(floor), abs=1e-3)
    # with noise the collapsed codes are best at 0, and there is the floor
    assert found["latent"][0.0] == pytest.approx(float(floor), abs=1e-3)
    assert found["latent"][-0.01] == pytest.approx(float(floor) + 512.0, abs=1e-3)
    said = collapse_message({"surrogate": -3753.7, "floor": float(floor)})
    assert said is not None and "has passed its floor -3262.70" in said


def test_the_entropy_of_noise_on_the_data_is_none_of_the_flow():
    """As estimated at the data, whatever f is; a bound of the loss that no f is below."""
    x, noise = rows(400), rows(400, seed=3)
    found = []
    for base_flow in (Diagonal(-1.0, 1.0), NICE):
        model = model_of(base_flow, spread="data", noise=0.5, moved=0.3)
        found.append(objective(model).monitor(x, noise))
    entropy = found[0]["entropy"].mean().item()
    assert entropy == found[1]["entropy"].mean().item()
    assert entropy == pytest.approx(math.log(2.0 * math.pi * math.e * 1.25), abs=0.2)
    assert all(entropy < one["surrogate"].mean().item() for one in found)


@pytest.mark.parametrize("spread", ["latent", "data"])
def test_the_monitored_entropy_is_not_below_the_floor(spread):
    """Of codes on a line of deviation e^-s: log(1 + e^-2s / sigma^2) / 2 above it, to log N."""
    x, noise = line_rows(1200)
    for s in (0.0, 2.0, 4.0):
        model = model_of(Diagonal(0.0, 0.0), 2, spread=spread, entropy="drop", noise=0.05)
        watched = objective(model).monitor(math.exp(-s) * x, noise)
        above = (watched["entropy"] - watched["floor"]).mean().item()
        expected = 0.5 * math.log1p(math.exp(-2 * s) / 0.05**2)
        assert above == pytest.approx(expected, abs=0.03)
    apart = objective(model).monitor(1e3 * x, noise)
    above = (apart["entropy"] - apart["floor"]).mean().item()
    assert above == pytest.approx(math.log(1200), abs=0.02)


def test_training_tells_when_the_loss_passes_the_floor():
    x = rows(600, 1) @ torch.tensor([[0.3, 0.15, 0.06, 0.03]], dtype=F64)
    options = {"steps": 120, "batch_size": 100, "lr": 3e-2}
    found = {}
    for spread in ("offset", "latent"):
        model = model_of(
            NICE, 4, spread=spread, entropy="drop", start="identity", noise=0.1, training=options
        )
        # with noise the loss comes down to the floor, which is a collapse too
        ending = {"offset": "passed its floor", "latent": "(passed|reached) its floor"}[spread]
        with pytest.warns(TrainingWarning, match=f"collapse: .* has {ending}"):
            result = fit(model, x[:400], x[400:], seed=0)
        stage = next(stage for stage in result.stages if stage.curve)
        assert any("passed" in said for said in stage.warnings) == (spread == "offset")
        found[spread] = stage.curve[-1].monitored
        assert found[spread].keys() == {"surrogate", "entropy", "floor"}
    floor = noise_entropy(4, torch.tensor(0.1)).item()
    assert found["offset"]["floor"] == pytest.approx(floor, abs=1e-5)  # no noise, no chance
    assert found["latent"]["floor"] == pytest.approx(floor, abs=4 * math.sqrt(2.0 / 200))
    assert found["offset"]["surrogate"] < floor - 0.5 < floor < found["latent"]["surrogate"]


def test_collapse_message():
    means = {"surrogate": -4.0, "floor": -5.0}
    assert collapse_message(means) is None
    assert "reached" in collapse_message({**means, "surrogate": -4.9})
    assert "reached" in collapse_message({**means, "surrogate": -5.1})  # chance
    assert "passed" in collapse_message({**means, "surrogate": -5.5})
    assert collapse_message({**means, "floor": -6.0}) is None
    for unknown in (math.nan, math.inf, -math.inf):
        assert collapse_message({**means, "surrogate": unknown}) is None
        assert collapse_message({**means, "floor": unknown}) is None


@pytest.mark.parametrize(
    "options",
    [{"entropy": "drop"}, {"spread": "data"}, {"spread": "data", "data_noise": 0.05}],
)
def test_the_floor_has_the_chance_of_the_loss(options):
    """Codes at one point: the loss is that of the noise drawn, D = 1024 columns of it."""
    model = model_of(Diagonal(*[0.0] * 1024), 1024, **options)
    more = options.get("data_noise", 0.0)  # which A has to hold
    noise = rows(20, 1024)
    with torch.no_grad():
        model.prior.weight.mul_(more)
        watched = objective(model).monitor(torch.zeros(20, 1024, dtype=F64), noise)
    torch.testing.assert_close(watched["surrogate"], watched["floor"], rtol=1e-6, atol=0)
    expected = noise_entropy(1024, torch.tensor(math.hypot(0.01, more), dtype=F64))
    # all rows at one place: the estimate is exact
    torch.testing.assert_close(watched["entropy"], watched["floor"], rtol=1e-7, atol=0)
    assert 10.0 < float((watched["floor"] - expected).abs().max()) < 150.0
    means = {name: float(value.mean()) for name, value in watched.items()}
    assert "reached its floor" in collapse_message(means)


def test_the_public_code_has_1168572_parameters():
    with torch.device("meta"):
        model = SpreadFlow(1024, base_flow=PRESETS["fading-square-code"], start="identity")
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    assert sum(trained) == 1_168_572
    assert model.prior.weight.shape == (1024, 1024)


# training -----------------------------------------------------------------------------------------


def test_weight_decay_and_learning_rate_of_the_prior():
    """One AdamW step: p (1 - lr decay) less a step of lr, whatever the gradient's size."""
    x = rows(64)
    found = {}
    for on_prior, prior_lr in ((False, None), (True, None), (True, 0.05)):
        torch.manual_seed(0)
        training = {"steps": 1, "lr": 0.01, "weight_decay": 2.0, "decoupled_decay": True}
        model = model_of(
            start="identity", decay_on_prior=on_prior, prior_lr=prior_lr, training=training
        )
        groups = objective(model).groups
        lr = prior_lr or 0.01
        assert [(g.lr, g.weight_decay) for g in groups] == [(0.01, 2.0), (lr, 2.0 * on_prior)]
        fit(model, x, x, seed=0)
        found[on_prior, prior_lr] = {n: p.detach() for n, p in model.named_parameters()}
    plain, decayed, faster = found.values()
    torch.testing.assert_close(
        plain["prior.weight"] - decayed["prior.weight"], 0.02 * torch.eye(2, dtype=F64)
    )
    step = torch.eye(2, dtype=F64) - plain["prior.weight"]
    torch.testing.assert_close(
        step.abs().tril(), 0.01 * torch.ones(2, 2).tril().double(), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(faster["prior.weight"], torch.eye(2, dtype=F64) * 0.9 - 5 * step)
    for name in plain:
        if name.startswith("base_flow"):
            torch.testing.assert_close(plain[name], faster[name], rtol=0, atol=0)


@pytest.mark.parametrize("rank", [None, 2])
def test_principal_start_takes_the_second_moments_of_the_codes(rank):
    x = rows(500, 4) * torch.tensor([2.0, 1.0, 0.3, 0.0]) + 0.5
    found = {}
    for start in ("principal", "identity"):
        still = {"rank": rank, "prior_lr": 1e-12, "training": {"steps": 1, "lr": 0.0}}
        model = model_of(NICE, 4, start=start, **still)
        fit(model, x, x, seed=0)
        found[start] = model.prior.eigenvalues().detach(), model.codes(x).detach()
    columns = rank or 4
    assert found["identity"][0].tolist() == pytest.approx([1.0] * columns + [0.0] * (4 - columns))
    values, codes = found["principal"]
    expected = torch.linalg.eigvalsh(codes.mT.cov(correction=0)).flip(0)[:columns]
    torch.testing.assert_close(values[:columns], expected, atol=5e-4, rtol=0)


def started(model, x):
    """The model after what comes before its training."""
    for stage in model.stages():
        if stage.loss is not None:
            return model
        stage.prepare(x, x, generator())


@pytest.mark.parametrize("spread", ["latent", "data"])
def test_the_start_is_that_of_rows_under_their_noise(spread):
    """Moments of codes under the first noise of all, about their mean, less the prior's own."""
    first, last = 0.5, 0.1
    scale = torch.tensor([2.0, 0.5], dtype=F64)
    options = {"data_noise": {"start": first, "end": last}, "spread": spread, "noise": last}
    model = started(model_of(Diagonal(*scale.log().tolist()), **options), rows(20_000) + 7.0)
    spread_on_data = scale.square() * (1.0 + first**2)
    if spread == "data":  # both add up; the noise on the codes is none of the data's
        spread_on_data = spread_on_data + scale.square() * last**2 - last**2
    torch.testing.assert_close(
        model.prior.eigenvalues().detach(), spread_on_data, rtol=0.03, atol=0
    )
    torch.testing.assert_close(model.prior.mean.detach(), 7.0 * scale, rtol=0.01, atol=0)


@pytest.mark.parametrize("spread", ["latent", "data"])
def test_an_offset_of_the_data_is_no_dimension(spread):
    """A line far from the origin, no frame: the mean is learned."""
    x = rows(400, 1) @ torch.tensor([[1.0, 0.0]], dtype=F64) + torch.tensor([0.0, 50.0])
    training = {"steps": 20, "batch_size": 100, "lr": 1e-3}
    model = model_of(NICE, spread=spread, entropy="drop", noise=0.05, training=training)
    before = model.prior.mean.detach().clone()
    fit(model, x, x, seed=0)
    assert model.prior.mean.requires_grad and not torch.equal(model.prior.mean, before)
    torch.testing.assert_close(model.prior.mean, model.codes(x).mean(dim=0), atol=0.2, rtol=0)
    assert int(model.intrinsic_dimension()) == 1
    assert not model_of(NICE, start="identity").prior.mean.requires_grad


def test_rows_in_order_start_as_rows_shuffled(monkeypatch):
    """A line and then a plane: the first rows alone are all line."""
    from flowzoo_plugins.spread_flows import flow

    monkeypatch.setattr(flow, "_ROWS", 300)
    x, piece = line_and_plane(500)
    for spread in ("latent", "data"):
        model = started(model_of(NICE, 3, noise=0.05, components=2, spread=spread), x)
        found = (model.prior.eigenvalues() > 0.1).sum(dim=1)
        assert sorted(found.tolist()) == [1, 2]
        assert (found[model.assign(x)] == piece + 1).double().mean() > 0.95
    assert {float(row[0]) > 3.0 for row in model.centres} == {True, False}


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("spread", ["latent", "data"])
def test_the_start_counts_the_noise_once(spread, components):
    """A A' is the covariance of the rows without noise, wherever the noise goes."""
    deviations = torch.tensor([0.3, 0.2, 0.1], dtype=F64)
    x = rows(20_000, 3) * deviations
    x[::2] += 5.0 * (components - 1)
    options = {"spread": spread, "noise": 0.2, "components": components}
    model = started(model_of(Diagonal(0.0, 0.0, 0.0), 3, **options), x)
    values = model.prior.eigenvalues().detach().reshape(components, 3)
    expected = deviations.square().expand(components, 3)
    torch.testing.assert_close(values, expected, rtol=0.05, atol=1e-3)


def test_training_under_noise_is_validated_under_it():
    """A segment, held-out rows among the others: one objective, one value, half a nat less without.

    It decides which state is kept, and early ones fit rows without noise better.
    """
    x = torch.stack([torch.linspace(-1.0, 1.0, 600), torch.zeros(600)], dim=1).double()
    x = x[torch.randperm(600, generator=generator())]
    training = {"epochs": 25, "batch_size": 100, "lr": 3e-2, "patience": 4}
    options = {"start": "identity", "noise": 0.02, "data_noise": 0.05, "training": training}
    model = model_of(CURVED, entropy="drop", **options)
    result = fit(model, x[:500], x[500:], seed=0)
    stage = next(stage for stage in result.stages if stage.curve)
    assert stage.best_epoch > 11
    assert stage.best_valid == pytest.approx(stage.curve[-1].train, abs=0.15)
    assert stage.curve[-1].monitored["surrogate"] == pytest.approx(stage.curve[-1].valid, abs=1e-6)
    assert int(model.intrinsic_dimension()) == 1


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_models_train_as_the_paper_does(name):
    """The model's own schedule, a cosine, is not merged in."""
    features = {"toy": 2, "s-curve": 3, "mnist": 784}.get(name, 1024)
    with torch.device("meta"):
        model = SpreadFlow(features, base_flow=PRESETS[name], training=TRAINING[name])
    stage, given = objective(model), TRAINING[name]
    assert (stage.steps, stage.batch_size) == (given["steps"], given["batch_size"])
    assert stage.schedule == ("constant" if name in {"toy", "fading-square-code"} else "step")
    assert stage.decay_every == given.get("decay_every")
    assert stage.patience in (None, 0)


def test_annealing():
    falling = Annealing.of({"start": 0.16, "end": 0.01, "hold": 0.2, "until": 0.8})
    levels = [falling.at(share) for share in (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)]
    assert levels == pytest.approx([0.16, 0.16, 0.08, 0.04, 0.02, 0.01, 0.01])
    assert Annealing.of(0.3).at(0.5) == 0.3 and Annealing.of({"start": 0.2}).at(1.0) == 0.2
    assert Annealing.of(0.0).at(0.5) == 0.0 and Annealing.of(falling) is falling
    for wrong, said in (
        (-1.0, "noise: expected"),
        ({"end": 0.1}, "noise: .*start"),
        ({"start": 0.1, "stop": 0.2}, "stop"),
        ({"start": 0.1, "end": 0.0}, "both zero or none"),
        ({"start": 0.1, "hold": 0.9, "until": 0.5}, "hold <= until"),
    ):
        with pytest.raises(ValueError, match=said):
            Annealing.of(wrong)


@pytest.mark.parametrize(("spread", "components"), [("latent", 1), ("latent", 2), ("data", 1)])
def test_the_loss_follows_both_noises(spread, components):
    falling = {"start": 0.4, "end": 0.1}
    model = model_of(
        GIN,
        3,
        moved=0.2,
        noise=falling,
        data_noise={"start": 0.2, "end": 0.05},
        components=components,
        spread=spread,
    )
    stage = objective(model)
    assert stage.noise_features == (3 if spread == "data" else 6)
    x, noise = rows(9, 3), rows(9, stage.noise_features, seed=1)
    for progress, std, around in ((0.0, 0.4, 0.2), (0.5, 0.2, 0.1), (1.0, 0.1, 0.05)):
        at, level = copy.deepcopy(model), torch.tensor(std, dtype=F64)
        for prior in at.atlas().parts:
            prior.noise_std.fill_(std)
        if spread == "data":  # plain maximum likelihood, both noises in one draw
            expected = -at.log_prob(x + math.hypot(std, around) * noise)
        else:
            z = at.codes(x + around * noise[:, 3:])
            expected = mixture_log_prob(z, level) - at.prior.log_prob(z + std * noise[:, :3])
        found = stage.loss(x, noise, progress)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # what is validated has both last noises, and does not depend on the batch
    if spread == "data":
        cross = -model.log_prob(x + math.hypot(0.1, 0.05) * noise)
    else:
        codes = model.codes(x + 0.05 * noise[:, 3:])
        cross = -model.prior.log_prob(codes + 0.1 * noise[:, :3])
    whole = stage.validate(x, noise)
    torch.testing.assert_close(whole[:4], stage.validate(x[:4], noise[:4]))
    torch.testing.assert_close(whole - whole[0], cross - cross[0], rtol=1e-5, atol=1e-5)


def test_packed_training_equals_training_alone():
    options = {
        "frame": "rotation",
        "noise": {"start": 0.3, "end": 0.05, "until": 0.8},
        "data_noise": 0.02,
        "entropy": "kde",
        "training": {"steps": 20, "lr": 1e-2, "batch_size": 100},
    }
    data = [TrainingData(sine(300, seed), sine(60, 9)) for seed in range(2)]
    packed = []
    for seed in range(2):
        torch.manual_seed(seed)
        packed.append(model_of(**options))
    alone = copy.deepcopy(packed)
    train_pack(packed, data, [1, 2], packed=True)
    for one, seed, own in zip(alone, (1, 2), data, strict=True):
        train_pack([one], [own], [seed])
    x = rows(20)
    for one, other in zip(packed, alone, strict=True):
        scores = [flow.eval().log_prob(x).detach() for flow in (one, other)]
        torch.testing.assert_close(*scores, atol=1e-7, rtol=1e-9)
        assert torch.equal(one.kept, other.kept)


# a curve in the plane -----------------------------------------------------------------------------


def sine(count, seed=0):
    """Section 2's: x_1 ~ N(0, 1), x_2 = sin 2 x_1."""
    x = rows(count, 1, seed)
    return torch.cat([x, torch.sin(2.0 * x)], dim=1)


def trained(**objective):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"steps": 250, "batch_size": 200, "lr": 1e-2, "schedule": "cosine"}
        model = model_of(CURVED, noise=0.05, training=options, **objective)
        fit(model, sine(2000), sine(200, 1), seed=0)
    return model.eval()


@pytest.fixture(scope="module")
def curve():
    return trained(spread="data")


def test_a_curve_has_dimension_one(curve):
    found = curve.spectrum_rank()
    assert int(curve.intrinsic_dimension()) == int(curve.kept) == 1
    assert float(found.margin) > 0.3
    assert (curve.local_dimension(sine(300, 5)) == 1).double().mean() > 0.95


def test_training_without_the_entropy_squeezes_the_curve():
    """The same net, rows and steps on noisy codes, with the entropy of the batch and without."""
    kept, dropped = (trained(entropy=entropy).spectrum() for entropy in ("kde", "drop"))
    assert float(dropped[0]) < 0.4 * float(kept[0])


@pytest.fixture(scope="module")
def grid():
    across, up = torch.linspace(-6.0, 6.0, 601).double(), torch.linspace(-4.0, 4.0, 401).double()
    return torch.cartesian_prod(across, up), 0.02 * 0.02


def test_density_integrates_to_one_and_draws_follow_it(curve, grid):
    points, area = grid
    with torch.no_grad():
        log_density = torch.cat([curve.log_prob(part) for part in points.split(60_000)])
    share = log_density.exp() * area
    assert float(share.sum()) == pytest.approx(1.0, abs=2e-3)
    draws = curve.sample(20_000, generator=generator())
    scores = curve.log_prob(draws).detach()
    error = float(scores.std()) / math.sqrt(len(draws))
    assert float(scores.mean()) == pytest.approx(
        float((share * log_density).sum()), abs=5 * error + 5e-3
    )
    cells = (points / 0.5).round()
    for cell in torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [-1.0, -2.0]], dtype=F64):
        expected = float(share[(cells == cell).all(dim=1)].sum())
        found = float(((draws / 0.5).round() == cell).all(dim=1).double().mean())
        assert found == pytest.approx(expected, abs=5 * math.sqrt(expected / len(draws)) + 2e-3)
    both = curve.sample_and_log_prob(5, generator=generator())
    torch.testing.assert_close(both[1], curve.log_prob(both[0]))


def test_manifold_density_integrates_to_one_along_the_curve(curve):
    part = curve.atlas().parts[0]
    reach = 8.0 * float(part.eigenvalues()[0].detach().sqrt())
    coordinates = torch.linspace(-reach, reach, 4001, dtype=F64)[:, None]
    with torch.no_grad():
        x = curve._decode_rows(part.place(coordinates))
        density = curve.log_prob(x, evaluation="manifold").exp()
    arcs = (x[1:] - x[:-1]).norm(dim=1)
    mass = (0.5 * (density[1:] + density[:-1]) * arcs).sum()
    assert mass.item() == pytest.approx(1.0, abs=1e-3)
    torch.testing.assert_close(curve.embed(x), coordinates, atol=1e-8, rtol=1e-8)


def test_reconstructions_and_draws_without_noise_lie_on_the_curve(curve):
    x = curve.reconstruct(rows(50))
    torch.testing.assert_close(curve.reconstruct(x), x)
    bare = curve.sample(50, noise_scale=0.0, generator=generator())
    torch.testing.assert_close(curve.reconstruct(bare), bare)
    noisy = curve.sample(50, generator=generator())
    assert bool(((curve.reconstruct(noisy) - noisy).norm(dim=1) > 1e-4).any())
    away = (curve.reconstruct(sine(200, 7)) - sine(200, 7)).norm(dim=1).detach()
    assert float(away.median()) < 0.05


def test_a_manifold_of_another_dimension_can_be_asked_for(curve):
    x = rows(40)
    torch.testing.assert_close(curve.reconstruct(x, dimension=2), x)
    assert torch.equal(curve.reconstruct(x, dimension=1), curve.reconstruct(x))
    codes = [curve.codes(y) for y in (x, curve.reconstruct(x, dimension=0))]
    torch.testing.assert_close(codes[1], curve.prior.mean.expand_as(x))
    assert [curve.embed(x, k).shape[1] for k in (0, 1, 2)] == [0, 1, 2]
    about = codes[0] - curve.prior.mean
    torch.testing.assert_close(curve.embed(x, 2).norm(dim=1), about.norm(dim=1))
    bare = curve.sample(4000, noise_scale=0.0, dimension=2, generator=generator())
    prior = curve.atlas().parts[0]
    spread = curve.codes(bare) - prior.mean
    expected = (prior.covariance().detach() - prior.noise_std**2 * torch.eye(2)).double()
    found = (spread.mT @ spread / 4000).detach()
    assert float((found - expected).norm() / expected.norm()) < 0.1
    with pytest.raises(ValueError, match="dimension: expected 0 to 2, got 3"):
        curve.reconstruct(x, dimension=3)


def test_the_dimension_is_saved_with_the_model(curve):
    fresh = model_of(CURVED, noise=0.05)
    assert set(fresh.evaluations) == {"exact", "manifold"} and int(fresh.kept) == 2
    fresh.load_state_dict(curve.state_dict())
    assert int(fresh.kept) == 1
    x = rows(9)
    assert fresh.evaluations["manifold"].measure == curve.evaluations["manifold"].measure
    for name in ("exact", "manifold"):
        assert torch.equal(fresh.log_prob(x, evaluation=name), curve.log_prob(x, evaluation=name))
    assert torch.equal(fresh.reconstruct(x), curve.reconstruct(x))


# local dimension ----------------------------------------------------------------------------------


def test_pushed_lengths_are_the_singular_values_of_the_jacobian():
    model = model_of(GIN, 3, moved=0.4)
    z, directions = rows(6, 3), rows(3, 2, seed=4)
    j = vmap(jacrev(lambda row: model._decode_rows(row[None])[0]))(z)
    expected = torch.linalg.svdvals(j @ directions)
    torch.testing.assert_close(pushed_lengths(model._decode_rows, z, directions), expected)


@pytest.mark.parametrize("data_noise", [0.0, 0.05])
def test_a_sphere_has_the_dimension_of_its_surface(data_noise):
    """Its codes fill the space, so the spectrum says D; the density is thin along the radius."""
    model = model_of(Shell(4, 1e-3), 4, data_noise=data_noise)
    x = model.sample(40, generator=generator())
    torch.testing.assert_close(x.norm(dim=1), torch.ones(40, dtype=F64), atol=1e-2, rtol=0)
    torch.testing.assert_close(model._decode_rows(model.codes(x)), x)
    assert int(model.intrinsic_dimension()) == 4
    assert model.local_dimension(x).tolist() == [3] * 40


def test_local_dimension_does_not_see_what_a_takes_back():
    """f followed by a linear map of determinant 1, A by the same: the density stays as it is."""
    x = rows(30) * torch.tensor([1.0, 0.0])
    for s, rank in ((0.0, 1), (3.0, 1), (6.0, 0)):
        model = squeezed_line(s)
        assert int(model.intrinsic_dimension()) == rank  # the eigenvalue e^-2s against 1e-4
        assert model.local_dimension(x).tolist() == [1] * 30
    assert local_rank(torch.zeros(0, 2), None).shape == (0,)


def test_the_spectrum_of_noise_on_the_data_does_see_it():
    """A map diag(e^-s, e^s) costs nothing there; A then holds noise that f has stretched."""
    x = rows(30) * torch.tensor([1.0, 0.0])
    for s, rank in ((0.0, 1), (1.4, 1), (1.6, 2), (2.0, 2)):
        model = model_of(Diagonal(-s, s), spread="data")
        codes = torch.tensor([(1.0 + 1e-4) * math.exp(-2 * s), 1e-4 * math.exp(2 * s)])
        with torch.no_grad():  # as fits best
            model.prior.weight.copy_(torch.diag((codes - 1e-4).clamp(min=0.0).sqrt()))
        assert int(model.intrinsic_dimension()) == rank
        assert model.local_dimension(x).tolist() == [1] * 30


# several parts ------------------------------------------------------------------------------------


def line_and_plane(count, seed=0):
    line = rows(count, 1, seed) @ torch.tensor([[0.0, 0.0, 1.0]], dtype=F64)
    plane = rows(count, 2, seed + 1) @ torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=F64)
    x = torch.cat([line + torch.tensor([6.0, 0.0, 0.0]), plane])
    return x, torch.arange(2).repeat_interleave(count)


@pytest.fixture(scope="module")
def union():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        training = {"steps": 30, "batch_size": 200, "lr": 1e-3}
        model = model_of(NICE, 3, noise=0.05, components=2, training=training)
        fit(model, line_and_plane(500)[0], line_and_plane(50, 7)[0], seed=0)
    return model.eval()


def test_parts_find_the_dimension_of_each_piece(union):
    x, piece = line_and_plane(200, 11)
    found = union.intrinsic_dimension()
    assert sorted(found.tolist()) == [1, 2] and torch.equal(found, union.kept)
    assert (found[union.assign(x)] == piece + 1).double().mean() > 0.98
    assert (union.local_dimension(x) == piece + 1).double().mean() > 0.95
    assert union.spectrum().shape == (2, 3) and set(union.evaluations) == {"exact"}


def test_embeddings_of_parts_are_padded_to_the_largest(union):
    x, _ = line_and_plane(100, 13)
    dimension = union.kept[union.assign(x)]
    coordinates = union.embed(x).detach()
    assert coordinates.shape == (200, 2)
    assert not coordinates[dimension == 1, 1].any()
    assert bool((coordinates[dimension == 2] != 0).all())
    near = union.reconstruct(x).detach()
    torch.testing.assert_close(union.reconstruct(near).detach(), near, atol=1e-6, rtol=1e-6)
    assert float((near - x).norm(dim=1).median()) < 0.1
    bare = union.sample(200, noise_scale=0.0, generator=generator())
    torch.testing.assert_close(union.reconstruct(bare).detach(), bare, atol=1e-6, rtol=1e-6)


# options and documentation ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"entropy": "none"}, "entropy: expected one of"),
        ({"spread": "data", "entropy": "kde"}, "entropy: expected 'drop' for noise on the data"),
        ({"spread": "uniform"}, "spread: expected one of"),
        ({"start": "random"}, "start: expected one of"),
        ({"components": 2, "start": "identity"}, "start: expected 'principal' with components"),
        ({"components": 0}, "components: expected"),
        ({"rank": 4}, "rank: expected at most"),
        ({"noise": 0.0}, "noise"),
        ({"spread": "data", "frame": "pca"}, "frame: expected 'none' or 'rotation'"),
        ({"threshold": 0.0}, "threshold: expected"),
        ({"prior_lr": 0.0}, "prior_lr: expected"),
        ({"base_flow": {"name": "cef", "latent_features": 1, "base_flow": REALNVP}}, "base_flow"),
    ],
)
def test_bad_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        model_of(**{"features": 3, **options})


def test_the_examples_of_the_readme_run():
    import flowzoo_plugins.spread_flows as package

    text = (Path(package.__path__[0]) / "README.md").read_text("utf-8")
    names = {"x_train": sine(300).float(), "x_valid": sine(60, 1).float()}
    for code in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        exec(compile(code, "README.md", "exec"), names)
    assert isinstance(names["model"], SpreadFlow)
