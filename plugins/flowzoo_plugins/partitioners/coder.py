"""The encoder and decoder network: linear, batch-norm, LeakyReLU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowzoo.validation import check_positive


class BatchNorm(nn.Module):
    """Batch normalisation told by the caller which statistics to use; runs under vmap.

    Unlike ``torch.nn.BatchNorm1d`` it does not look at train or eval mode: a partition must not
    depend on the mode of the model around it, nor on the other rows of a batch.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor, momentum: float | None) -> Tensor:
        """x (N, features) normalised.

        Args:
            x: rows.
            momentum: None normalises by the running statistics. A number normalises by the batch's
                and moves the running ones towards them by that fraction, in place; 1 replaces them.
                A batch of one row has no variance and is normalised by the running statistics.
        """
        update = momentum is not None and len(x) > 1
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=update,
            momentum=0.0 if momentum is None else momentum,
        )


class Coder(nn.Module):
    """Hidden layers of linear, batch-norm and LeakyReLU, then a linear layer: (N, in) to (N, out).

    Args:
        in_features: columns of the input.
        out_features: columns of the output.
        hidden: width of each hidden layer.
        negative_slope: of the LeakyReLU.
    """

    def __init__(
        self, in_features: int, out_features: int, hidden: Sequence[int], negative_slope: float
    ) -> None:
        super().__init__()
        widths = [in_features, *(check_positive("hidden", width) for width in hidden)]
        self.linears = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(widths, [*widths[1:], out_features], strict=True)
        )
        self.norms = nn.ModuleList(BatchNorm(width) for width in widths[1:])
        self.negative_slope = negative_slope

    def start_at(self, offset: Tensor) -> None:
        """Set the last layer's bias, (out,)."""
        self.linears[-1].bias.copy_(offset)  # type: ignore[operator]

    def forward(self, x: Tensor, momentum: float | None = None) -> Tensor:
        """The network's output; ``momentum`` as in ``BatchNorm``."""
        *first, last = self.linears
        for linear, norm in zip(first, self.norms, strict=True):
            x = F.leaky_relu(norm(linear(x), momentum), self.negative_slope)
        out: Tensor = last(x)
        return out
