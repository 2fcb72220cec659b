"""What the objectives of spread flows reward, by closed forms, and what is watched beside them."""

import copy
import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)
from torch.func import jacrev, vmap

from flowzoo.priors import GeneralisedGaussian
from flowzoo.training import TrainingWarning, fit
from flowzoo_plugins.spread_flows.collapse import collapse_message
from flowzoo_plugins.spread_flows.entropy import mixture_log_prob, noise_entropy
from flowzoo_plugins.spread_flows.flow import SpreadFlow
from flowzoo_plugins.spread_flows.presets import NOISE_STD, PRESETS
from spread_models import (
    CONV,
    F64,
    GIN,
    NICE,
    REALNVP,
    Diagonal,
    entropy_of,
    exact_mean,
    model_of,
    objective,
    rows,
    squeezed_line,
)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# B20: what leaving out the entropy rewards --------------------------------------------------------


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


def test_entropy_of_a_mixture_does_not_depend_on_where_it_is():
    z = 0.02 * rows(50)
    near, far = (mixture_log_prob(z + shift, torch.tensor(0.01, dtype=F64)) for shift in (0, 1e6))
    torch.testing.assert_close(near, far, rtol=0, atol=1e-3)


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
    codes = model.codes(x)
    kernels = MultivariateNormal(codes, 1e-4 * torch.eye(3, dtype=F64))
    mixture = MixtureSameFamily(Categorical(torch.ones(7, dtype=F64)), kernels)
    entropy = -mixture.log_prob(codes + 0.01 * noise) - volume
    torch.testing.assert_close(watched["entropy"], entropy, rtol=1e-6, atol=1e-6)


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
