"""Adapters to the normflows library."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from flowzoo.interfaces import BaseFlow, Direction, Step
from flowzoo.validation import check_positive
from flowzoo_plugins.base_flows.stack import Normalization, Stack


class NormflowsFlows(BaseFlow):
    """Any list of normflows ``Flow`` of flat data as a base flow.

    The list is in normflows' order, from z to x, as ``normflows.NormalizingFlow`` takes it:
    ``forward`` goes from z to x with log|det dx/dz|, ``inverse`` from x to z with log|det dz/dx|.

    Args:
        features: D.
        flows: the flows, from the latent side to the data side.
        context_features: C; the context goes to every flow that takes one.
        fast: the direction that costs one pass.

    Raises:
        TypeError: an element is not a normflows Flow, or none takes a context though one is asked.
        ValueError: no flows.

    Example:
        >>> import torch
        >>> from normflows.flows import AffineConstFlow
        >>> NormflowsFlows(2, [AffineConstFlow((2,))]).encode(torch.ones(1, 2)).value
        tensor([[1., 1.]], grad_fn=<MulBackward0>)
    """

    packable: ClassVar[bool] = False

    def __init__(
        self,
        features: int,
        flows: Sequence[nn.Module],
        *,
        context_features: int = 0,
        fast: Direction = "both",
    ) -> None:
        from normflows.flows import Flow

        super().__init__(features, context_features=context_features, fast=fast)
        if not flows:
            raise ValueError("flows: expected at least one flow, got none")
        for flow in flows:
            if not isinstance(flow, Flow):
                raise TypeError(f"flows: expected normflows Flows, got {type(flow).__name__}")
        self.takes_context = tuple(
            context_features > 0 and "context" in inspect.signature(flow.forward).parameters
            for flow in flows
        )
        if context_features > 0 and not any(self.takes_context):
            names = sorted({type(flow).__name__ for flow in flows})
            raise TypeError(f"context_features: none of {names} takes a context")
        self.flows = nn.ModuleList(flows)

    def layers(self) -> Sequence[BaseFlow]:
        """One flow per element, from x to z, sharing its parameters."""
        return tuple(
            NormflowsFlows(
                self.features,
                [flow],
                context_features=self.context_features if takes else 0,
                fast=self.fast,
            ).train(self.training)
            for flow, takes in self._from_x()
        )

    def _from_x(self) -> list[tuple[Any, bool]]:
        return list(zip(self.flows, self.takes_context, strict=True))[::-1]

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        total = x.new_zeros(len(x))
        for flow, takes in self._from_x():
            x, log_abs_det = flow.inverse(x, context=context) if takes else flow.inverse(x)
            total = total + log_abs_det
        return Step(x, total)

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        total = z.new_zeros(len(z))
        for flow, takes in self._from_x()[::-1]:
            z, log_abs_det = flow(z, context=context) if takes else flow(z)
            total = total - log_abs_det
        return Step(z, total)


class NormflowsRealNVP(Stack):
    """RealNVP of normflows' ``MaskedAffineFlow`` with ReLU nets, each followed by batch-norm.

    normflows has no conditional form of it, and leaves the log-scale unbounded. The batch-norm is
    flowzoo's, as normflows' has no inverse.

    Args:
        features: D.
        context_features: must be 0.
        layers: number of couplings.
        hidden: hidden widths of every net.
        normalization: "batch" or "none".
        momentum: of the batch-norm's running statistics.

    Raises:
        ValueError: an option out of range, or ``context_features`` other than 0.
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
        from normflows.flows import MaskedAffineFlow
        from normflows.nets import MLP

        check_positive("features", features)
        if context_features != 0:
            raise ValueError(
                "context_features: expected 0 (normflows' RealNVP takes no context), "
                f"got {context_features}"
            )
        widths = [features, *(check_positive("hidden", width) for width in hidden), features]
        couplings = []
        for index in range(check_positive("layers", layers)):
            # 1 where a column passes; a single column is always moved
            mask = (torch.arange(features) + index) % 2 if features > 1 else torch.zeros(1)
            flow = MaskedAffineFlow(
                mask.to(torch.get_default_dtype()),
                MLP(widths, init_zeros=True),
                MLP(widths, init_zeros=True),
            )
            couplings.append(NormflowsFlows(features, [flow]))
        super().__init__(couplings, Normalization(normalization, momentum))
