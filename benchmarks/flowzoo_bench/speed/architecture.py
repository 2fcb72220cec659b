"""The two networks every library is timed on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from flowzoo.nets import MLP


@dataclass(frozen=True)
class Architecture:
    """A flow to time.

    Attributes:
        kind: affine couplings with two nets each, or masked autoregressive layers with one.
        hidden: hidden widths of every net.
        features: D.
        layers: couplings or MADEs, each followed by batch-norm.
        batch: rows a step.
    """

    kind: str
    hidden: tuple[int, ...]
    features: int = 3
    layers: int = 5
    batch: int = 128

    @property
    def label(self) -> str:
        """How tables name it."""
        return f"{self.kind} {self.layers}x({len(self.hidden)}x{self.hidden[0]})"

    def products(self) -> list[tuple[int, int]]:
        """(in, out) of every linear layer of the flow."""
        if self.kind == "maf":
            widths = [self.features, *self.hidden, 2 * self.features]
            nets = [widths] * self.layers
        else:
            nets = []
            for layer in range(self.layers):
                passing = self.features // 2 if layer % 2 == 0 else (self.features + 1) // 2
                nets += [[passing, *self.hidden, self.features - passing]] * 2
        return [pair for net in nets for pair in pairwise(net)]


ARCHITECTURES = (
    Architecture("realnvp", (128, 128)),
    Architecture("maf", (128,)),
    Architecture("maf", (128, 128)),
)


class ScaleAndTranslation(nn.Module):
    """The coupling nets every library gets: a tanh scale net and a ReLU translation net.

    Args:
        inputs: columns that pass.
        outputs: columns that are moved.
        hidden: hidden widths of both nets.
        interleave: order the outputs (s1, t1, s2, t2, ...) instead of (s..., t...).
        scale_first: scale columns before translation columns.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: tuple[int, ...],
        *,
        interleave: bool = False,
        scale_first: bool = True,
    ) -> None:
        super().__init__()
        self.scale = MLP(inputs, outputs, hidden=hidden, activation="tanh")
        self.translation = MLP(inputs, outputs, hidden=hidden, activation="relu")
        self.interleave, self.scale_first = interleave, scale_first

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(N, inputs) to (N, 2 outputs)."""
        pair = (self.scale(x), self.translation(x))
        if not self.scale_first:
            pair = pair[::-1]
        return torch.stack(pair, -1).flatten(-2) if self.interleave else torch.cat(pair, -1)
