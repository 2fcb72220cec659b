"""Whether a model's embedding keeps classes apart that the model was never told of."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import torch
from torch import Tensor

from flowzoo.interfaces.metric import Metric, MetricValue, Trained
from flowzoo.validation import check_positive
from flowzoo_bench.metrics.rows import row_mean

_VALUES = 1 << 24  # distances worked on at once
_ORDER_SEED = 0  # rows are drawn alike for all methods


class EmbeddingSeparability(Metric):
    """``embedding_knn_accuracy``: share of test rows whose class their nearest neighbours name.

    A test row's embedding takes the class most of the embeddings of its k nearest training rows
    have, by Euclidean distance in the embedding as it is, neither centred nor scaled; of classes
    with equally many, the one whose neighbour is nearest. Nothing is tuned. ``reference`` is the
    same score of the data rows themselves. NaN where an embedding is not finite. No value for
    models without ``embed``, for tasks without labels or with a single class, or where test rows
    have classes that no training row has.

    Args:
        k: how many neighbours.
        max_train: at most so many training rows are neighbours, drawn with a fixed seed.
        max_test: at most so many test rows are scored, drawn likewise.

    Raises:
        ValueError: an option is not a positive integer.
    """

    def __init__(self, *, k: int = 5, max_train: int = 10_000, max_test: int = 2_500) -> None:
        self.k = check_positive("k", k)
        self.max_train = check_positive("max_train", max_train)
        self.max_test = check_positive("max_test", max_test)

    def compute(self, trained: Trained) -> Sequence[MetricValue]:
        """Embed rows, find neighbours, count.

        Raises:
            ValueError: fewer than k training rows.
        """
        if trained.embed is None or trained.labels is None:
            return []
        if not bool(torch.isin(trained.labels.test, trained.labels.train).all()):
            return []
        if bool((trained.labels.train == trained.labels.train[0]).all()):  # nothing to tell apart
            return []
        train, labels = _some(trained.splits.train, trained.labels.train, self.max_train)
        test, truth = _some(trained.splits.test, trained.labels.test, self.max_test)
        if len(train) < self.k:
            raise ValueError(f"k: expected at most the {len(train)} training rows, got {self.k}")
        right = self._right(trained.embed(train), labels, trained.embed(test), truth)
        raw = self._right(train, labels, test, truth)
        mean = row_mean(right)
        return [
            MetricValue(
                "embedding_knn_accuracy",
                mean.mean,
                direction="max",
                n=mean.n,
                stderr=mean.stderr,
                reference=float(raw.mean()),
            )
        ]

    def _right(self, train: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> Tensor:
        """1 for rows that are given their own class, else 0; all NaN if a row is not finite."""
        if not bool(torch.isfinite(train).all() and torch.isfinite(test).all()):
            return torch.full((len(test),), nan, dtype=torch.float64)
        named = [
            knn_classes(part, train, labels, self.k)
            for part in torch.split(test, max(1, _VALUES // len(train)))
        ]
        return (torch.cat(named) == truth).to(torch.float64)


def knn_classes(x: Tensor, train: Tensor, labels: Tensor, k: int) -> Tensor:
    """The class of most of the k training rows nearest to x (N, F); ties go to the nearest, (N,).

    Args:
        x: (N, F) floating.
        train: (M, F), M >= k.
        labels: (M,) int64 >= 0.
        k: how many neighbours.

    Example:
        >>> train, labels = torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([4, 2, 2])
        >>> knn_classes(torch.tensor([[0.1]]), train, labels, 1)
        tensor([4])
    """
    centre = train.mean(dim=0)  # the matrix product then rounds at the scale of the spread
    nearest = torch.cdist(x - centre, train - centre).topk(k, dim=1, largest=False).indices
    named = labels[nearest]
    votes = torch.zeros(len(x), int(labels.max()) + 1, dtype=torch.float64)
    # 2^-r more for rank r: below 1 in all, so it only decides between equal counts
    weights = 1 + torch.arange(1, k + 1, dtype=torch.float64).neg().exp2()
    votes.scatter_add_(1, named, weights.expand(len(x), k))
    return votes.argmax(dim=1)


def _some(x: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(_ORDER_SEED)
    chosen = torch.randperm(len(x), generator=generator)[:count]
    return x[chosen], labels[chosen]
