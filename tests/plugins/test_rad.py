"""RAD: folds and their gates, mass, draws, and the sum of a discrete LGF with one term."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import flowzoo
from flowzoo.testing.distribution import check_overlap
from flowzoo.testing.numerics import moons
from flowzoo_plugins.continuous_mixtures.fold import Fold
from flowzoo_plugins.continuous_mixtures.rad import RAD

F64 = torch.float64


def fold_of(features: int = 2, pieces: int = 3, column: int = 0, seed: int = 0) -> Fold:
    torch.manual_seed(seed)
    fold = Fold(features, column=column, pieces=pieces, hidden=(8,)).double()
    with torch.no_grad():
        for parameter in fold.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return fold


def model_of(features: int = 2, seed: int = 3, **options) -> RAD:
    torch.manual_seed(seed)
    flow = {"name": "maf", "layers": 2, "hidden": [8]}
    given = {"base_flow": flow, "folds": 2, "pieces": 3, "gate_hidden": (8,)}
    model = RAD(features, **{**given, **options}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("pieces", [3, 5, 7])
@pytest.mark.parametrize("column", [0, 1])
@torch.no_grad()
def test_fold_is_a_continuous_zigzag_that_its_pieces_invert(pieces, column):
    fold = fold_of(2, pieces, column)
    y = torch.zeros(4001, 2, dtype=F64)
    y[:, column] = torch.linspace(-15, 15, 4001, dtype=F64)
    z, _, piece = fold.encode(y)
    torch.testing.assert_close(fold.decode(z, piece), y)
    assert piece.unique().tolist() == list(range(pieces))
    assert torch.equal(piece, piece.sort().values)
    rise = z[1:, column] - z[:-1, column]
    same = piece[1:] == piece[:-1]
    assert (rise[same].sign() == (1 - 2 * (piece[1:][same] % 2)).double()).all()
    assert rise.abs().max() < 0.2  # no jump at a knot
    assert torch.equal(z[:, 1 - column], y[:, 1 - column])


def test_fold_volume_is_that_of_the_jacobian():
    fold = fold_of(3, 5, 1)
    for y in torch.randn(20, 3, dtype=F64):
        jacobian = torch.autograd.functional.jacobian(lambda r: fold.encode(r[None]).value[0], y)
        z, total, piece = fold.encode(y[None])
        gate = fold.log_pieces(z)[0, piece[0]]
        torch.testing.assert_close(total[0] - gate, torch.slogdet(jacobian)[1])


@pytest.mark.parametrize("pieces", [3, 5])
@torch.no_grad()
def test_every_z_comes_from_the_pieces_that_reach_it_and_shares_add_up(pieces):
    fold = fold_of(1, pieces)
    z = torch.linspace(-12, 12, 801, dtype=F64)[:, None]
    log_share = fold.log_pieces(z)
    torch.testing.assert_close(log_share.exp().sum(dim=1), torch.ones(801, dtype=F64))
    for k in range(pieces):
        reached = log_share[:, k] > -math.inf
        y = fold.decode(z, torch.full((801,), k))
        torch.testing.assert_close(fold.encode(y[reached]).value, z[reached])
        assert (fold.encode(y[reached]).piece == k).double().mean() > 0.99
        assert (fold.encode(y[~reached]).piece != k).all()


@torch.no_grad()
def test_density_is_the_sum_over_branches_pushed_forward():
    """p_Z from p_Y: sum over the pieces of p_Y(y_k) / a_k is the prior again."""
    fold = fold_of(1, 3)
    z = torch.linspace(-4, 4, 101, dtype=F64)[:, None]
    prior = torch.distributions.Normal(0.0, 1.0)
    total = torch.zeros(101, dtype=F64)
    for k in range(3):
        reached = fold.log_pieces(z)[:, k] > -math.inf
        y = fold.decode(z[reached], torch.full((int(reached.sum()),), k))
        folded = fold.encode(y)
        p_y = (prior.log_prob(folded.value[:, 0]) + folded.log_factor).exp()
        slope = (fold.log_pieces(folded.value)[:, k] - folded.log_factor).exp()  # 1 / a_k
        total[reached] += p_y * slope
    torch.testing.assert_close(total, prior.log_prob(z[:, 0]).exp())


@pytest.mark.parametrize("options", [{}, {"folds": 1, "pieces": 5}])
@torch.no_grad()
def test_density_integrates_to_one(options):
    model = model_of(2, **options)
    line = torch.linspace(-25, 25, 2501, dtype=F64)
    mass = 0.0
    for first in line.split(100):
        grid = torch.cartesian_prod(first, line)
        mass += model.log_prob(grid).exp().sum().item() * (line[1] - line[0]).item() ** 2
    draws = model.sample(20_000, generator=torch.Generator().manual_seed(0))
    inside = (draws.abs() < 25).all(dim=1).double().mean().item()
    assert mass == pytest.approx(inside, abs=0.005)


@pytest.mark.parametrize(
    "options", [{}, {"base_flow": {"name": "realnvp", "layers": 3, "hidden": [6]}, "folds": 2}]
)
@torch.no_grad()
def test_draws_follow_the_density(options):
    model = model_of(3, **options)
    check_overlap(model.log_prob, model.sample(6000, generator=torch.Generator().manual_seed(1)))


@torch.no_grad()
def test_folds_start_with_the_data_laid_over_one_another():
    """Cuts stand in the gaps of three clusters; rising pieces hold them, at one place in z."""
    x = torch.randn(900, 2, dtype=F64)
    x[:, 0] = 0.2 * x[:, 0] + torch.tensor([-7.0, 1.0, 4.0]).repeat_interleave(300)
    model = flowzoo.build("mixture", "rad", features=2, folds=1, pieces=5).double()
    model.stages()[0].prepare(x, x, torch.Generator())
    counts = torch.bincount(model.assign(x), minlength=5)
    assert counts.tolist() == [300, 0, 300, 0, 300]
    z = model.embed(x)[:, 0].reshape(3, 300)
    torch.testing.assert_close(z.std(dim=1), x[:, 0].reshape(3, 300).std(dim=1))
    assert (z.mean(dim=1) - z.mean()).abs().max() < 0.2
    assert model.log_prob(x).isfinite().all()


@pytest.mark.parametrize("rows", [1, 2, 5])
@torch.no_grad()
def test_folds_start_on_few_or_equal_rows(rows):
    for x in (torch.randn(rows, 2, dtype=F64), torch.ones(rows, 2, dtype=F64)):
        model = flowzoo.build("mixture", "rad", features=2, pieces=7).double()
        model.stages()[0].prepare(x, x, torch.Generator())
        assert model.log_prob(x).isfinite().all()


@torch.no_grad()
def test_assign_counts_in_base_p():
    model = model_of(2, base_flow={"name": "maf", "layers": 3, "hidden": [8]}, folds=3)
    x = moons(400, 2)
    numbers = model.assign(x)
    assert int(numbers.max()) < 27
    z, digits = x, []
    for flow, fold in zip(model.flows, model.folds, strict=True):
        z, _, piece = fold.encode(flow.encode(z).value)
        digits.append(piece)
    assert torch.equal(numbers, 9 * digits[0] + 3 * digits[1] + digits[2])


def test_two_clusters_are_cut_apart():
    """Two uniform boxes: a fold separates what one continuous map cannot."""
    generator = torch.Generator().manual_seed(0)

    def boxes(num: int) -> Tensor:
        x = torch.rand(num, 2, generator=generator) * torch.tensor([1.0, 2.0])
        side = torch.rand(num, generator=generator) < 0.5
        return x + torch.where(side[:, None], torch.tensor([1.0, -1.0]), torch.tensor([-2.0, -1.0]))

    torch.manual_seed(0)
    train, valid, test = boxes(2000), boxes(500), boxes(2000)
    model = flowzoo.build(
        "mixture",
        "rad",
        features=2,
        base_flow={"name": "maf", "layers": 3, "hidden": [32]},
        gate_hidden=[16],
        training={"epochs": 40, "batch_size": 200, "lr": 5e-3, "patience": 0},
    )
    flowzoo.fit(model, train, valid, seed=1)
    gap = -math.log(4.0) - model.log_prob(test).mean().item()
    assert -0.02 < gap < 0.4


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pieces": 2}, "odd"),
        ({"pieces": 1}, "odd"),
        ({"folds": 3}, "folds"),
        ({"folds": 0}, "folds"),
        ({"base_flow": {"name": "none", "layers": 2}}, "base_flow"),
        ({"log_scale_bound": 0.0}, "log_scale_bound"),
        ({"base_flow": {"name": "maf", "layers": 60, "hidden": [2]}, "folds": 60}, "2\\^62"),
    ],
)
def test_refuses_what_does_not_fit(options, match):
    with pytest.raises(ValueError, match=match):
        model_of(2, **options)
