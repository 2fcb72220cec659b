"""Spread flows and other maps whose losses are known, and rows for them."""

import math

import torch
from torch import nn

from flowzoo.interfaces import BaseFlow, Step
from flowzoo_plugins.spread_flows.flow import SpreadFlow

F64 = torch.float64
NICE = {"name": "nice", "layers": 2, "hidden": [16], "activation": "tanh"}
CURVED = {"name": "nice", "layers": 2, "hidden": [32, 32]}
GIN = {"name": "gin", "layers": 2, "hidden": [8]}
REALNVP = {"name": "realnvp", "layers": 2, "hidden": [8], "normalization": "none"}
CONV = {"name": "conv-gin", "shape": [1, 4, 4], "couplings": [1], "channels": 4, "hidden": [8]}


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


def started(model, x):
    """The model after what comes before its training."""
    for stage in model.stages():
        if stage.loss is not None:
            return model
        stage.prepare(x, x, generator())


def line_and_plane(count, seed=0):
    line = rows(count, 1, seed) @ torch.tensor([[0.0, 0.0, 1.0]], dtype=F64)
    plane = rows(count, 2, seed + 1) @ torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=F64)
    x = torch.cat([line + torch.tensor([6.0, 0.0, 0.0]), plane])
    return x, torch.arange(2).repeat_interleave(count)


def squeezed_line(s, **options):
    """x = (x_1, 0), x_1 ~ N(0, 1), taken to (e^-s x_1, 0) in a plane, A as fits best."""
    model = model_of(Diagonal(-float(s), float(s)), **options)
    with torch.no_grad():
        model.prior.weight.copy_(torch.diag(torch.tensor([math.exp(-s), 0.0])))
    return model


def sine(count, seed=0):
    """Section 2's: x_1 ~ N(0, 1), x_2 = sin 2 x_1."""
    x = rows(count, 1, seed)
    return torch.cat([x, torch.sin(2.0 * x)], dim=1)
