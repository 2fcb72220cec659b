"""The contracts name what breaks them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flowzoo.interfaces import BaseFlow, MetricValue, Partitioner, Step
from flowzoo.validation import check_number


class Broken(BaseFlow):
    """Returns whatever it was given."""

    def __init__(self, answer: Any) -> None:
        super().__init__(2)
        self.answer = answer

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        return self.answer

    _decode = _encode


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (torch.zeros(3, 2), TypeError, r"Step\(value, log_abs_det\) .* got Tensor"),
        ((torch.zeros(3, 2), 0.0), TypeError, r".*of tensors, got tuple"),
        (Step(torch.zeros(3, 1), torch.zeros(3)), ValueError, r".*got \(3, 1\) and \(3,\)"),
        (Step(torch.zeros(3, 2), torch.zeros(())), ValueError, r".*got \(3, 2\) and \(\)"),
        (Step(torch.zeros(3, 2), torch.zeros(3, 1)), ValueError, r".*got \(3, 2\) and \(3, 1\)"),
    ],
)
def test_a_flow_must_return_a_step(answer: Any, error: type[Exception], message: str) -> None:
    flow = Broken(answer)
    with pytest.raises(error, match=f"^Broken.encode: expected {message}"):
        flow.encode(torch.zeros(3, 2))
    with pytest.raises(error, match=f"^Broken.decode: expected {message}"):
        flow.decode(torch.zeros(3, 2))


class Short(Partitioner):
    """Forgets its last chart."""

    def __init__(self) -> None:
        super().__init__(2, num_charts=4, code_features=2)
        self.register_buffer("codes", torch.zeros(4, 2))

    def _distances(self, x: Tensor) -> Tensor:
        return torch.cdist(x, self.codes)[:, :3]

    def stages(self) -> tuple[()]:
        return ()


def test_a_partitioner_must_measure_every_chart() -> None:
    message = r"Short.distances: expected shape \(5, 4\), got \(5, 3\)"
    with pytest.raises(ValueError, match=message):
        Short().assign(torch.zeros(5, 2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"direction": "maximum"}, "m: direction: expected 'max', 'min' or 'none', got 'maximum'"),
        ({"value": "3"}, "m: value: expected a number, got '3'"),
        ({"value": None}, "m: value: expected a number, got None"),
        ({"value": torch.tensor(1.0)}, "m: value: expected a number, got tensor"),
        ({"stderr": "x"}, "m: stderr: expected a number"),
        ({"n": 2.5}, "m: n: expected Integral, got 2.5"),
        ({"unit": None}, "m: unit: expected str, got None"),
        ({"likelihood": 3}, "m: likelihood: expected str, got 3"),
        ({"name": ""}, "name: expected a text, got ''"),
    ],
)
def test_a_metric_value_holds_what_a_record_can(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MetricValue(**{"name": "m", "value": 1.0, **fields})


def test_a_metric_value_may_be_of_numpy_and_not_finite() -> None:
    import numpy as np

    assert MetricValue("m", np.float32(2.0), n=np.int64(3)).value == 2.0
    assert MetricValue("m", float("nan")).n is None


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "a", None, True, 2.0])
def test_numbers_out_of_range_are_named(value: Any) -> None:
    with pytest.raises(ValueError, match=r"x: expected a number in \[0, 1\], got"):
        check_number("x", value, most=1.0)
    assert check_number("x", 1, most=1.0) == 1.0
    with pytest.raises(ValueError, match="x: expected a finite number > 0, got 0"):
        check_number("x", 0, strict=True)
