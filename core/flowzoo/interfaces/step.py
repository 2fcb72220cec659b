"""What one move between data and latent space returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Step(NamedTuple):
    """A mapped point and its volume term, with the same sign whichever way one went.

    .. math:: \\log p_X(x) = \\log p_Z(z) + \\mathrm{log\\_abs\\_det}

    Attributes:
        value: the mapped points, (N, d) from ``encode`` and (N, D) from ``decode``.
        log_abs_det: log|det dz/dx| in nats, (N,); for an injection -1/2 log det JᵀJ of the decoder.
    """

    value: Tensor
    log_abs_det: Tensor
