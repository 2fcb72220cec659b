"""VQFlow over charts whose density is known in closed form."""

import math

import torch
from torch import nn

from flowzoo.interfaces import BaseFlow, Partitioner, Step
from flowzoo_plugins.vq_flows import VQFlow

K = 5


class Centres(Partitioner):
    """Fixed centres in data space."""

    def __init__(self, codes):
        super().__init__(codes.shape[1], num_charts=len(codes), code_features=codes.shape[1])
        self.register_buffer("codes", codes.clone())

    def _distances(self, x):
        return (x[:, None, :] - self.codes).square().sum(dim=2).add(1e-12).sqrt()

    def stages(self):
        return ()


class Around(BaseFlow):
    """A Gaussian of trainable scale around the context; counts the rows it sees."""

    def __init__(self, features, context_features, scale=0.5):
        super().__init__(features, context_features=context_features)
        self.log_scale = nn.Parameter(torch.full((features,), math.log(scale)))
        self.rows = []

    def _encode(self, x, context, chart):
        self.rows.append(len(x))
        z = (x - context[:, : self.features]) * (-self.log_scale).exp()
        return Step(z, -self.log_scale.sum().expand(len(x)))

    def _decode(self, z, context, chart):
        x = z * self.log_scale.exp() + context[:, : self.features]
        return Step(x, -self.log_scale.sum().expand(len(z)))


def centres(charts=K, features=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(charts, features, generator=generator, dtype=torch.float64)


def gaussians(charts=K, scale=0.5, data=None, **options):
    """VQFlow of equal Gaussians around the centres, weights counted on ``data``, float64."""
    codes = centres(charts)
    model = VQFlow(2, base_flow=Around(2, 2, scale), partitioner=Centres(codes), **options).double()
    rows = points(400) if data is None else data
    stage = next(stage for stage in model.stages() if stage.name == "charts")
    stage.prepare(rows, rows, torch.Generator().manual_seed(0))
    return model.eval()


def points(rows, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 1.3 * torch.randn(rows, 2, generator=generator, dtype=torch.float64)


def component_log_prob(model, x):
    """log p(x | k) in closed form, (N, K)."""
    scale = model.flow.base.log_scale.exp()
    normal = torch.distributions.Normal(model.partitioner.codes[None], scale)
    return normal.log_prob(x[:, None, :]).sum(dim=2)


def membership(model, x):
    active = model.active(x)
    inside = torch.zeros(len(x), model.num_charts, dtype=torch.bool)
    return inside.scatter(1, active.index, active.present())


def grid(width=5.0, steps=500):
    line = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps * 2 * width - width
    return torch.cartesian_prod(line, line), (2 * width / steps) ** 2


def stretched_grid(reach=7.0, steps=700):
    """Cells of the plane to sinh(reach), fine in the middle: (points, area of each cell)."""
    t = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps * 2 * reach - reach
    width = t.cosh() * 2 * reach / steps
    return torch.cartesian_prod(t.sinh(), t.sinh()), torch.cartesian_prod(width, width).prod(dim=1)
