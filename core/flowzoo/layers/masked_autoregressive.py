"""What every masked autoregressive layer does: one MADE, D passes back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowzoo.interfaces import BaseFlow, Step
from flowzoo.nets import MADE, Activation
from flowzoo.validation import check_number


class MaskedAutoregressive(BaseFlow):
    r"""Each column mapped by a monotone function that the columns before it choose.

    .. math:: z_i = g(x_i; \theta_i(x_{<i}, c)), \qquad
        \log|\det dz/dx| = \sum_i \log g'(x_i; \theta_i)

    theta comes from one MADE, whose last layer starts at zero unless ``start`` > 0. Subclasses
    implement ``_move``. Cost: ``encode`` one pass of the MADE, ``decode`` D passes.

    Args:
        features: D.
        hidden: hidden widths of the MADE.
        outputs: P, parameters of each column's function.
        context_features: C; the context conditions every column, the first included.
        reverse: order the columns from last to first.
        activation: activation of the MADE.
        start: standard deviation of the weights of the MADE's last layer at the start.

    Raises:
        ValueError: ``start`` is no finite number >= 0.
    """

    degrees: Tensor

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int],
        outputs: int,
        context_features: int = 0,
        reverse: bool = False,
        activation: Activation = "relu",
        start: float = 0.0,
    ) -> None:
        super().__init__(features, context_features=context_features, fast="encode")
        order = range(features, 0, -1) if reverse else range(1, features + 1)
        self.made = MADE(
            features,
            hidden=hidden,
            outputs=outputs,
            context_features=context_features,
            order=order,
            activation=activation,
            zero_last=True,
        )
        if check_number("start", start):
            nn.init.normal_(self.made.linears[-1].get_parameter("weight"), std=start)
        self.register_buffer("degrees", torch.tensor(list(order)))

    @abstractmethod
    def _move(self, value: Tensor, raw: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """The columns mapped, and log g' (N, D) whichever way.

        Args:
            value: x, or z for the inverse, (N, D).
            raw: the MADE's output, (N, P D), P blocks of D columns.
            inverse: from z to x.
        """

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        z, log_slope = self._move(x, self.made(x, context), False)
        return Step(z, log_slope.sum(dim=1))

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        x = torch.zeros_like(z)
        log_slope = x
        for degree in range(1, self.features + 1):
            # Columns of lower degree are final, so those of this degree become so. Later ones stay
            # zero: what they would hold now could overflow, and 0 * inf in the masks is NaN.
            moved, log_slope = self._move(z, self.made(x, context), True)
            x = torch.where(self.degrees <= degree, moved, torch.zeros_like(z))
        return Step(x, log_slope.sum(dim=1))
