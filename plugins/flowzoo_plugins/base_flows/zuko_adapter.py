"""Adapters to the zuko library, an optional extra."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any, Literal

from torch import Tensor, nn
from torch.distributions import Distribution

from flowzoo.interfaces import BaseFlow, Direction, Step
from flowzoo.validation import check_positive
from flowzoo_plugins.base_flows.stack import Normalization, Stack


def _zuko() -> ModuleType:
    """The library. Importing it turns torch's argument checks off; they are put back as found."""
    validate = Distribution._validate_args
    import zuko

    Distribution.set_default_validate_args(validate)
    module: ModuleType = zuko
    return module


class ZukoTransform(BaseFlow):
    """Any zuko ``LazyTransform`` of flat data as a base flow.

    zuko's transforms go from x to z, and their volume term is log|det dz/dx|; the inverse's is
    turned here.

    Args:
        features: D.
        transform: a ``zuko.lazy.LazyTransform`` that keeps D, made for ``context_features``.
        context_features: C.
        fast: the direction that costs one pass.

    Raises:
        TypeError: ``transform`` is not a zuko LazyTransform.

    Example:
        >>> import torch
        >>> from zuko.flows import MaskedAutoregressiveTransform
        >>> flow = ZukoTransform(3, MaskedAutoregressiveTransform(3), fast="encode")
        >>> flow.encode(torch.zeros(2, 3)).value.shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        features: int,
        transform: nn.Module,
        *,
        context_features: int = 0,
        fast: Direction = "both",
    ) -> None:
        super().__init__(features, context_features=context_features, fast=fast)
        if not isinstance(transform, _zuko().lazy.LazyTransform):
            raise TypeError(
                f"transform: expected a zuko LazyTransform, got {type(transform).__name__}"
            )
        self.transform = transform

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        if len(x) == 0:  # zuko's reshapes cannot place zero rows
            return Step(x.clone(), x.sum(dim=1))
        z, log_abs_det = self.transform(context).call_and_ladj(x)
        return Step(z, log_abs_det)

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        if len(z) == 0:
            return Step(z.clone(), z.sum(dim=1))
        transform = self.transform(context)
        x, log_abs_det = transform.inv.call_and_ladj(z)
        return Step(x, -log_abs_det)


def _mades(
    features: int, context_features: int, layers: int, hidden: Sequence[int], **options: Any
) -> list[BaseFlow]:
    """zuko's masked autoregressive transforms, the column order reversed from one to the next."""
    build = _zuko().flows.MaskedAutoregressiveTransform
    order = list(range(check_positive("features", features)))
    widths = tuple(check_positive("hidden", width) for width in hidden)
    return [
        ZukoTransform(
            features,
            build(
                features,
                context_features,
                order=order[::-1] if index % 2 else order,
                hidden_features=widths,
                **options,
            ),
            context_features=context_features,
            fast="encode",
        )
        for index in range(check_positive("layers", layers))
    ]


class ZukoMAF(Stack):
    """MAF of zuko's ``MaskedAutoregressiveTransform`` with ReLU nets, each followed by batch-norm.

    ``encode`` costs one pass, ``decode`` D passes. zuko's log-scale is a / (1 + |a| / 6.9), so each
    factor lies in (0.001, 1000). The batch-norm is flowzoo's; zuko has none.

    Args:
        features: D.
        context_features: C; concatenated to every net's input.
        layers: number of MADEs.
        hidden: hidden widths of every MADE.
        normalization: "batch" or "none".
        momentum: of the batch-norm's running statistics.

    Raises:
        ValueError: an option out of range.
    """

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
        super().__init__(
            _mades(features, context_features, layers, hidden),
            Normalization(normalization, momentum),
        )


class ZukoNSF(Stack):
    """Autoregressive neural spline flow of zuko's ``MonotonicRQSTransform``, with batch-norms.

    Splines act on [-tail_bound, tail_bound]; outside it the map is the identity. With
    ``normalization="batch"`` there is a batch-norm before the first layer and after each; with
    "none" the data should be standardised. ``encode`` costs one pass, ``decode`` D passes.

    Args:
        features: D.
        context_features: C; concatenated to every net's input.
        layers: number of MADEs.
        hidden: hidden widths of every MADE.
        num_bins: bins of each spline, at least 2.
        tail_bound: half-width of the splines' interval.
        normalization: "batch" or "none".
        momentum: of the batch-norms' running statistics.

    Raises:
        ValueError: an option out of range.
    """

    def __init__(
        self,
        features: int,
        *,
        context_features: int = 0,
        layers: int = 5,
        hidden: Sequence[int] = (128,),
        num_bins: int = 8,
        tail_bound: float = 5.0,
        normalization: Literal["batch", "none"] = "batch",
        momentum: float = 0.1,
    ) -> None:
        if check_positive("num_bins", num_bins) < 2:
            raise ValueError(f"num_bins: expected >= 2, got {num_bins}")
        if not 0 < tail_bound < float("inf"):
            raise ValueError(f"tail_bound: expected a finite number > 0, got {tail_bound}")
        univariate = partial(_zuko().transforms.MonotonicRQSTransform, bound=tail_bound)
        shapes = ((num_bins,), (num_bins,), (num_bins - 1,))
        super().__init__(
            _mades(
                features, context_features, layers, hidden, univariate=univariate, shapes=shapes
            ),
            Normalization(normalization, momentum),
            normalize_input=True,
        )
