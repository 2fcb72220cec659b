"""The dimension a model finds its data to have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowzoo.interfaces.metric import Metric, MetricValue, Trained


class IntrinsicDimension(Metric):
    """What models with ``intrinsic_dimension`` say, beside the manifold's true dimension.

    * ``intrinsic_dimension``: its ``reference`` is the true one, where the task knows it. Of a
      model with charts it is the mean over charts, and ``intrinsic_dimension_smallest`` and
      ``intrinsic_dimension_largest`` are those of single charts.
    * ``intrinsic_dimension_error``: absolute difference from the true one, the mean over charts.

    No values for other models.
    """

    def compute(self, trained: Trained) -> Sequence[MetricValue]:
        """Ask the model.

        Raises:
            ValueError: it does not return a number, or a vector of at least one.
        """
        if "intrinsic_dimension" not in trained.model.capabilities:
            return []
        ask = getattr(trained.model, "intrinsic_dimension")  # noqa: B009 - optional, not in the contract
        with torch.no_grad():
            found: Tensor = torch.as_tensor(ask()).to("cpu", torch.float64)
        if found.ndim > 1 or found.numel() == 0:
            raise ValueError(
                f"intrinsic_dimension: expected a number or (K,), got {tuple(found.shape)}"
            )
        true = trained.task.dimension
        charts = found.numel() if found.ndim else None
        values = [
            MetricValue(
                "intrinsic_dimension",
                float(found.mean()),
                "dimensions",
                n=charts,
                reference=None if true is None else float(true),
            )
        ]
        if true is not None:
            error = float((found - true).abs().mean())
            values.append(
                MetricValue("intrinsic_dimension_error", error, "dimensions", "min", n=charts)
            )
        if charts is not None:
            for name, value in (("smallest", found.min()), ("largest", found.max())):
                values.append(
                    MetricValue(f"intrinsic_dimension_{name}", float(value), "dimensions")
                )
        return values
