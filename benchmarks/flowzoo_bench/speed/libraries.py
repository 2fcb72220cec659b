"""The same flows built in each library, with batch-norm after every layer.

nflows has a batch-norm of its own; normflows' keeps no running statistics and zuko has none, so
these two use ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowzoo.layers import InvertibleBatchNorm
from flowzoo.nets import MLP
from flowzoo_bench.speed.architecture import Architecture, ScaleAndTranslation


class _Sequence(nn.Module):
    """log p(x) of layers that return (value, log|det|), under a standard normal."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def log_prob(self, x: Tensor) -> Tensor:
        """(N,) nats."""
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_abs_det = layer(x)
            total = total + log_abs_det
        return total - 0.5 * (x.square() + 1.8378770664093453).sum(1)


class _BatchNorm(nn.Module):
    """Our batch-norm as a layer that returns (value, log|det|), and as normflows calls one."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = InvertibleBatchNorm(features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data to latent."""
        step = self.norm.encode(x)
        return step.value, step.log_abs_det

    inverse = forward  # normflows' name of the direction from data to latent


class _ZukoLayer(nn.Module):
    """A zuko lazy transform as a layer that returns (value, log|det|)."""

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data to latent."""
        pair: tuple[Tensor, Tensor] = self.transform(None).call_and_ladj(x)
        return pair


def nflows(shape: Architecture) -> nn.Module:
    """nflows: its transforms, batch-norm and Flow."""
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import (
        AffineCouplingTransform,
        BatchNorm,
        CompositeTransform,
        MaskedAffineAutoregressiveTransform,
        ReversePermutation,
    )

    parts: list[Any] = []
    for layer in range(shape.layers):
        if shape.kind == "maf":
            parts += [
                MaskedAffineAutoregressiveTransform(
                    shape.features,
                    shape.hidden[0],
                    num_blocks=len(shape.hidden) - 1,
                    use_residual_blocks=False,
                ),
                ReversePermutation(shape.features),
            ]
        else:
            mask = _mask(shape, layer)
            parts.append(
                AffineCouplingTransform(
                    mask,
                    lambda i, o: ScaleAndTranslation(i, o // 2, shape.hidden, scale_first=False),
                )
            )
        parts.append(BatchNorm(shape.features))
    return Flow(CompositeTransform(parts), StandardNormal([shape.features]))  # type: ignore[no-any-return]


def nflows_stock(shape: Architecture) -> nn.Module:
    """nflows' own SimpleRealNVP, with its residual nets and batch-norm between layers."""
    from nflows.flows.realnvp import SimpleRealNVP

    return SimpleRealNVP(  # type: ignore[no-any-return]
        shape.features,
        shape.hidden[0],
        shape.layers,
        len(shape.hidden),
        batch_norm_between_layers=True,
    )


def normflows(shape: Architecture) -> nn.Module:
    """normflows: its flows and NormalizingFlow; flows are listed from latent to data."""
    import normflows as nf

    parts: list[nn.Module] = []
    for layer in range(shape.layers):
        if shape.kind == "maf":
            parts += [
                nf.flows.MaskedAffineAutoregressive(
                    shape.features,
                    shape.hidden[0],
                    num_blocks=len(shape.hidden) - 1,
                    use_residual_blocks=False,
                ),
                nf.flows.Permute(shape.features, mode="swap"),
            ]
        else:
            mask = (_mask(shape, layer) < 0).to(torch.get_default_dtype())  # 1: passes
            nets = (
                MLP(shape.features, shape.features, hidden=shape.hidden, activation=activation)
                for activation in ("relu", "tanh")
            )
            parts.append(nf.flows.MaskedAffineFlow(mask, *nets))
        parts.append(_BatchNorm(shape.features))
    base = nf.distributions.DiagGaussian(shape.features, trainable=False)
    return nf.NormalizingFlow(base, parts)  # type: ignore[no-any-return]


def zuko(shape: Architecture) -> nn.Module:
    """zuko: its lazy transforms."""
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform
    from zuko.flows.coupling import GeneralCouplingTransform

    parts: list[nn.Module] = []
    for layer in range(shape.layers):
        if shape.kind == "maf":
            order = torch.arange(shape.features)
            transform = MaskedAutoregressiveTransform(
                shape.features,
                order=order if layer % 2 == 0 else order.flip(0),
                hidden_features=shape.hidden,
            )
        else:
            passes = _mask(shape, layer) < 0
            transform = GeneralCouplingTransform(shape.features, mask=passes)
            count = int(passes.sum())
            transform.hyper = ScaleAndTranslation(
                count, shape.features - count, shape.hidden, interleave=True, scale_first=False
            )
        parts += [_ZukoLayer(transform), _BatchNorm(shape.features)]
    return _Sequence(parts)


def _mask(shape: Architecture, layer: int) -> Tensor:
    """Couplings in nflows' convention: positive columns are moved, the others pass."""
    half = shape.features // 2
    mask = torch.ones(shape.features)
    mask[:half] = -1
    return mask if layer % 2 == 0 else -mask


LIBRARIES: Mapping[str, Callable[[Architecture], nn.Module]] = {
    "nflows": nflows,
    "normflows": normflows,
    "zuko": zuko,
}
