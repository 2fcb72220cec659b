"""Somebody's flows under indexed layers: of layers with and without context, and wrong ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import flowzoo
from flowzoo.interfaces import BaseFlow, Step
from flowzoo.layers import Permutation
from flowzoo.testing.numerics import moons
from flowzoo_plugins.continuous_mixtures.building import told_layers

F64 = torch.float64
SMALL = {"p_hidden": [4], "q_hidden": [4], "st_hidden": [4]}
KMEANS = {"name": "kmeans", "num_charts": 2}


class Shift(BaseFlow):
    """x times constants, plus what the context says."""

    def __init__(self, features: int, *, context_features: int = 0) -> None:
        super().__init__(features, context_features=context_features)
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.told = nn.Linear(context_features, features) if context_features else None

    def _shift(self, context: Tensor | None) -> Tensor:
        if self.told is None or context is None:
            return self.log_scale.new_zeros(())
        return self.told(context)

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        volume = self.log_scale.sum().expand(len(x))
        return Step(x * self.log_scale.exp() + self._shift(context), volume)

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        volume = self.log_scale.sum().expand(len(z))
        return Step((z - self._shift(context)) * (-self.log_scale).exp(), volume)


class Mixed(BaseFlow):
    """Of layers some of which take a context; ``order`` says which, s and p."""

    def __init__(self, features: int, *, order: str = "psps", context_features: int = 0) -> None:
        super().__init__(features, context_features=context_features)
        self.parts = nn.ModuleList(
            Shift(features, context_features=context_features)
            if letter == "s"
            else Permutation(features, order="reverse")
            for letter in order
        )

    def layers(self):
        return (part for part in self.parts)  # not even a sequence

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        total = x.new_zeros(len(x))
        for part in self.parts:
            x, volume = part.encode(x, context if part.context_features else None)
            total = total + volume
        return Step(x, total)

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        total = z.new_zeros(len(z))
        for part in reversed(self.parts):
            z, volume = part.decode(z, context if part.context_features else None)
            total = total + volume
        return Step(z, total)


@pytest.fixture(autouse=True)
def registered():
    with flowzoo.register(Mixed, name="mixed-for-test"):
        yield


@pytest.mark.parametrize("order", ["s", "sp", "ps", "psps", "ppspsp", "sppp"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lgf", SMALL),
        ("lgf", {**SMALL, "family": "conditioned"}),
        ("lgf", {**SMALL, "family": "conditioned", "partitioner": KMEANS}),
        ("lgf", {**SMALL, "partitioner": KMEANS, "objective": "dreg"}),
        ("discrete-lgf", {"p_hidden": [4], "num_values": 2, "objective": "exact"}),
        ("rad", {"gate_hidden": [4], "pieces": 3}),
    ],
)
def test_flows_of_layers_with_and_without_context_train_and_draw(name, options, order):
    x = moons(60, 2).float()
    flow = {"name": "mixed-for-test", "order": order}
    options = {**options, "training": {"epochs": 2, "batch_size": 30}}
    model = flowzoo.build("mixture", name, features=2, base_flow=flow, **options)
    assert flowzoo.fit(model, x).status == "ok"
    assert model.log_prob(x[:5]).isfinite().all() and model.sample(3).shape == (3, 2)


@pytest.mark.parametrize(
    ("order", "runs"), [("s", 1), ("ss", 2), ("ps", 1), ("sp", 1), ("psps", 2), ("ppspssp", 3)]
)
def test_layers_without_context_join_one_that_has_it(order, runs):
    """In order: composed they are the flow."""
    flow = Mixed(3, order=order, context_features=2).double()
    joined = told_layers(tuple(flow.layers()))
    assert len(joined) == runs and all(layer.context_features == 2 for layer in joined)
    x = z = torch.randn(7, 3, dtype=F64)
    context, total = torch.randn(7, 2, dtype=F64), torch.zeros(7, dtype=F64)
    for layer in joined:
        z, volume = layer.encode(z, context)
        total = total + volume
    torch.testing.assert_close(z, flow.encode(x, context).value)
    torch.testing.assert_close(total, flow.encode(x, context).log_abs_det)


def test_density_of_a_conditioned_mixed_flow_is_the_integral_over_the_index():
    """One conditioned layer: p(x) = int N(z(x, u); 0, I) |det| N(u; mu(z), sigma(z)) du."""
    torch.manual_seed(2)
    model = flowzoo.build(
        "mixture",
        "lgf",
        features=2,
        base_flow={"name": "mixed-for-test", "order": "psp"},
        family="conditioned",
        **SMALL,
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        last = model.joint.layers[0].posterior.net.linears[-1]  # q = N(0, 4), wider than p(u|x)
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, math.log(2.0)]))
    model.eval()
    assert len(model.joint.layers) == 1
    x = torch.randn(3, 2, dtype=F64)
    grid = torch.linspace(-12.0, 12.0, 4001, dtype=F64)
    with torch.no_grad():
        found = model.joint(x, grid.repeat(3)[:, None]).log_p.reshape(3, -1)
        integral = found.logsumexp(dim=1) + math.log(float(grid[1] - grid[0]))
        estimate = model.log_prob(x, num_samples=20_000)
    torch.testing.assert_close(estimate, integral, rtol=0, atol=0.03)


class _Given(Permutation):
    """Taken apart into what it is told to be."""

    def __init__(self, features: int, parts: object) -> None:
        super().__init__(features, order="reverse")
        self.given = parts

    def layers(self):
        return self.given


@pytest.mark.parametrize(
    ("parts", "error", "match"),
    [
        ((), ValueError, "expected layers, _Given"),
        (None, TypeError, "_Given.layers.. gave NoneType"),
        ((nn.Linear(2, 2),), TypeError, "layer 0 of _Given: expected a BaseFlow, got Linear"),
        ((Permutation(3, order="reverse"),), ValueError, "layer 0 of _Given: expected .features"),
        ((Shift(2, context_features=5),), ValueError, "context_features of 0 or 0, got 5"),
    ],
)
@pytest.mark.parametrize("name", ["lgf", "discrete-lgf", "rad"])
def test_what_is_no_stack_of_layers_is_refused_when_it_is_built(name, parts, error, match):
    with pytest.raises(error, match=match):
        flowzoo.build("mixture", name, features=2, base_flow=_Given(2, parts))


def test_a_conditioned_family_needs_a_layer_that_can_be_told():
    with pytest.raises(ValueError, match=r"expected layers that take a context.*Permutation"):
        flowzoo.build(
            "mixture",
            "lgf",
            features=2,
            base_flow={"name": "mixed-for-test", "order": "pp"},
            family="conditioned",
        )
