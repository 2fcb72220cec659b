"""LIDL: levels trained as one program, and the dimension their densities find."""

import math

import pytest
import torch

from flowzoo.dimension import lidl
from flowzoo.registry import build_part
from flowzoo.training import fit
from flowzoo_plugins.lidl import LIDL

SMALL = {"name": "realnvp", "layers": 2, "hidden": [8], "normalization": "none"}
LEVELS = (0.02, 0.05, 0.1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def plane(rows=800, seed=0):
    """A Gaussian in a plane of R^5."""
    axes = torch.linalg.qr(randn(5, 5, seed=9)).Q[:2]
    return randn(rows, 2, seed=seed) * torch.tensor([3.0, 1.0]) @ axes + 7.0


def small(features=2, seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LIDL(
            features, **{"base_flow": SMALL, "noise_levels": LEVELS, "num_points": 40, **options}
        ).double()


def moved(model, size=0.3):
    """The model with copies that differ."""
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.add_(size * randn(*parameter.shape, seed=index))
    return model


def prepared(model, x):
    model.stages()[0].prepare(x, x[:0], generator())
    return model


# --- one program -------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", ["none", "pca"])
def test_levels_at_once_are_each_level_on_its_own(frame):
    model = moved(prepared(small(5, frame=frame), plane()))
    x = randn(3, 20, 5)
    together = model.levels.log_probs(x)
    alone = torch.stack([copy.log_prob(x[s]) for s, copy in enumerate(model.levels.models())])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)
    weights = randn(3, 20, seed=3)
    parameters = list(model.parameters())
    found = torch.autograd.grad((weights * together).sum(), parameters)
    expected = torch.autograd.grad((weights * alone).sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_flow_that_vmap_cannot_run_is_trained_level_after_level():
    x = plane(120)[:, :3]
    ends = []
    for packable in (True, False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            flow = build_part("base-flow", SMALL, features=3)
        flow.packable = packable
        model = small(3, base_flow=flow, training={"epochs": 2, "lr": 1e-2})
        assert model.levels.together is packable
        fit(model, x, x[:30], seed=0)
        ends.append(model.local_dimension(x))
    torch.testing.assert_close(*ends, rtol=1e-7, atol=1e-7)


def test_a_level_learns_the_same_whatever_the_others_are():
    x = plane(100)[:, :2]
    smallest = []
    for levels in ((0.02, 0.05), (0.02, 0.3, 0.4, 0.5)):
        model = small(noise_levels=levels, training={"steps": 25, "batch_size": 4, "lr": 1e-2})
        start = model.log_prob(x)
        fit(model, x, x[:20], seed=0)
        smallest.append(model.log_prob(x))
        assert not torch.allclose(start, smallest[-1], atol=0.1)
    torch.testing.assert_close(*smallest, rtol=1e-7, atol=1e-7)


# --- dimension ---------------------------------------------------------------------------------


def test_slopes_are_those_of_the_levels_densities():
    model = moved(prepared(small(), plane()[:, :2]))
    x = randn(30, 2)
    log_probs = torch.stack([copy.log_prob(x) for copy in model.levels.models()])
    expected = lidl(log_probs, model.noise_levels, 2)
    torch.testing.assert_close(model.local_dimension(x), expected, rtol=1e-10, atol=1e-10)
    assert model.local_dimension(x[:0]).shape == (0,)
    assert model.float().local_dimension(x.float()).dtype == torch.float32


def test_intrinsic_dimension_is_the_mean_over_kept_rows_inside_the_possible():
    x = plane()
    model = prepared(small(5), x)
    assert bool((model.points[:, None] == x).all(dim=2).any(dim=1).all())
    assert len(model.points.unique(dim=0)) == 40
    mean = model.local_dimension(model.points).mean()
    assert float(model.intrinsic_dimension()) == pytest.approx(float(mean))
    few = prepared(small(5), x[:15])
    assert len(few.points.unique(dim=0)) == 15  # each as often as any, within one
    with torch.no_grad():
        steep = next(iter(model.levels.models()[-1].parameters()))
        steep.fill_(torch.nan)
    assert math.isnan(float(model.intrinsic_dimension()))


def test_a_plane_is_found_at_any_scale_by_its_own_units():
    for scale in (1e-3, 1.0, 1e3):
        x = scale * plane()
        model = small(5, training={"steps": 20, "lr": 1e-3})
        fit(model, x[:600], x[600:], seed=0)
        variance = torch.linalg.eigvalsh(x[:600].T.cov(correction=0))
        extent = float((variance.square().sum() / variance.sum()).sqrt())
        assert model.noise_levels.tolist() == pytest.approx([extent * s for s in LEVELS])
        assert float(model.intrinsic_dimension()) == pytest.approx(2, abs=0.1)
        torch.testing.assert_close(
            model.local_dimension(x), torch.full((800,), 2.0).double(), rtol=0, atol=0.5
        )


def test_levels_in_units_of_the_data():
    model = prepared(small(5, relative=False, noise_levels=(0.3, 0.2)), 100 * plane())
    assert model.noise_levels.tolist() == pytest.approx([0.2, 0.3])


def test_a_circle_is_a_curve():
    angle = 2 * math.pi * torch.rand(500, generator=generator())
    x = torch.stack([angle.cos(), angle.sin(), torch.zeros(500)], dim=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LIDL(
            3,
            base_flow={
                "name": "nsf-autoregressive",
                "layers": 2,
                "hidden": [16],
                "normalization": "none",
            },
            noise_levels=(0.1, 0.3),
            training={"steps": 150, "lr": 1e-2, "batch_size": 100},
        )
    before = prepared(model, x).intrinsic_dimension()
    fit(model, x[:400], x[400:], seed=0)
    assert float(before) > 1.6
    assert float(model.intrinsic_dimension()) == pytest.approx(1, abs=0.3)


# --- refusals ----------------------------------------------------------------------------------


def test_running_state_is_refused():
    with pytest.raises(ValueError, match=r"base_flow: expected a flow without running state"):
        LIDL(2, base_flow={**SMALL, "normalization": "batch"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_levels": (0.1,)}, "noise_levels: expected at least two different"),
        ({"noise_levels": (0.1, 0.1)}, "noise_levels: expected at least two different"),
        ({"noise_levels": (0.1, 0.0)}, "noise_levels: expected a finite number > 0"),
        ({"num_points": 0}, "num_points: expected a positive integer"),
        ({"base_flow": {"name": "cef", "base_flow": SMALL}}, "got an injection"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(3, **options)


def test_rows_without_a_scale_are_refused():
    with pytest.raises(ValueError, match="x_train: expected rows that differ"):
        prepared(small(), torch.ones(20, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="x: expected shape"):
        small().local_dimension(torch.zeros(3, 5, dtype=torch.float64))
