"""Masked network whose output i depends only on the inputs before i (and on all of the context)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowzoo.nets.activations import Activation, build_activation
from flowzoo.nets.linear import Linear
from flowzoo.validation import check_context, check_positive, check_rows


class MaskedLinear(Linear):
    """Linear layer whose weight is multiplied by a fixed 0/1 ``mask`` (in, out), a buffer."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(*mask.shape)
        self.register_buffer("mask", mask.to(self.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in) to (N, out)."""
        return torch.addmm(self.bias, x, self.weight * self.mask)


class MaskedOutput(nn.Linear):
    """The same with weight and mask stored (out, in), the faster layout for few outputs."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight.dtype))

    def forward(self, input: Tensor) -> Tensor:
        """(N, in) to (N, out)."""
        return F.linear(input, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    r"""Autoregressive network of Germain et al. (2015): masks by degrees, context unmasked.

    Input i has degree ``order[i]`` in 1..D, a hidden unit a degree k in 0..D-1. A hidden unit of
    degree k sees inputs of degree <= k, hidden units of degree <= k and all of the context; the
    outputs of feature i see hidden units of degree < ``order[i]`` (eq. 8-9). Units of degree 0,
    which see only the context, exist when there is a context (without them the first feature
    would ignore it) and when D = 1, where the outputs are constants or functions of the context.

    Args:
        features: D, columns of the input.
        hidden: width of each hidden layer.
        outputs: P, numbers per feature; the result has P blocks of D columns.
        context_features: C, columns of the context.
        order: degree of each input, a permutation of 1..D; 1..D when None.
        activation: name of the activation.
        zero_last: start the last layer at zero, so that the net starts as the zero function.

    Raises:
        ValueError: a width below 1, an order that is no permutation, an unknown activation.

    Example:
        >>> import torch
        >>> MADE(3, hidden=(16,), outputs=2)(torch.zeros(5, 3)).shape
        torch.Size([5, 6])
    """

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int],
        outputs: int = 1,
        context_features: int = 0,
        order: Sequence[int] | None = None,
        activation: Activation = "relu",
        zero_last: bool = False,
    ) -> None:
        super().__init__()
        self.features = check_positive("features", features)
        self.outputs = check_positive("outputs", outputs)
        self.context_features = context_features
        degrees = list(range(1, features + 1) if order is None else order)
        if sorted(degrees) != list(range(1, features + 1)):
            raise ValueError(f"order: expected a permutation of 1..{features}, got {degrees}")
        output_degrees = torch.tensor(degrees)
        # context columns have degree 0: every hidden unit may see them
        previous = torch.cat([output_degrees, torch.zeros(context_features, dtype=torch.int64)])
        lowest = 0 if context_features or features == 1 else 1
        linears: list[nn.Module] = []
        for width in hidden:
            current = _hidden_degrees(check_positive("hidden", width), lowest, features - 1)
            linears.append(MaskedLinear(previous[:, None] <= current[None, :]))
            previous = current
        last = MaskedOutput(output_degrees.repeat(outputs)[:, None] > previous[None, :])
        if zero_last:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        self.linears = nn.ModuleList([*linears, last])
        self.activation = build_activation(activation)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Outputs for x (N, D) and context (N, C): (N, P * D), P blocks of D columns.

        Raises:
            ValueError: a wrong shape, or context missing or unexpected.
        """
        check_rows("x", x, self.features)
        if check_context(context, self.context_features, len(x)) is not None:
            x = torch.cat([x, context], dim=1)  # type: ignore[list-item]
        *first, last = self.linears
        for linear in first:
            x = self.activation(linear(x))
        out: Tensor = last(x)
        return out


def _hidden_degrees(width: int, lowest: int, highest: int) -> Tensor:
    """``width`` degrees spread evenly over lowest..highest, in rising order."""
    count = highest - lowest + 1
    return lowest + torch.arange(width) * count // width
