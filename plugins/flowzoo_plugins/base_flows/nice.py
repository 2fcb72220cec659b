"""Volume-preserving flow of additive couplings."""

from __future__ import annotations

from collections.abc import Sequence

from flowzoo.layers import AdditiveCoupling
from flowzoo.nets import Activation
from flowzoo.validation import check_positive
from flowzoo_plugins.base_flows.stack import Normalization, Order, Stack, ordered


class NICE(Stack):
    r"""Additive couplings with alternating halves, Dinh et al. (2014); volume preserving.

    .. math:: z_b = x_b + t(x_a, c) \text{ in each coupling}, \qquad \log|\det dz/dx| = 0

    The original's last layer, which scales each column, is left out, and no batch-norm stands
    between the couplings: both change volume. So the latent density must have the data's scale;
    as a density under a standard normal this flow wants standardised data, and fits less well than
    flows that stretch. Both directions cost one pass.

    Args:
        features: D.
        context_features: C; the context enters every net.
        layers: number of couplings.
        hidden: hidden widths of every net.
        activation: activation of the nets.
        order: which columns pass: "halves", first and last half in turn; "random", halves drawn
            anew for each pair of couplings; "rotation", halves after a learned rotation a pair.

    Raises:
        ValueError: an option out of range or of an unknown name.

    Example:
        >>> import torch
        >>> NICE(3, layers=2, hidden=(16,)).encode(torch.randn(2, 3)).log_abs_det
        tensor([0., 0.])
    """

    def __init__(
        self,
        features: int,
        *,
        context_features: int = 0,
        layers: int = 5,
        hidden: Sequence[int] = (128, 128),
        activation: Activation = "relu",
        order: Order = "halves",
    ) -> None:
        couplings = [
            AdditiveCoupling(
                features,
                hidden=hidden,
                context_features=context_features,
                reverse=index % 2 == 1,
                activation=activation,
            )
            for index in range(check_positive("layers", layers))
        ]
        super().__init__(ordered(couplings, order), Normalization("none", 0.1))
