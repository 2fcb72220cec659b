"""Local intrinsic dimension by the densities of data under noise of several levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowzoo.dimension import lidl
from flowzoo.interfaces import BaseFlow, Evaluation, Injection, Mixture, Prior, Stage
from flowzoo.mixtures import FlowOverPrior, Frame
from flowzoo.registry import build_part
from flowzoo.training.options import TrainingOptions
from flowzoo.validation import check_finite, check_number, check_positive, check_rows
from flowzoo_plugins.lidl.levels import Levels

NOISE_LEVELS = (0.03, 0.048, 0.075, 0.12, 0.19, 0.3)
_BASE_FLOW: Mapping[str, Any] = {
    "name": "nsf-autoregressive",
    "layers": 3,
    "hidden": [64],
    "normalization": "none",
}
_TRAINING: Mapping[str, Any] = {
    "epochs": 50,
    "lr": 2e-3,
    "batch_size": 128,
    "schedule": "cosine",
}
_ROWS = 4096  # scored at a time


class LIDL(Mixture):
    r"""Copies of one flow, each trained on the data under noise of its own level delta_s.

    .. math:: d(x) = D + \frac{\partial \log p_\delta(x)}{\partial \log\delta}, \qquad
        p_\delta = p * N(0, \delta^2 I)

    with the slope by least squares over the levels. The copies start alike, see the same batches
    and the same noise but for its scale; they train as one program on the sum of their objectives.

    ``log_prob`` and ``sample`` are those of the smallest level.

    Source: Tempczyk et al. (2022).

    Args:
        features: D.
        base_flow: name, ``{"name": ..., **options}`` or a built, unconditional flow on R^D without
            batch-norm; one that vmap cannot run is trained level after level.
        prior: as in ``FlowOverPrior``.
        frame: as there; each level has its own, by its noised data.
        noise_levels: delta_s, at least two: above the noise the data carry, below the bends of
            their manifold.
        relative: whether they are in units of the data's extent sqrt(tr S^2 / tr S), with S their
            covariance, or of the data. The extent is the standard deviation along the directions
            that the data take; columns without any change nothing.
        num_points: training rows kept, over which ``intrinsic_dimension`` averages.
        training: changes to 50 epochs of Adam at 2e-3 falling by a cosine, batches of 128.

    Raises:
        ValueError: a base flow or prior that does not fit, or noise levels that give no slope.

    Example:
        >>> flow = {"name": "realnvp", "layers": 2, "hidden": [8], "normalization": "none"}
        >>> model = LIDL(2, base_flow=flow, noise_levels=(0.05, 0.1))
        >>> model.local_dimension(torch.zeros(3, 2))  # before training noise makes no difference
        tensor([2., 2., 2.])
    """

    evaluations: Mapping[str, Evaluation] = {"exact": Evaluation()}
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"sample_and_log_prob", "intrinsic_dimension", "local_dimension"}
    )
    noise_levels: Tensor  # (S,), in the units of the data once fitted
    points: Tensor  # (num_points, D)

    def __init__(
        self,
        features: int,
        *,
        base_flow: Mapping[str, Any] | str | BaseFlow = _BASE_FLOW,
        prior: Mapping[str, Any] | str | Prior = "standard-normal",
        frame: Frame = "pca",
        noise_levels: Sequence[float] = NOISE_LEVELS,
        relative: bool = True,
        num_points: int = 500,
        training: Mapping[str, Any] | TrainingOptions | None = None,
    ) -> None:
        super().__init__(features)
        levels = sorted(check_number("noise_levels", level, strict=True) for level in noise_levels)
        if len(levels) < 2 or levels[0] == levels[-1]:
            raise ValueError(
                f"noise_levels: expected at least two different ones, got {noise_levels!r}"
            )
        flow: BaseFlow = build_part("base-flow", base_flow, features=features)
        if isinstance(flow, Injection):
            raise ValueError("base_flow: expected a flow on R^D, got an injection")
        model = FlowOverPrior(features, base_flow=flow, prior=prior, frame=frame)
        self.levels = Levels(model, len(levels))
        self.relative = relative
        self.training_options = TrainingOptions.of(training, _TRAINING)
        self._given = tuple(levels)
        self.register_buffer("noise_levels", torch.tensor(levels))
        self.register_buffer(
            "points", torch.zeros(check_positive("num_points", num_points), features)
        )

    def intrinsic_dimension(self) -> Tensor:
        """Mean of ``local_dimension`` over the kept training rows, in 0..D, a scalar."""
        return self.local_dimension(self.points).mean().clamp(0.0, float(self.features))

    @torch.no_grad()
    def local_dimension(self, x: Tensor) -> Tensor:
        """d(x), (N,), as the slopes come: not whole, and outside 0..D where the flows are off.

        Raises:
            ValueError: x has the wrong shape, dtype or device, or a non-finite row.
        """
        check_finite("x", check_rows("x", x, self.features, self.points))
        models = self.levels.models()
        log_probs = torch.cat(
            [torch.stack([m.log_prob(rows) for m in models]) for rows in torch.split(x, _ROWS)],
            dim=1,
        )
        return lidl(log_probs, self.noise_levels, self.features).to(x.dtype)

    def sample_and_log_prob(
        self, num: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """``num`` draws (num, D) and their log-density in nats (num,), of the smallest level.

        Raises:
            ValueError: ``num`` is negative.
        """
        return self._smallest().sample_and_log_prob(num, generator=generator)

    def stages(self) -> tuple[Stage, ...]:
        """``noise`` in closed form, then ``maximum-likelihood`` of all levels at once."""
        return (
            Stage("noise", groups=(), prepare=self._prepare),
            self.training_options.stage(
                "maximum-likelihood", self._loss, groups=("levels",), noise_features=self.features
            ),
        )

    @torch.no_grad()
    def _prepare(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        check_finite("x_train", check_rows("x_train", x_train, self.features, self.points))
        if len(x_train) == 0:
            raise ValueError("x_train: expected at least one row, got 0")
        factor = _extent(x_train) if self.relative else 1.0
        if not factor > 0.0:
            raise ValueError("x_train: expected rows that differ, for noise relative to them")
        self.noise_levels.copy_(self.noise_levels.new_tensor([factor * s for s in self._given]))
        order = torch.randperm(len(x_train), generator=generator, device=generator.device)
        kept = order.repeat(-(-len(self.points) // len(order)))[: len(self.points)]
        self.points.copy_(x_train[kept.to(x_train.device)])
        noise = torch.randn(
            *x_train.shape, dtype=x_train.dtype, device=generator.device, generator=generator
        ).to(x_train.device)
        for level, model in zip(self.noise_levels, self.levels.models(), strict=True):
            if model.frame is not None:
                model.frame.fit(x_train + level * noise)

    def _loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        return -self.levels.log_probs(x + self.noise_levels[:, None, None] * noise).sum(dim=0)

    def _log_prob(
        self,
        x: Tensor,
        evaluation: str,
        num_samples: int | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return self._smallest()._log_prob(x, evaluation, num_samples, generator)

    def _sample(self, num: int, temperature: float, generator: torch.Generator | None) -> Tensor:
        return self._smallest().sample(num, temperature=temperature, generator=generator)

    def _smallest(self) -> FlowOverPrior:
        return self.levels.models()[0]


def _extent(x: Tensor) -> float:
    """sqrt(tr S^2 / tr S) for the covariance S of x (N, D); 0 where rows do not differ."""
    rows = x.double()
    rows = rows - rows.mean(dim=0)
    covariance = rows.mT @ rows / len(rows)
    trace = float(covariance.trace())
    rounding = (1e-14 * float(x.abs().max())) ** 2
    return float(covariance.square().sum() / trace) ** 0.5 if trace > rounding else 0.0
