"""Chart weights p(k), and the distribution a chart is chosen by (section 4.2.2)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from flowzoo_plugins.vq_flows.charts import ActiveCharts

WeightKind = Literal["membership", "consistent", "learned"]


def membership_weights(active: ActiveCharts, num_charts: int) -> Tensor:
    r"""Chart weights by counting members, (K,).

    .. math:: r_k = \frac1N \sum_n 1_{U_k}(x_n), \qquad p_k = r_k / \sum_j r_j

    The paper updates r_k row by row as a running mean; after the pass that is this mean.
    Source: Sidheekh et al. (2022), eq. 14-15.
    """
    return _sum_by_chart(active.present().double(), active, num_charts, normalise=True)


def consistent_weights(active: ActiveCharts, choice: Tensor) -> Tensor:
    r"""The weights that match components fitted to rows handed out by ``choice``, (K,).

    .. math:: \pi_k = E_x[q(k \mid x)], \qquad q(k \mid x) \propto p_k 1_{U_k}(x)

    Training draws row x's chart from q, so component k is fitted to the density q(k|x) p(x) / pi_k,
    and only the weights pi_k make the components sum to p(x). Eq. 14 agrees with them when m = 1,
    not when charts overlap. One pass, not a fixed point: q stays the training's.

    Args:
        active: the charts of the training rows.
        choice: p (K,), the eq. 14 weights.
    """
    probabilities = choice_probabilities(active, choice.double())
    return _sum_by_chart(probabilities, active, len(choice), normalise=True)


def choice_probabilities(active: ActiveCharts, choice: Tensor) -> Tensor:
    """q(k|x) over the columns of ``active``, (N, M), zero outside U_k (eq. 17).

    A row all of whose charts have weight 0 chooses evenly among them.
    """
    present = active.present().to(choice.dtype)
    mass = choice[active.index] * present
    total = mass.sum(dim=1, keepdim=True)
    even = present / present.sum(dim=1, keepdim=True)
    return torch.where(total > 0, mass / torch.where(total > 0, total, 1.0), even)


def _sum_by_chart(
    values: Tensor, active: ActiveCharts, num_charts: int, *, normalise: bool
) -> Tensor:
    """Sum ``values`` (N, M) over the rows of each chart, (K,)."""
    out = values.new_zeros(num_charts)
    out.index_add_(0, active.index.reshape(-1), values.reshape(-1))
    return out / out.sum() if normalise else out


class ChartWeights(nn.Module):
    """p(k), and the weights of the choice q(k|x); both uniform until ``fit``.

    Args:
        num_charts: K.
        kind: ``membership`` (eq. 14), ``consistent`` (the choice's own frequencies) or ``learned``
            (softmax logits trained by maximum likelihood, started from membership).
    """

    choice: Tensor  # (K,) the eq. 14 weights, which q(k|x) is made of
    probabilities: Tensor  # (K,) p(k), unless learned
    floor: Tensor  # () half a training row, the least weight the objectives take a logarithm of

    def __init__(self, num_charts: int, kind: WeightKind) -> None:
        super().__init__()
        if kind not in get_args(WeightKind):
            raise ValueError(f"weights: expected one of {get_args(WeightKind)}, got {kind!r}")
        self.num_charts, self.kind = num_charts, kind
        even = torch.full((num_charts,), 1.0 / num_charts)
        self.register_buffer("choice", even.clone())
        self.register_buffer("floor", torch.zeros(()))
        if kind == "learned":
            self.logits = nn.Parameter(even.log())
        else:
            self.register_buffer("probabilities", even)

    def log_prob(self) -> Tensor:
        """log p(k), (K,), nats; -inf for a chart without training rows, except when learned."""
        if self.kind == "learned":
            return self.logits.log_softmax(dim=0)
        return self.probabilities.log()

    def floored_log_prob(self) -> Tensor:
        """log p(k), but at least log of half a training row.

        For objectives: a validation row in a chart that saw no training row then has a finite loss
        instead of hiding all the others behind an infinite mean.
        """
        if self.kind == "learned":
            return self.logits.log_softmax(dim=0)
        return self.probabilities.clamp(min=self.floor).log()

    @torch.no_grad()
    def fit(self, active: ActiveCharts) -> None:
        """Set the weights from the charts of the training rows."""
        rows = len(active.index)
        choice = membership_weights(active, self.num_charts)
        self.choice.copy_(choice)
        self.floor.fill_(0.5 / rows)
        if self.kind == "learned":
            # a chart without rows starts at half a row, so that its logit is finite
            self.logits.copy_(choice.clamp(min=0.5 / rows).log())
        elif self.kind == "consistent":
            self.probabilities.copy_(consistent_weights(active, choice))
        else:
            self.probabilities.copy_(choice)
