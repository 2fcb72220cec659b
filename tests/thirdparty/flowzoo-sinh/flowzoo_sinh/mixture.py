"""A mixture over charts whose parts come from the registry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowzoo import BaseFlow, Evaluation, Mixture, Partitioner, Stage, build_part
from flowzoo.training import TrainingOptions
from flowzoo.validation import check_rows

_TRAINING = {"epochs": 50, "lr": 1e-2, "batch_size": 128}


class SinhAtlas(Mixture):
    r"""One base flow, told by a one-hot context which chart it is on, summed over all charts.

    .. math:: p(x) = \sum_k w_k N(f_k(x); 0, I) |\det J f_k(x)|
    """

    evaluations: Mapping[str, Evaluation] = {"exact": Evaluation()}
    capabilities: ClassVar[frozenset[str]] = frozenset({"assign"})
    centres: Tensor

    def __init__(
        self,
        features: int,
        *,
        partitioner: str | Mapping[str, Any] | Partitioner = "slabs",
        base_flow: str | Mapping[str, Any] | BaseFlow = "sinh-arcsinh",
        training: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(features)
        self.partitioner = build_part("partitioner", partitioner, features=features)
        if any(stage.loss is not None for stage in self.partitioner.stages()):
            raise ValueError("partitioner: expected one that is fitted in closed form")
        charts = self.partitioner.num_charts
        self.base_flow = build_part(
            "base-flow", base_flow, features=features, context_features=charts
        )
        self.training_options = TrainingOptions.of(training, _TRAINING)
        self.logits = torch.nn.Parameter(torch.zeros(charts))
        self.register_buffer("centres", torch.zeros(charts, features))

    def stages(self) -> tuple[Stage, ...]:
        trained = ("base_flow", "logits")
        stage = self.training_options.stage(
            "maximum-likelihood", self._loss, groups=trained, prepare=self._start
        )
        return (stage,)

    def assign(self, x: Tensor) -> Tensor:
        """The chart each row of x (N, D) most probably comes from, (N,) int64."""
        return self._joint(check_rows("x", x, self.features, self.centres)).argmax(dim=1)

    @torch.no_grad()
    def _start(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        for stage in self.partitioner.stages():
            if stage.prepare is not None:
                stage.prepare(x_train, x_valid, generator)
        charts = len(self.logits)
        inside = torch.nn.functional.one_hot(self.partitioner.assign(x_train), charts).to(x_train)
        count = inside.sum(dim=0)
        self.centres.copy_((inside.mT @ x_train) / count.clamp(min=1)[:, None])
        self.logits.copy_(count.clamp(min=1).log())

    def _loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        return -self._log_prob(x, "exact", None, None)

    def _joint(self, x: Tensor) -> Tensor:
        """log w_k + log p(x | k), (N, K)."""
        rows, charts = len(x), len(self.logits)
        context = torch.eye(charts, dtype=x.dtype, device=x.device)
        local = (x[:, None, :] - self.centres).flatten(0, 1)
        z, log_abs_det = self.base_flow.encode(local, context.repeat(rows, 1))
        normal = -0.5 * (z.square() + math.log(2 * math.pi)).sum(dim=1)
        log_local = (normal + log_abs_det).reshape(rows, charts)
        return torch.log_softmax(self.logits, dim=0) + log_local

    def _log_prob(
        self,
        x: Tensor,
        evaluation: str,
        num_samples: int | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return torch.logsumexp(self._joint(x), dim=1)

    @torch.no_grad()
    def _sample(self, num: int, temperature: float, generator: torch.Generator | None) -> Tensor:
        like = self.centres
        device = like.device if generator is None else generator.device
        uniform = torch.rand(num, 1, generator=generator, device=device, dtype=like.dtype)
        noise = torch.randn(
            num, self.features, generator=generator, device=device, dtype=like.dtype
        )
        below = torch.softmax(self.logits, dim=0).cumsum(dim=0)[:-1]
        chart = (uniform.to(like.device) >= below).sum(dim=1)
        context = torch.eye(len(self.logits), dtype=like.dtype, device=like.device)[chart]
        local = self.base_flow.decode(temperature * noise.to(like.device), context).value
        return self.centres[chart] + local
