"""LGF models whose density has a closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowzoo_plugins.continuous_mixtures.lgf import LGF

F64 = torch.float64


def linear_gaussian(
    layers: int = 1, features: int = 1, index_features: int = 1, seed: int | None = None
) -> LGF:
    """z0 ~ N(0, I), u|z linear-Gaussian, x = e^{-s} (z - T u): every net is one linear map."""
    model = LGF(
        features,
        base_flow={"name": "none", "layers": layers},
        index_features=index_features,
        p_hidden=(),
        q_hidden=(),
        st_hidden=(),
        log_scale_bound="none",
    ).double()
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    with torch.no_grad():
        for layer in model.joint.layers:
            for net in (layer.prior.net, layer.posterior.net, layer.bijection.shift):
                for parameter in net.parameters():
                    parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
            # moments that do not depend on the row: a constant sigma, a constant s
            for net in (layer.prior.net, layer.posterior.net):
                net.linears[-1].weight[index_features:] = 0.0
            layer.bijection.shift.linears[-1].weight[:features] = 0.0
            # q wider than p(u|z): the weights are bounded, and it is not the posterior
            layer.posterior.net.linears[-1].weight[:index_features] *= 0.3
            layer.posterior.net.linears[-1].bias[index_features:] = 0.4
    return model.eval()


def marginal(model: LGF) -> torch.distributions.MultivariateNormal:
    """p(x) of a linear-Gaussian model: x is an affine map of standard normals."""
    features = model.features
    sizes = [features] + [layer.prior.index_features for layer in model.joint.layers]

    def push(noise: Tensor) -> Tensor:
        z, *draws = noise.split(sizes)
        z = z[None]
        for layer, own in zip(reversed(model.joint.layers), draws, strict=True):
            u = layer.prior(z).draw(own[None])
            z = layer.bijection.decode(z, u, None)
        return z[0]

    zero = torch.zeros(sum(sizes), dtype=F64)
    jacobian = torch.autograd.functional.jacobian(push, zero)
    return torch.distributions.MultivariateNormal(push(zero), jacobian @ jacobian.T)


def scalar_model(s: float, t: float, a: float, b: float) -> LGF:
    """G = e^s x + t u, u|z ~ N(a z, b^2), with the exact posterior as q."""
    model = linear_gaussian()
    (layer,) = model.joint.layers
    precision = t**2 + (1 - a * t) ** 2 / b**2
    slope = math.exp(s) * (a * (1 - a * t) / b**2 - t) / precision
    with torch.no_grad():
        for net, rows, bias in (
            (layer.prior.net, [[a], [0.0]], [0.0, math.log(b)]),
            (layer.posterior.net, [[slope], [0.0]], [0.0, -0.5 * math.log(precision)]),
            (layer.bijection.shift, [[0.0], [t]], [s, 0.0]),
        ):
            net.linears[-1].weight.copy_(torch.tensor(rows, dtype=F64))
            net.linears[-1].bias.copy_(torch.tensor(bias, dtype=F64))
    return model
