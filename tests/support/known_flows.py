"""Small base flows away from their start, and what their tests ask of them."""

import torch

from flowzoo.layers import Composition

F64 = torch.float64


def small(flow_class, features, context=0, **options):
    """A flow away from its start: perturbed parameters, running statistics of some data."""
    flow = flow_class(
        features, context_features=context, **({"layers": 3, "hidden": (16, 16)} | options)
    ).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for _ in range(20):
            flow.encode(*data(64, features, context))
    return flow.eval()


def data(rows, features, context=0):
    x = 1.5 * torch.randn(rows, features, dtype=F64)
    return x, torch.randn(rows, context, dtype=F64) if context else None


def log_prob(flow, prior, x):
    squash = prior.support_map()
    model = flow if squash is None else Composition([flow, squash])
    z, log_abs_det = model.encode(x)
    return prior.log_prob(z) + log_abs_det


def mass(flow, prior, features, points, scale=2.0):
    """Integral of the density over R^D by the midpoint rule in u, x = scale u / (1 - u^2)."""
    u = (torch.arange(points, dtype=F64) + 0.5) / points * 2 - 1
    x = scale * u / (1 - u**2)
    weight = scale * (1 + u**2) / (1 - u**2) ** 2 * 2 / points
    grid = torch.cartesian_prod(*[x] * features).reshape(-1, features)
    weights = torch.cartesian_prod(*[weight] * features).reshape(-1, features).prod(dim=1)
    with torch.no_grad():
        parts = [log_prob(flow, prior, part) for part in grid.split(100_000)]
    return (torch.cat(parts).exp() * weights).sum().item()


def train(flow, prior, x, steps=100):
    optimiser = torch.optim.Adam(flow.parameters(), lr=3e-3)
    flow.train()
    for _ in range(steps):
        loss = -log_prob(flow, prior, x[torch.randint(len(x), (64,))]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    flow.eval()


class Loss(torch.nn.Module):
    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, x, c):
        z, log_abs_det = self.flow.encode(x, c)
        return (0.5 * z.square().sum(dim=1) - log_abs_det).mean()
