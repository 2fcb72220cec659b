"""What every coupling does: some columns pass, the others are moved."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from flowzoo.interfaces import BaseFlow, Step


class Coupling(BaseFlow):
    r"""Some columns pass and condition an invertible map of the others, Dinh et al. (2014), eq. 6.

    .. math:: z_a = x_a, \qquad z_b = g(x_b; x_a, c), \qquad
        \log|\det dz/dx| = \log|\det dg/dx_b|

    Subclasses implement ``_move``. For D = 1 nothing passes: the net sees only the context, or a
    constant one where there is none.

    Args:
        features: D.
        context_features: C.
        reverse: the columns after the cut pass instead of those before it.
        split: columns before the cut; D // 2 when None.
    """

    def __init__(
        self,
        features: int,
        *,
        context_features: int = 0,
        reverse: bool = False,
        split: int | None = None,
    ) -> None:
        super().__init__(features, context_features=context_features)
        self.split = features // 2 if split is None else split
        self.reverse = reverse and features > 1
        passing = features - self.split if self.reverse else self.split
        self.moved_features = features - passing
        self.net_inputs = max(1, passing + context_features)

    @abstractmethod
    def _move(self, moved: Tensor, inputs: Tensor, inverse: bool) -> Step:
        """The moved columns mapped, and log|det dz/dx| (N,) whichever way.

        Args:
            moved: columns of x, or of z for the inverse, (N, ``moved_features``).
            inputs: what the nets see, (N, ``net_inputs``).
            inverse: from z to x.
        """

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return self._couple(x, context, inverse=False)

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return self._couple(z, context, inverse=True)

    def _couple(self, value: Tensor, context: Tensor | None, inverse: bool) -> Step:
        first, second = torch.split(value, [self.split, self.features - self.split], dim=1)
        passing, moved = (second, first) if self.reverse else (first, second)
        inputs = passing
        if context is not None:
            inputs = torch.cat([passing, context], dim=1)
        elif self.features == 1:
            inputs = passing.new_ones(len(passing), 1)
        moved, log_abs_det = self._move(moved, inputs, inverse)
        return Step(
            torch.cat([moved, passing] if self.reverse else [passing, moved], dim=1), log_abs_det
        )
