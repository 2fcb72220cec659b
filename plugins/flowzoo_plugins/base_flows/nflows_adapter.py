"""Adapters to the nflows library."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from flowzoo.interfaces import BaseFlow, Direction, Step
from flowzoo.nets import MLP
from flowzoo.validation import check_positive
from flowzoo_plugins.base_flows.stack import Normalization, Stack


class NflowsTransform(BaseFlow):
    """Any nflows ``Transform`` of flat data as a base flow.

    nflows' ``forward`` goes from x to z and returns log|det dz/dx|; its ``inverse`` returns the
    opposite volume term, whose sign is turned here.

    Args:
        features: D.
        transform: an ``nflows.transforms.base.Transform`` that keeps D; it must take a context
            where ``context_features`` > 0.
        context_features: C.
        fast: the direction that costs one pass.

    Raises:
        TypeError: ``transform`` is not an nflows Transform.

    Example:
        >>> import torch
        >>> from nflows.transforms import ReversePermutation
        >>> NflowsTransform(2, ReversePermutation(2)).encode(torch.tensor([[1.0, 2.0]])).value
        tensor([[2., 1.]])
    """

    packable: ClassVar[bool] = False

    def __init__(
        self,
        features: int,
        transform: nn.Module,
        *,
        context_features: int = 0,
        fast: Direction = "both",
    ) -> None:
        from nflows.transforms.base import Transform

        super().__init__(features, context_features=context_features, fast=fast)
        if not isinstance(transform, Transform):
            raise TypeError(
                f"transform: expected an nflows Transform, got {type(transform).__name__}"
            )
        self.transform = transform

    def layers(self) -> Sequence[BaseFlow]:
        """One flow per part of a ``CompositeTransform``, sharing its parameters.

        Raises:
            TypeError: the transform is not a composite.
        """
        from nflows.transforms.base import CompositeTransform

        if not isinstance(self.transform, CompositeTransform):
            raise TypeError(
                f"layers: expected a CompositeTransform, got {type(self.transform).__name__}, "
                "which cannot be taken apart"
            )
        return tuple(
            NflowsTransform(
                self.features, part, context_features=self.context_features, fast=self.fast
            ).train(self.training)
            for part in self.transform._transforms
        )

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        if len(x) == 0:  # nflows takes minima over the batch
            return Step(x.clone(), x.sum(dim=1))
        z, log_abs_det = self.transform(x, context)
        return Step(z, log_abs_det)

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        if len(z) == 0:
            return Step(z.clone(), z.sum(dim=1))
        try:
            x, log_abs_det = self.transform.inverse(z, context)
        except AssertionError:
            x, log_abs_det = self._decode_in_double(z, context)
        return Step(x, -log_abs_det)

    def _decode_in_double(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """nflows' splines assert that a discriminant is not negative, which rounding can break.

        The result carries no gradient to the parameters.
        """
        double: Any = copy.deepcopy(self.transform).double()
        try:
            x, log_abs_det = double.inverse(
                z.double(), None if context is None else context.double()
            )
        except AssertionError as error:
            raise ValueError(
                f"z: nflows' {type(self.transform).__name__} cannot be inverted here, in float64 "
                "either (a spline's discriminant is negative)"
            ) from error
        return x.to(z.dtype), log_abs_det.to(z.dtype)


class Conditioner(nn.Module):
    """ReLU network in the form nflows' couplings call: ``net(inputs, context)``.

    Context is concatenated; where there is neither input nor context, the net sees a constant one.
    """

    def __init__(
        self, in_features: int, out_features: int, context_features: int, hidden: Sequence[int]
    ) -> None:
        super().__init__()
        self.constant = in_features + context_features == 0
        self.hidden_features = hidden[-1]  # nflows' splines divide by its square root
        self.mlp = MLP(max(1, in_features + context_features), out_features, hidden=hidden)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Parameters of the coupling, (N, out)."""
        if self.constant:
            inputs = inputs.new_ones(len(inputs), 1)
        elif context is not None:
            inputs = torch.cat([inputs, context], dim=1)
        out: Tensor = self.mlp(inputs)
        return out


class _CouplingNets:
    """Makes the conditioner of each coupling."""

    def __init__(self, context_features: int, hidden: Sequence[int]) -> None:
        if not hidden:
            raise ValueError("hidden: expected at least one width, got none")
        self.context_features = context_features
        self.hidden = tuple(hidden)

    def __call__(self, in_features: int, out_features: int) -> Conditioner:
        return Conditioner(in_features, out_features, self.context_features, self.hidden)


def _alternating_mask(features: int, index: int) -> list[int]:
    """1 where coupling ``index`` moves a column, -1 where it passes; D = 1 is always moved."""
    if features == 1:
        return [1]
    return [1 if (column + index) % 2 else -1 for column in range(features)]


class NflowsRealNVP(Stack):
    """RealNVP of nflows' ``AffineCouplingTransform`` with ReLU nets, each followed by batch-norm.

    nflows scales x by sigmoid(s + 2) + 0.001, at most 1.001, on the way to z: a coupling alone can
    hardly stretch, which the batch-norm makes up for. The batch-norm is flowzoo's, as nflows' own
    turns NaN on one row and starts from a running variance of zero.

    Args:
        features: D.
        context_features: C; concatenated to every net's input.
        layers: number of couplings.
        hidden: hidden widths of every net.
        normalization: "batch" or "none".
        momentum: of the batch-norm's running statistics.

    Raises:
        ValueError: an option out of range.
    """

    packable: ClassVar[bool] = False

    def __init__(
        self,
        features: int,
        *,
        context_features: int = 0,
        layers: int = 5,
        hidden: Sequence[int] = (128, 128),
        normalization: Literal["batch", "none"] = "batch",
        momentum: float = 0.1,
    ) -> None:
        from nflows.transforms.coupling import AffineCouplingTransform

        check_positive("features", features)
        nets = _CouplingNets(context_features, hidden)
        couplings = [
            NflowsTransform(
                features,
                AffineCouplingTransform(_alternating_mask(features, index), nets),
                context_features=context_features,
            )
            for index in range(check_positive("layers", layers))
        ]
        super().__init__(couplings, Normalization(normalization, momentum))


class NflowsNSF(Stack):
    """Neural spline flow of nflows' rational-quadratic couplings, Durkan et al. (2019).

    Splines act on [-tail_bound, tail_bound]; outside it the map is the identity. Data beyond the
    bound should be standardised. ``decode`` falls back to float64 where rounding trips nflows'
    own assertion.

    Args:
        features: D.
        context_features: C; concatenated to every net's input.
        layers: number of couplings.
        hidden: hidden widths of every net.
        num_bins: bins of each spline.
        tail_bound: half-width of the splines' interval.
        normalization: "batch" or "none".
        momentum: of the batch-norm's running statistics.

    Raises:
        ValueError: an option out of range.
    """

    packable: ClassVar[bool] = False

    def __init__(
        self,
        features: int,
        *,
        context_features: int = 0,
        layers: int = 5,
        hidden: Sequence[int] = (128, 128),
        num_bins: int = 8,
        tail_bound: float = 5.0,
        normalization: Literal["batch", "none"] = "batch",
        momentum: float = 0.1,
    ) -> None:
        from nflows.transforms.coupling import PiecewiseRationalQuadraticCouplingTransform

        check_positive("features", features)
        if check_positive("num_bins", num_bins) < 2:
            raise ValueError(f"num_bins: expected >= 2, got {num_bins}")
        if not 0 < tail_bound < float("inf"):
            raise ValueError(f"tail_bound: expected a finite number > 0, got {tail_bound}")
        nets = _CouplingNets(context_features, hidden)
        couplings = [
            NflowsTransform(
                features,
                PiecewiseRationalQuadraticCouplingTransform(
                    _alternating_mask(features, index),
                    nets,
                    num_bins=num_bins,
                    tails="linear",
                    tail_bound=tail_bound,
                ),
                context_features=context_features,
            )
            for index in range(check_positive("layers", layers))
        ]
        super().__init__(couplings, Normalization(normalization, momentum))


class NflowsMAF(Stack):
    """MAF of nflows' ``MaskedAffineAutoregressiveTransform`` with feed-forward ReLU MADEs.

    Columns are reversed between layers. In nflows the first column of a MADE ignores the context;
    with two layers or more the reversal makes the whole flow conditional.

    Args:
        features: D.
        context_features: C.
        layers: number of MADEs.
        hidden: hidden widths; nflows wants them equal.
        normalization: "batch" or "none".
        momentum: of the batch-norm's running statistics.

    Raises:
        ValueError: an option out of range, or unequal hidden widths.
    """

    packable: ClassVar[bool] = False

    def __init__(
        self,
        features: int,
        *,
        context_features: int = 0,
        layers: int = 5,
        hidden: Sequence[int] = (128,),
        normalization: Literal["batch", "none"] = "batch",
        momentum: float = 0.1,
    ) -> None:
        from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform
        from nflows.transforms.base import CompositeTransform
        from nflows.transforms.permutations import ReversePermutation

        check_positive("features", features)
        if len(set(hidden)) != 1:
            raise ValueError(f"hidden: expected equal widths, at least one, got {list(hidden)}")
        mades = [
            NflowsTransform(
                features,
                CompositeTransform(
                    [
                        ReversePermutation(features),
                        MaskedAffineAutoregressiveTransform(
                            features,
                            hidden_features=check_positive("hidden", hidden[0]),
                            context_features=context_features or None,
                            num_blocks=len(hidden) - 1,
                            use_residual_blocks=False,
                        ),
                    ]
                ),
                context_features=context_features,
                fast="encode",
            )
            for _ in range(check_positive("layers", layers))
        ]
        super().__init__(mades, Normalization(normalization, momentum))
