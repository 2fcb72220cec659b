"""Classes in an embedding by nearest neighbours, and the dimension a model finds."""

from math import isnan, nan
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from flowzoo.interfaces import Evaluation, Mixture, Splits, Task, Trained
from flowzoo_bench.metrics import EmbeddingSeparability, IntrinsicDimension
from flowzoo_bench.metrics import embedding_separability as module
from flowzoo_bench.metrics.embedding_separability import knn_classes


class Blobs(Task):
    """Three overlapping Gaussian classes in the plane, and a third column of noise."""

    dimension = 2

    def __init__(self):
        super().__init__(3)

    def splits(self, seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(900, 3, generator=generator, dtype=torch.float64)
        centres = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
        x = x * torch.tensor([1.0, 1.0, 100.0]) + centres[torch.cat([*self.labels(seed)])]
        return Splits(*x.split([500, 100, 300]))

    def labels(self, seed):
        labels = torch.randint(0, 3, (900,), generator=torch.Generator().manual_seed(seed + 1))
        return Splits(*labels.split([500, 100, 300]))


class Model(Mixture):
    evaluations: ClassVar = {"exact": Evaluation()}

    def stages(self):
        return ()

    def _log_prob(self, x, evaluation, num_samples, generator):
        raise AssertionError("no density is asked for")

    def _sample(self, num, temperature, generator):
        raise AssertionError("no samples are asked for")


def trained(embed=None, *, model=None, labels=True, task=None):
    task = task or Blobs()
    found = task.labels(0) if labels else None
    model = model or Model(3)
    return Trained(task, task.splits(0), model, None, None, 1, embed=embed, labels=found)


def accuracy(embed, **options):
    (value,) = EmbeddingSeparability(**options).compute(trained(embed))
    assert value.name == "embedding_knn_accuracy" and value.direction == "max"
    return value


@pytest.mark.parametrize("k", [1, 3, 8])
def test_classes_equal_those_of_scikit_learn_where_votes_decide(k):
    rng = np.random.default_rng(k)
    train, labels = 100 + rng.normal(size=(200, 4)), rng.integers(0, 3, 200)
    x = 100 + rng.normal(size=(150, 4))
    got = knn_classes(*map(torch.as_tensor, (x, train, labels)), k)
    share = np.sort(KNeighborsClassifier(k).fit(train, labels).predict_proba(x), axis=1)
    clear = share[:, -1] > share[:, -2]
    expected = KNeighborsClassifier(k).fit(train, labels).predict(x)
    assert clear.sum() > 75
    np.testing.assert_array_equal(got.numpy()[clear], expected[clear])


def test_equal_votes_go_to_the_nearest():
    train = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]]).double()
    labels = torch.tensor([3, 0, 0, 3, 1])
    assert knn_classes(torch.tensor([[0.9]]).double(), train, labels, 4).tolist() == [3]
    assert knn_classes(torch.tensor([[2.4]]).double(), train, labels, 4).tolist() == [0]
    assert knn_classes(torch.tensor([[0.9]]).double(), train, labels, 3).tolist() == [0]


def test_accuracy_is_that_of_scikit_learn_and_the_reference_that_of_the_rows(monkeypatch):
    task = Blobs()
    (train, _, test), (labels, _, truth) = task.splits(0), task.labels(0)
    plane = accuracy(lambda x: x[:, :2], k=1)

    def expected(columns):
        found = KNeighborsClassifier(1).fit(train[:, columns], labels).predict(test[:, columns])
        return (found == truth.numpy()).mean()

    assert plane.value == pytest.approx(expected([0, 1]))
    assert plane.reference == pytest.approx(expected([0, 1, 2]))
    assert plane.n == 300 and plane.value > plane.reference  # without the column of noise
    assert plane.stderr == pytest.approx((plane.value * (1 - plane.value) / 299) ** 0.5)
    own = accuracy(lambda x: x)
    assert own.value == own.reference
    moved = accuracy(lambda x: 3 * x.flip(1) + 50)  # distances are as they are, but for a factor
    assert moved.value == own.value
    monkeypatch.setattr(module, "_VALUES", 1700)
    assert accuracy(lambda x: x) == own


def test_an_embedding_that_forgets_is_at_chance():
    got = accuracy(lambda x: torch.sin(1e5 * x))
    assert abs(got.value - 1 / 3) < 0.1 < got.reference - got.value


def test_rows_are_limited_alike_for_all():
    seen = []

    def embed(x):
        seen.append(x)
        return x

    got = accuracy(embed, max_train=50, max_test=20)
    assert [len(x) for x in seen] == [50, 20] and got.n == 20
    accuracy(embed, max_train=50, max_test=20)
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])


def test_what_is_not_finite_or_not_there():
    def broken(x):
        return x.index_put((torch.tensor([2]), torch.tensor([1])), torch.tensor(nan).double())

    got = accuracy(broken)
    assert isnan(got.value) and not isnan(got.reference)
    assert EmbeddingSeparability().compute(trained(None)) == []
    assert EmbeddingSeparability().compute(trained(lambda x: x, labels=False)) == []
    run = trained(lambda x: x)
    run.labels.test[7] = 3  # a class that no training row has
    assert EmbeddingSeparability().compute(run) == []
    run = trained(lambda x: x)
    for classes in run.labels:
        classes.fill_(2)
    assert EmbeddingSeparability().compute(run) == []  # a single class
    with pytest.raises(ValueError, match="k: expected at most the 500 training rows, got 501"):
        accuracy(lambda x: x, k=501)
    for name in ("k", "max_train", "max_test"):
        with pytest.raises(ValueError, match=name):
            EmbeddingSeparability(**{name: 0})


class Knows(Model):
    capabilities = frozenset({"intrinsic_dimension"})

    def __init__(self, found):
        super().__init__(3)
        self.found = found

    def intrinsic_dimension(self):
        return self.found


def dimensions(found, task=None):
    values = IntrinsicDimension().compute(trained(model=Knows(found), task=task))
    return {value.name.removeprefix("intrinsic_dimension"): value for value in values}


def test_the_dimension_a_model_finds_stands_beside_the_true_one():
    got = dimensions(torch.tensor(3))
    assert set(got) == {"", "_error"}
    assert (got[""].value, got[""].reference, got[""].direction) == (3, 2, "none")
    assert (got["_error"].value, got["_error"].direction) == (1, "min")
    unknown = Blobs()
    unknown.dimension = None
    assert set(dimensions(2, unknown)) == {""} and dimensions(2, unknown)[""].reference is None


def test_charts_have_a_mean_and_ends():
    got = dimensions(torch.tensor([1, 2, 3, 2]))
    assert (got[""].value, got["_smallest"].value, got["_largest"].value) == (2, 1, 3)
    assert got["_error"].value == 0.5  # errors of charts do not cancel
    assert got[""].n == 4
    assert IntrinsicDimension().compute(trained()) == []
    with pytest.raises(ValueError, match="intrinsic_dimension: expected a number"):
        dimensions(torch.zeros(2, 2))
