"""Fully connected network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from flowzoo.nets.activations import Activation, build_activation
from flowzoo.nets.linear import Linear
from flowzoo.validation import check_positive


class MLP(nn.Module):
    """Linear layers with an activation after each hidden one: (N, in) to (N, out).

    Args:
        in_features: columns of the input.
        out_features: columns of the output.
        hidden: width of each hidden layer; empty for one linear map.
        activation: name of the activation.
        zero_last: start the last layer at zero, so that the net starts as the zero function.

    Raises:
        ValueError: a width below 1 or an unknown activation.

    Example:
        >>> import torch
        >>> MLP(3, 2, hidden=(16, 16))(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden: Sequence[int],
        activation: Activation = "relu",
        zero_last: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = check_positive("in_features", in_features)
        self.out_features = check_positive("out_features", out_features)
        widths = [in_features, *(check_positive("hidden", width) for width in hidden)]
        last = nn.Linear(widths[-1], out_features)
        if zero_last:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        self.linears = nn.ModuleList([*(Linear(a, b) for a, b in pairwise(widths)), last])
        self.activation = build_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """The network's output, (N, out_features)."""
        *first, last = self.linears
        for linear in first:
            x = self.activation(linear(x))
        out: Tensor = last(x)
        return out
