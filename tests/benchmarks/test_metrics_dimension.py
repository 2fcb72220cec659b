"""Dimensions found row by row, and on unions of manifolds of different dimension."""

from math import isnan, nan, sqrt
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from flowzoo.interfaces import Evaluation, Mixture, Splits, Task, Trained
from flowzoo_bench.member import Member
from flowzoo_bench.metrics import IntrinsicDimension
from flowzoo_bench.metrics import intrinsic_dimension as module
from flowzoo_bench.runspec import Part, RunSpec


class Union(Task):
    """A line (class 0, 30 of the 40 rows) and a plane (class 1), told apart by the first column."""

    dimensions = (1, 2)

    def __init__(self):
        super().__init__(3)

    def splits(self, seed):
        x = torch.randn(120, 3, generator=torch.Generator().manual_seed(seed)).double()
        x[:, 0] = torch.cat(self.labels(seed)) * 2.0 - 1.0
        return Splits(*x.split(40))

    def labels(self, seed):
        return Splits(*((torch.arange(120) % 4) // 3).split(40))


class Known(Task):
    dimension = 2

    def __init__(self):
        super().__init__(3)

    splits = Union.splits
    labels = Union.labels


class Model(Mixture):
    """Answers with what a test gives it; its coordinates are ten times the data's."""

    evaluations: ClassVar = {"exact": Evaluation()}

    def __init__(self, found=None, local=None, charts=None):
        super().__init__(3)
        self.found, self.local, self.charts = found, local, charts
        given = {"intrinsic_dimension": found, "local_dimension": local, "assign": charts}
        self.capabilities = frozenset(name for name, value in given.items() if value is not None)

    def stages(self):
        return ()

    def _log_prob(self, x, evaluation, num_samples, generator):
        raise AssertionError("no density is asked for")

    def _sample(self, num, temperature, generator):
        raise AssertionError("no samples are asked for")

    def intrinsic_dimension(self):
        return self.found

    def local_dimension(self, x):
        return self.local(x)

    def assign(self, x):
        return self.charts(x)


def sides(x):
    """Chart 1 of the plane, seen in the model's coordinates."""
    assert torch.equal(x[:, 0].abs(), torch.full((len(x),), 10.0))
    return (x[:, 0] > 0).long()


def measured(model, task=None, labels=True, **options):
    task = task or Union()
    found = task.labels(0) if labels else None
    run = Trained(
        task, task.splits(0), model, None, None, 1, labels=found, inside=lambda x: (10 * x).float()
    )
    return {value.name: value for value in IntrinsicDimension(**options).compute(run)}


def test_of_a_union_each_row_has_the_dimension_of_its_chart():
    right = measured(Model(torch.tensor([1, 2]), charts=sides))
    assert set(right) == {f"intrinsic_dimension{end}" for end in ("", "_error", *ENDS)}
    error = right["intrinsic_dimension_error"]
    assert (error.value, error.direction, error.n) == (0, "min", 40)
    assert right["intrinsic_dimension"].value == 1.5 and right["intrinsic_dimension"].n == 2
    # a quarter of the rows is on the plane
    swapped = measured(Model(torch.tensor([2, 1]), charts=sides))["intrinsic_dimension_error"]
    assert swapped.value == 1
    half = measured(Model(torch.tensor([1, 3]), charts=sides))["intrinsic_dimension_error"]
    assert half.value == 0.25
    assert half.stderr == pytest.approx(sqrt(0.25 * 0.75 / 39))


ENDS = ("_smallest", "_largest")


def test_one_number_stands_for_all_rows_of_a_union():
    got = measured(Model(2))
    assert set(got) == {"intrinsic_dimension", "intrinsic_dimension_error"}
    assert got["intrinsic_dimension_error"].value == 0.75
    assert got["intrinsic_dimension"].reference is None


def test_charts_of_a_union_that_no_row_is_assigned_to_have_no_error():
    assert "intrinsic_dimension_error" not in measured(Model(torch.tensor([1, 2])))
    with pytest.raises(ValueError, match="assign: expected charts 0 to 0"):
        measured(Model(torch.tensor([1]), charts=sides))
    with pytest.raises(ValueError, match=r"assign: expected shape \(40,\), got \(40, 1\)"):
        measured(Model(torch.tensor([1, 2]), charts=lambda x: sides(x)[:, None]))
    with pytest.raises(ValueError, match="labels: expected the manifold of each row"):
        measured(Model(2), labels=False)


def test_local_dimensions_are_compared_row_by_row():
    right = measured(Model(local=lambda x: 1.5 + 0.5 * x[:, 0].sign()))
    assert set(right) == {"local_dimension", "local_dimension_error"}
    assert right["local_dimension"].value == right["local_dimension"].reference == 1.25
    assert right["local_dimension_error"].value == 0
    # errors of opposite sign do not cancel
    off = measured(Model(local=lambda x: 1.5 - 0.5 * x[:, 0].sign()))["local_dimension_error"]
    assert (off.value, off.n, off.direction) == (1, 40, "min")
    assert isnan(measured(Model(local=lambda x: x[:, 1] * nan))["local_dimension_error"].value)
    with pytest.raises(ValueError, match=r"local_dimension: expected shape \(40,\)"):
        measured(Model(local=lambda x: x))


def test_local_dimensions_of_some_rows_are_compared_with_those_rows():
    asked = []

    def local(x):
        asked.append(len(x))
        return 1.5 + 0.5 * x[:, 0].sign()

    got = measured(Model(local=local), local_rows=15)
    assert asked == [15] and got["local_dimension_error"].n == 15
    assert got["local_dimension_error"].value == 0
    assert got["local_dimension"].value == got["local_dimension"].reference
    with pytest.raises(ValueError, match="local_rows"):
        IntrinsicDimension(local_rows=0)


def test_rows_of_many_columns_are_asked_about_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(module, "_VALUES", 9 * 12)
    sizes = []

    def local(x):
        sizes.append(len(x))
        return 0.0 * x[:, 0]

    assert measured(Model(local=local))["local_dimension"].n == 40
    assert sizes == [12, 12, 12, 4]


def test_where_one_dimension_is_true_charts_count_and_not_rows():
    got = measured(Model(torch.tensor([2, 3]), lambda x: 0.0 * x[:, 1] + 2.25, sides), Known())
    assert got["intrinsic_dimension_error"].value == 0.5 and got["intrinsic_dimension_error"].n == 2
    assert got["local_dimension_error"].value == 0.25 and got["local_dimension"].reference == 2
    task = Known()
    task.dimension = None
    assert set(measured(Model(local=lambda x: x[:, 0]), task)) == {"local_dimension"}
    assert measured(Model()) == {}


def test_a_run_hands_rows_over_in_the_coordinates_it_was_trained_in(faulty: Path):
    task, method = Part(name="scaled"), Part(name="shift", options={"epochs": 1})
    member = Member(RunSpec(task=task, method=method))
    rows = member.inside(member.splits.train)
    assert rows.dtype == torch.float32
    assert torch.allclose(rows.mean(dim=0), torch.zeros(2), atol=1e-4)
    assert torch.allclose(rows.std(dim=0, correction=0), torch.ones(2), atol=1e-4)


def test_the_axes_of_a_spectrum_are_counted_beside_the_dimension():
    class Surface(Model):
        def spectrum(self):
            return torch.tensor([900.0, 400.0, 100.0])

    model = Surface(torch.tensor(2))
    model.capabilities |= {"spectrum"}
    got = measured(model, Known())
    names = ("intrinsic_dimension", "spectrum_dimension")
    assert set(got) == {f"{name}{end}" for name in names for end in ("", "_error")}
    assert [got[name].value for name in names] == [2, 3]
    assert [got[f"{name}_error"].value for name in names] == [0, 1]
