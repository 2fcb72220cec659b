"""Small layers of every kind, in float64 and away from their identity start."""

import torch

from flowzoo.layers import (
    AdditiveCoupling,
    AffineCoupling,
    Composition,
    InvertibleBatchNorm,
    MaskedAffineAutoregressive,
    Permutation,
    RadialSquash,
    SplineAutoregressive,
    SplineCoupling,
    SplineShape,
    VolumePreservingCoupling,
)

F64 = torch.float64


def coupling(features, context, reverse=False):
    return AffineCoupling(features, hidden=(8, 8), context_features=context, reverse=reverse)


def autoregressive(features, context, reverse=False):
    # tanh: no dead units, so that a dependency allowed by the masks is seen
    return MaskedAffineAutoregressive(
        features,
        hidden=(9, 8),
        context_features=context,
        reverse=reverse,
        activation="tanh",
    )


SPLINE = SplineShape(num_bins=4, tail_bound=4.0, min_bin_size=0.02, min_derivative=0.01)


def spline_coupling(features, context, reverse=False):
    return SplineCoupling(
        features,
        hidden=(8, 8),
        context_features=context,
        reverse=reverse,
        activation="tanh",
        spline=SPLINE,
    )


def spline_autoregressive(features, context, reverse=False):
    return SplineAutoregressive(
        features,
        hidden=(9, 8),
        context_features=context,
        reverse=reverse,
        activation="tanh",
        spline=SPLINE,
    )


def additive_coupling(features, context, reverse=False):
    return AdditiveCoupling(features, hidden=(8, 8), context_features=context, reverse=reverse)


def volume_preserving_coupling(features, context, reverse=False):
    return VolumePreservingCoupling(
        features, hidden=(8, 8), context_features=context, reverse=reverse
    )


def batch_norm(features, context):
    layer = InvertibleBatchNorm(features)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2.0)
    return layer


def composition(features, context):
    return Composition(
        [
            autoregressive(features, context),
            Permutation(features, order="random", generator=torch.Generator().manual_seed(3)),
            batch_norm(features, context),
            coupling(features, context, reverse=True),
            volume_preserving_coupling(features, context),
            spline_coupling(features, context),
            RadialSquash(features),
        ]
    )


def randomised(layer, scale=0.5):
    """The layer in float64 and eval mode, away from its identity start."""
    layer = layer.double().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return layer


def data(rows, features, context):
    x = torch.randn(rows, features, dtype=F64)
    return x, torch.randn(rows, context, dtype=F64) if context else None


def jacobian(layer, x, context):
    def encode(row, c):
        return layer.encode(row[None], None if c is None else c[None]).value[0]

    rows = [
        torch.autograd.functional.jacobian(
            lambda v, i=i: encode(v, None if context is None else context[i]), x[i]
        )
        for i in range(len(x))
    ]
    return torch.stack(rows)
