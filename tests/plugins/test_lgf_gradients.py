"""LGF's gradients: against finite differences, and equal in mean where variance is lowered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from flowzoo.testing.numerics import moons
from flowzoo_plugins.continuous_mixtures.lgf import LGF
from flowzoo_plugins.continuous_mixtures.objectives import bound
from lgf_models import scalar_model

F64 = torch.float64
TIMES = 10_000
FLOW = {"name": "maf", "layers": 2, "hidden": [6], "activation": "tanh"}


def model_of(features: int = 2, layers: int = 2, **options) -> LGF:
    """Small, smooth, nothing at its starting value."""
    torch.manual_seed(1)
    given = {
        "base_flow": {**FLOW, "layers": layers},
        "p_hidden": (6,),
        "q_hidden": (6,),
        "st_hidden": (4,),
        "training_samples": 3,
        **options,
    }
    model = LGF(features, **given).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def loss_of(model: LGF, x: Tensor, noise: Tensor) -> Tensor:
    (stage,) = (s for s in model.stages() if s.loss is not None)
    return stage.loss(x, noise, 0.0).mean()


def noise_for(model: LGF, rows: int, seed: int = 0) -> Tensor:
    (stage,) = (s for s in model.stages() if s.loss is not None)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, stage.noise_features, dtype=F64, generator=generator)


# finite differences ---------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["elbo", "importance"])
@pytest.mark.parametrize("options", [{}, {"family": "conditioned"}, {"infer_from": "data"}])
def test_gradient_with_fixed_noise_is_that_of_finite_differences(objective, options):
    """Of the whole scalar: it flows through z_{l-1} too (the layer-wise sum of Algorithm 1 misses
    nothing only if it does)."""
    model = model_of(objective=objective, **options)
    x, noise = moons(7, 2), noise_for(model, 7)
    loss_of(model, x, noise).backward()
    step = 1e-6
    for name, parameter in model.named_parameters():
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter.add_(step * direction)
            above = loss_of(model, x, noise)
            parameter.sub_(2 * step * direction)
            below = loss_of(model, x, noise)
            parameter.add_(step * direction)
        numeric = (above - below) / (2 * step)
        exact = (parameter.grad * direction).sum()
        torch.testing.assert_close(exact, numeric, rtol=1e-5, atol=1e-8, msg=name)


def test_gradient_of_the_first_layer_needs_the_path_through_z():
    """With z_{l-1} held fixed the gradient of a layer near the data is another one."""
    model = model_of(objective="elbo")
    x, noise = moons(7, 2), noise_for(model, 7)
    loss_of(model, x, noise).backward()
    whole = model.joint.layers[0].bijection.shift.linears[0].weight.grad.clone()
    model.zero_grad()
    parts = noise[:, : 3 * model.joint.noise_features].reshape(21, -1).split(1, dim=1)
    z = x.repeat_interleave(3, dim=0)
    total = torch.zeros(21, dtype=F64)
    for layer, own in zip(model.joint.layers, parts, strict=True):
        z = z.detach()
        y, volume = layer.bijection.prepare(z, None)
        q = layer.posterior(y)
        u = q.draw(own)
        z, more = layer.bijection.encode(y, u, None)
        total = total + volume + more + layer.prior(z).log_prob(u) - q.log_prob(u)
    (-total.mean()).backward()
    layerwise = model.joint.layers[0].bijection.shift.linears[0].weight.grad
    assert (whole - layerwise).norm() > 0.05 * whole.norm()


# equal in mean --------------------------------------------------------------------------------


def gradients(model: LGF, objective: str, draws: int, charts: int = 1) -> Tensor:
    """Gradients of the bound at one row, by fresh noise each time: (TIMES, parameters)."""
    x = moons(1, model.features, seed=3)
    context = weight = None
    if model.charts is not None:
        index = model.charts.nearest(x)
        context, weight = model.charts.context(index), model.charts.log_prob().detach()[index]
    shape = (TIMES, 1, charts, draws, model.joint.noise_features)
    noise = torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(7))
    call = _Bound(model.joint)

    def value(parameters: dict[str, Tensor], own: Tensor) -> Tensor:
        return functional_call(call, parameters, (x, own, objective, context, weight)).sum()

    parameters = {name: p.detach() for name, p in call.named_parameters()}
    found = vmap(grad(value), in_dims=(None, 0), chunk_size=2000)(parameters, noise)
    return torch.cat([g.flatten(1) for g in found.values()], dim=1)


class _Bound(torch.nn.Module):
    def __init__(self, joint: torch.nn.Module) -> None:
        super().__init__()
        self.joint = joint

    def forward(self, x, noise, objective, context, weight):
        return bound(self.joint, x, noise, objective, context=context, log_weight=weight)


def z_scores(first: Tensor, second: Tensor) -> Tensor:
    """How far the means are apart, in standard errors; the same noise: paired."""
    difference = first - second
    error = difference.std(dim=0) / TIMES**0.5
    moved = error > 1e-10
    assert moved.sum() > 20
    assert (difference.mean(dim=0)[~moved].abs() < 1e-8).all()
    return difference.mean(dim=0)[moved] / error[moved]


@pytest.mark.parametrize(
    ("plain", "reduced", "draws"),
    [("elbo", "stl", 1), ("elbo", "stl", 3), ("importance", "dreg", 4)],
)
@pytest.mark.parametrize("options", [{"layers": 1}, {"layers": 3}, {"family": "conditioned"}])
def test_lower_variance_gradients_have_the_mean_of_the_plain_ones(plain, reduced, draws, options):
    """For stacks as well: all parameters move q there, those of the bijections too."""
    model = model_of(**options)
    scores = z_scores(gradients(model, plain, draws), gradients(model, reduced, draws))
    assert scores.abs().max() < 5.0


def test_the_plain_importance_gradient_is_not_the_one_without_the_score():
    """The test above can fail: what leaving the score out of IWAE does (Tucker et al., 2019)."""
    model = model_of(layers=1)
    scores = z_scores(gradients(model, "importance", 4), gradients(model, "stl", 4))
    assert scores.abs().max() > 10.0


@pytest.mark.parametrize(("plain", "reduced"), [("elbo", "stl"), ("importance", "dreg")])
def test_means_are_equal_with_charts(plain, reduced):
    charts = {"name": "kmeans", "num_charts": 3}
    model = model_of(partitioner=charts, overlap=2, condition="one-hot")
    with torch.no_grad():
        model.charts.logits.copy_(torch.tensor([0.5, -0.3, 0.1]))
    scores = z_scores(gradients(model, plain, 2, 2), gradients(model, reduced, 2, 2))
    assert scores.abs().max() < 5.0


@pytest.mark.parametrize("objective", ["stl", "dreg"])
def test_values_are_those_of_the_plain_objectives(objective):
    model = model_of()
    x = moons(9, 2)
    noise = torch.randn(9, 1, 3, model.joint.noise_features, dtype=F64)
    plain = {"stl": "elbo", "dreg": "importance"}[objective]
    torch.testing.assert_close(
        bound(model.joint, x, noise, objective), bound(model.joint, x, noise, plain)
    )


def test_stl_and_dreg_are_still_where_q_is_the_posterior():
    """With the true posterior log w does not depend on u: what moves q alone has no gradient left.

    The plain gradients of q's parameters keep the score's noise there.
    """
    model = scalar_model(0.3, 0.8, 0.5, 0.7)
    x = torch.tensor([[0.7], [-1.1]], dtype=F64)
    noise = torch.randn(2, 1, 4, 1, dtype=F64)
    own = list(model.joint.layers[0].posterior.parameters())
    sizes = {}
    for objective in ("elbo", "stl", "importance", "dreg"):
        value = bound(model.joint, x, noise, objective).sum()
        grads = torch.autograd.grad(value, own)
        sizes[objective] = sum(g.square().sum() for g in grads).sqrt().item()
    assert sizes["stl"] < 1e-9
    assert sizes["dreg"] < 1e-9
    assert sizes["elbo"] > 0.1
    assert sizes["importance"] > 0.1
