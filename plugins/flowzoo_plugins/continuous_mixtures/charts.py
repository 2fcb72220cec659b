"""Charts over stacked layers: a hard partition of the data as the first index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowzoo.charts import Condition, chart_context, check_condition, condition_features
from flowzoo.importance import Weights
from flowzoo.interfaces import Partitioner, Stage
from flowzoo.interfaces.stage import within
from flowzoo.registry import build_part
from flowzoo.training.modes import evaluating
from flowzoo.validation import check_positive


class Charts(nn.Module):
    r"""p(x) = sum_k p_k p(x | k), with a partitioner that says which k may have made x.

    Training hands a row to its m nearest charts, and each network is told the chart. The weights
    p_k start as the charts' shares of the training rows and are learned.

    Source: Sidheekh et al. (2022), section 4.2, over the flows of Cornish et al. (2020).

    Args:
        features: D.
        partitioner: name, mapping or module.
        condition: what the networks are told: the chart's ``code`` or a ``one-hot`` of its index.
        overlap: m.

    Raises:
        ValueError: an unknown condition, or more charts to overlap than there are.
    """

    def __init__(
        self,
        features: int,
        partitioner: str | Mapping[str, Any] | Partitioner,
        *,
        condition: Condition,
        overlap: int,
    ) -> None:
        super().__init__()
        check_condition(condition)
        self.partitioner: Partitioner = build_part("partitioner", partitioner, features=features)
        self.num_charts = self.partitioner.num_charts
        if check_positive("overlap", overlap) > self.num_charts:
            raise ValueError(f"overlap: expected at most {self.num_charts} charts, got {overlap}")
        self.condition, self.overlap = condition, overlap
        self.context_features = condition_features(
            condition, self.num_charts, self.partitioner.code_features
        )
        self.logits = nn.Parameter(torch.zeros(self.num_charts))

    def stages(self, prefix: str) -> tuple[Stage, ...]:
        """The partitioner's stages, then the weights by counting, for a model that holds this."""
        own = (within(stage, f"{prefix}.partitioner") for stage in self.partitioner.stages())
        return (*own, Stage("charts", groups=(), prepare=self._count))

    @torch.no_grad()
    def _count(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        with evaluating(self.partitioner):
            nearest = torch.cat([self.nearest(rows)[:, 0] for rows in torch.split(x_train, 2**14)])
        counts = torch.bincount(nearest, minlength=self.num_charts).to(self.logits)
        self.logits.copy_(counts.clamp(min=0.5).log() - counts.sum().log())

    def nearest(self, x: Tensor) -> Tensor:
        """The m nearest charts of each row of x (N, D), nearest first, (N, m)."""
        distances = self.partitioner.distances(x).detach()
        return distances.sort(dim=1, stable=True).indices[:, : self.overlap]

    def log_prob(self) -> Tensor:
        """log p_k, (K,), nats."""
        return self.logits.log_softmax(dim=0)

    def context(self, chart: Tensor) -> Tensor:
        """What the networks are told about charts (...), (..., C)."""
        return chart_context(chart, self.partitioner.codes.detach(), self.condition)

    def draw(
        self, num: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """``num`` charts by p_k^{1/t}, (num,)."""
        probability = (self.log_prob() / temperature).softmax(dim=0)
        if num == 0:
            return torch.zeros(0, dtype=torch.int64, device=probability.device)
        return torch.multinomial(probability, num, replacement=True, generator=generator)


def mixed(parts: Sequence[Weights], log_weight: Tensor) -> Weights:
    r"""Of the mixture, from S draws in each chart and the charts' log p_k (K,).

    The sum over charts is no draw: with shares r_k of the estimate and S_k of the S draws of chart
    k effective, the mixture has

    .. math:: \frac{1}{S_\mathrm{eff}} = \frac1S + \sum_k r_k^2 \Bigl(\frac{1}{S_k} - \frac1S\Bigr)

    from 1 to S. ``mean_log`` is log sum_k p_k exp(the chart's mean log-weight), a bound as well.
    """
    each = zip(*(part[:4] for part in parts), strict=True)
    sums, squares, totals, means = (torch.stack(tensors) for tensors in each)
    count = parts[0].num_samples
    log_sums = sums + log_weight[:, None, None]
    of_chart = log_sums.logsumexp(dim=2)
    share = of_chart.softmax(dim=0)
    inverse = (squares - 2.0 * sums.logsumexp(dim=2)).exp()  # 1 / S_k
    whole = 1.0 / count + (share.square() * (inverse - 1.0 / count)).sum(dim=0)
    return Weights(
        log_sums.logsumexp(dim=0),
        2.0 * of_chart.logsumexp(dim=0) + whole.log(),
        count * (totals / count + log_weight[:, None]).logsumexp(dim=0),
        (share[..., None] * means).sum(dim=0),
        count,
    )
