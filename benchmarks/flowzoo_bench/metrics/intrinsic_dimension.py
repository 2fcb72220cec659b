"""The dimension a model finds its data to have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flowzoo.dimension import rank_of_spectrum
from flowzoo.interfaces.metric import Metric, MetricValue, Trained
from flowzoo.validation import check_positive
from flowzoo_bench.metrics.rows import row_mean

_VALUES = 1 << 24  # of the D x D matrices of rows that are asked about at once
_ROWS = 1000  # at once, at most
_SEED = 0  # rows are chosen alike for all methods
_UNIT = "dimensions"


class IntrinsicDimension(Metric):
    """What models say of the dimension of their data, beside the manifold's true dimension.

    Of models with ``intrinsic_dimension``:

    * ``intrinsic_dimension``: its ``reference`` is the true one, where the task knows it. Of a
      model with charts it is the mean over charts, and ``intrinsic_dimension_smallest`` and
      ``intrinsic_dimension_largest`` are those of single charts.
    * ``intrinsic_dimension_error``: absolute difference from the true one, the mean over charts. On
      a union of manifolds, whose rows have a dimension each, it is the mean over the test rows, and
      what is found for a row is the dimension of the chart it is assigned to, or the one number of
      a model without charts. No value for charts that no row can be assigned to.

    Of models with ``spectrum``, ``spectrum_dimension`` and the rest alike: what the eigenvalues of
    their prior say by the rule of ``rank_of_spectrum``, sigma^2 the floor, as papers read it off.

    Of models with ``local_dimension``:

    * ``local_dimension``: mean over test rows, its ``reference`` that of their true dimensions.
    * ``local_dimension_error``: mean over the same rows of the absolute difference from the row's
      true dimension. A row's estimate need not be whole, so neither is the error.

    No values for other models.

    Args:
        local_rows: at most so many test rows, drawn with a fixed seed, are asked their local
            dimension, which may cost O(D^3) each.

    Raises:
        ValueError: ``local_rows`` is not a positive integer.
    """

    def __init__(self, *, local_rows: int = 1000) -> None:
        self.local_rows = check_positive("local_rows", local_rows)

    def compute(self, trained: Trained) -> Sequence[MetricValue]:
        """Ask the model.

        Raises:
            ValueError: the model does not return a number, or a vector of at least one, or one
                number a row; or it assigns rows to charts it has not.
        """
        capabilities = trained.model.capabilities
        values: list[MetricValue] = []
        with torch.no_grad():
            for capability, name in (
                ("intrinsic_dimension", "intrinsic_dimension"),
                ("spectrum", "spectrum_dimension"),
            ):
                if capability in capabilities:
                    values += _one_a_chart(name, _asked(trained, capability), trained)
            if "local_dimension" in capabilities:
                values += _local(trained, self.local_rows)
        return values


def _asked(trained: Trained, capability: str) -> Tensor:
    """The dimension of each chart, () or (K,) float64."""
    found = torch.as_tensor(getattr(trained.model, capability)()).to("cpu", torch.float64)
    if capability == "spectrum":
        return rank_of_spectrum(found, 1.0).dimension.to(torch.float64)
    if found.ndim > 1 or found.numel() == 0:
        raise ValueError(f"{capability}: expected a number or (K,), got {tuple(found.shape)}")
    return found


def _one_a_chart(name: str, found: Tensor, trained: Trained) -> list[MetricValue]:
    true = trained.task.dimension
    charts = found.numel() if found.ndim else None
    reference = None if true is None else float(true)
    values = [MetricValue(name, float(found.mean()), _UNIT, n=charts, reference=reference)]
    if true is not None:
        error = float((found - true).abs().mean())
        values.append(MetricValue(f"{name}_error", error, _UNIT, "min", n=charts))
    elif trained.task.dimensions is not None:
        if found.ndim == 0:
            values.append(_error(name, found, _true(trained)))
        elif "assign" in trained.model.capabilities:
            chart = _by_row(trained, "assign", trained.splits.test).to(torch.int64)
            if bool(((chart < 0) | (chart >= len(found))).any()):
                raise ValueError(
                    f"assign: expected charts 0 to {len(found) - 1}, as {name} has, "
                    f"got {int(chart.min())} to {int(chart.max())}"
                )
            values.append(_error(name, found[chart], _true(trained)))
    if charts is not None:
        for which, value in (("smallest", found.min()), ("largest", found.max())):
            values.append(MetricValue(f"{name}_{which}", float(value), _UNIT))
    return values


def _local(trained: Trained, most: int) -> list[MetricValue]:
    test = trained.splits.test
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(_SEED))[:most]
    found = _by_row(trained, "local_dimension", test[chosen]).to(torch.float64)
    known = trained.task.dimension is not None or trained.task.dimensions is not None
    true = _true(trained)[chosen] if known else None
    mean = row_mean(found)
    values = [
        MetricValue(
            "local_dimension",
            mean.mean,
            _UNIT,
            n=mean.n,
            stderr=mean.stderr,
            reference=None if true is None else float(true.mean()),
        )
    ]
    return values if true is None else [*values, _error("local_dimension", found, true)]


def _true(trained: Trained) -> Tensor:
    """The true dimension at each test row, (N,) float64.

    Raises:
        ValueError: a union of manifolds does not say which row is on which.
    """
    task = trained.task
    if task.dimension is not None:
        return torch.full((len(trained.splits.test),), float(task.dimension), dtype=torch.float64)
    if trained.labels is None or task.dimensions is None:
        raise ValueError("labels: expected the manifold of each row beside dimensions, got None")
    return torch.tensor(task.dimensions, dtype=torch.float64)[trained.labels.test]


def _error(name: str, found: Tensor, true: Tensor) -> MetricValue:
    """Mean over rows of |found - true|."""
    mean = row_mean((found - true).abs())
    return MetricValue(f"{name}_error", mean.mean, _UNIT, "min", n=mean.n, stderr=mean.stderr)


def _by_row(trained: Trained, name: str, x: Tensor) -> Tensor:
    """One number a row of x (N, D) from a method of the model, (N,) on the CPU."""
    ask: Callable[[Tensor], Tensor] = getattr(trained.model, name)
    at_once = max(1, min(_ROWS, _VALUES // x.shape[1] ** 2))
    found = []
    for rows in torch.split(x, at_once):
        value = ask(trained.inside(rows))
        if value.shape != (len(rows),):
            raise ValueError(f"{name}: expected shape ({len(rows)},), got {tuple(value.shape)}")
        found.append(value.cpu())
    return torch.cat(found)
