"""One flow over all of the data."""

from __future__ import annotations

from flowzoo.mixtures import FlowOverPrior


class GlobalFlow(FlowOverPrior):
    r"""One base flow, no charts: what local flows are compared with.

    .. math:: \log p(x) = \log q(f(x)) + \log\lvert\det J_f(x)\rvert

    Options and errors are those of ``FlowOverPrior``.

    Source: Sidheekh et al. (2022), eq. 1-4; training as in their section 5 by default.

    Example:
        >>> import torch
        >>> model = GlobalFlow(2, base_flow={"name": "realnvp", "layers": 2, "hidden": [8]})
        >>> model.log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """
