"""How samples of images compare with real ones, on the features of a small classifier."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from flowzoo.interfaces.metric import Metric, MetricValue, Trained
from flowzoo.interfaces.task import Splits
from flowzoo.validation import check_positive
from flowzoo_bench.metrics.features.frechet import frechet_distance
from flowzoo_bench.metrics.features.images import ImageFeatures
from flowzoo_bench.metrics.features.kernel import kernel_distance
from flowzoo_bench.metrics.features.neighbours import neighbourhoods
from flowzoo_bench.metrics.knobs import knob_name
from flowzoo_bench.metrics.rows import row_mean

_FEATURES = "[classifier]"
_CHOSEN = "[chosen s]"
_ORDER_SEED = 0  # real rows are drawn alike for all methods
_HIGHER = frozenset({"precision", "recall", "coverage"})


class _Setting(NamedTuple):
    """How samples are drawn; the noise scale counts only for models that have it."""

    noise_scale: float
    temperature: float


class _Set(NamedTuple):
    """Images as the classifier sees them: features (N, 64) and logits (N, classes)."""

    features: Tensor
    logits: Tensor


class ImageQuality(Metric):
    """Samples against test images on the 64 features of a classifier of the training images.

    The classifier is trained by the harness on nine tenths of the task's training images, with a
    seed of its own, and kept for all runs on the same data; these are its features, not those of
    the Inception network, and no number here is an FID. Samples become whole levels, as the test
    images do, by rounding down and clamping. As many samples as test rows are compared: the
    smallest of ``num_samples`` and the numbers of test and validation rows. Every ``reference`` is
    the same number for validation images in the place of samples: the floor, or the ceiling, for
    real images. Where validation and test images show different scenes it says how far apart these
    are, and samples that resemble the training scenes may be nearer.

    * ``frechet_distance[classifier]``: of Gaussians with the features' moments.
    * ``kernel_distance[classifier]``: squared maximum mean discrepancy, cubic kernel, unbiased,
      mean over blocks of 500.
    * ``precision[classifier]``, ``recall``, ``density``, ``coverage``: by k-th neighbours.
    * ``class_histogram_distance[classifier]``: total variation between the shares of the classes
      among samples and test images, both as the classifier sees them.
    * ``classifier_accuracy``: of the classifier on all test images, or, where they have classes it
      never saw, ``classifier_accuracy[held apart]`` on the remaining tenth of the training images.
      Its unit names the hash of its weights. Where images overlap, as patches of one photo do, the
      latter flatters: part of what is held apart was seen in training.

    Samples drawn at a noise scale or temperature other than 1 add ``[s=...]`` and ``[t=...]``. All
    numbers of a setting are NaN where one of its samples is not finite. No values for tasks without
    images of known levels, without labels or with a single class.

    Args:
        num_samples: at most so many samples are compared.
        noise_scales: settings of s, for models with that capability; others are drawn without.
        temperatures: settings of t.
        crossed: every s with every t; else each s at t = 1 and each t at s = 1.
        choose_noise_scale: for models with the capability, also choose the s of ``noise_scales``
            whose samples at t = 1 (a draw of their own) have the smallest Frechet distance to
            the held-apart tenth of the training images: ``chosen_noise_scale``, and
            ``frechet_distance[classifier][chosen s]`` against the test images.
        k: which neighbour precision, recall, density and coverage reach to.

    Raises:
        ValueError: a number out of range, or an empty list.
    """

    def __init__(
        self,
        *,
        num_samples: int = 2000,
        noise_scales: Sequence[float] = (1.0,),
        temperatures: Sequence[float] = (1.0,),
        crossed: bool = True,
        choose_noise_scale: bool = False,
        k: int = 5,
    ) -> None:
        self.num_samples = check_positive("num_samples", num_samples)
        self.noise_scales = _knobs("noise_scales", noise_scales, lowest_allowed=True)
        self.temperatures = _knobs("temperatures", temperatures, lowest_allowed=False)
        for name, flag in (("crossed", crossed), ("choose_noise_scale", choose_noise_scale)):
            if not isinstance(flag, bool):
                raise ValueError(f"{name}: expected true or false, got {flag!r}")
        self.crossed, self.choose_noise_scale = crossed, choose_noise_scale
        self.k = check_positive("k", k)

    def compute(self, trained: Trained) -> Sequence[MetricValue]:
        """Draw samples at every setting and compare them.

        Raises:
            ValueError: not more than k test or validation rows, or samples of another shape.
        """
        features, labels = ImageFeatures.of(trained), trained.labels
        if features is None or labels is None:
            return []
        splits = trained.splits
        count = min(self.num_samples, len(splits.test), len(splits.valid))
        if count <= self.k:
            raise ValueError(f"k: expected fewer than the {count} rows compared, got {self.k}")
        test = _Set(*features(_some(splits.test, count)))
        floor = self._scores(test, _Set(*features(_some(splits.valid, count))))
        values = [_accuracy(features, splits.test, labels)]
        for setting in self._settings(trained):
            samples = self._draw(trained, features, setting, count, trained.seed)
            scores = self._scores(test, samples)
            for name, score in scores.items():
                full = knob_name(f"{name}{_FEATURES}", **setting._asdict())
                values.append(_value(full, score, floor[name], count))
        if self.choose_noise_scale and _has_noise_scale(trained):
            values += self._chosen(trained, features, test, floor["frechet_distance"], count)
        return values

    def _settings(self, trained: Trained) -> list[_Setting]:
        scales = self.noise_scales if _has_noise_scale(trained) else (1.0,)
        if self.crossed:
            return [_Setting(s, t) for t in self.temperatures for s in scales]
        both = [_Setting(s, 1.0) for s in scales] + [_Setting(1.0, t) for t in self.temperatures]
        return list(dict.fromkeys(both))

    def _draw(
        self,
        trained: Trained,
        features: ImageFeatures,
        setting: _Setting,
        count: int,
        seed: int,
    ) -> _Set:
        scale = setting.noise_scale if _has_noise_scale(trained) else None
        x = trained.sample(count, seed, temperature=setting.temperature, noise_scale=scale)
        if x.shape != (count, trained.task.features):
            raise ValueError(
                f"sample: expected shape ({count}, {trained.task.features}), got {tuple(x.shape)}"
            )
        return _Set(*features(x))

    def _scores(self, real: _Set, other: _Set) -> dict[str, tuple[float, float | None]]:
        """Each number and its standard error, by name."""
        kernel = kernel_distance(other.features, real.features)
        shares = neighbourhoods(real.features, other.features, k=self.k)
        return {
            "frechet_distance": (frechet_distance(other.features, real.features), None),
            "kernel_distance": (kernel.mean, kernel.stderr),
            **{name: (share, None) for name, share in shares._asdict().items()},
            "class_histogram_distance": (_class_distance(other.logits, real.logits), None),
        }

    def _chosen(
        self,
        trained: Trained,
        features: ImageFeatures,
        test: _Set,
        floor: tuple[float, float | None],
        count: int,
    ) -> list[MetricValue]:
        """The best noise scale on training images, and how it does on test images."""
        apart = _some(features.held_apart, min(count, len(features.held_apart)))
        held = _Set(*features(apart)).features
        if len(held) < 2:
            return []
        found = {}
        for scale in self.noise_scales:
            setting = _Setting(scale, 1.0)
            # a draw of its own: the one that is reported has had no part in the choice
            drawn = self._draw(trained, features, setting, len(held), trained.seed + 1)
            found[scale] = frechet_distance(drawn.features, held)
        finite = {scale: distance for scale, distance in found.items() if isfinite(distance)}
        best = min(finite, key=lambda scale: finite[scale]) if finite else nan
        score = nan
        if finite:
            drawn = self._draw(trained, features, _Setting(best, 1.0), count, trained.seed)
            score = frechet_distance(drawn.features, test.features)
        name = f"frechet_distance{_FEATURES}{_CHOSEN}"
        return [
            MetricValue("chosen_noise_scale", best, n=len(held)),
            _value(name, (score, None), floor, count),
        ]


def _value(
    name: str, score: tuple[float, float | None], floor: tuple[float, float | None], count: int
) -> MetricValue:
    base = name.partition("[")[0]
    return MetricValue(
        name,
        score[0],
        # density passes 1 where samples crowd: more is not better
        direction="none" if base == "density" else "max" if base in _HIGHER else "min",
        n=count,
        stderr=score[1],
        reference=floor[0],
    )


def _has_noise_scale(trained: Trained) -> bool:
    return "noise_scale" in trained.model.capabilities


def _some(x: Tensor, count: int) -> Tensor:
    """``count`` rows of x, the same for all methods: rows may be sorted by class or place."""
    generator = torch.Generator().manual_seed(_ORDER_SEED)
    return x[torch.randperm(len(x), generator=generator)[:count]]


def _accuracy(features: ImageFeatures, test: Tensor, labels: Splits) -> MetricValue:
    name, rows, truth = "classifier_accuracy", test, labels.test
    if not bool(torch.isin(labels.test, labels.train).all()):
        name = "classifier_accuracy[held apart]"
        rows, truth = features.held_apart, features.held_apart_labels
    mean = row_mean(features(rows)[1].argmax(dim=1) == truth)
    unit = f"weights {features.weights}"
    return MetricValue(name, mean.mean, unit, n=mean.n, stderr=mean.stderr)


def _class_distance(x: Tensor, y: Tensor) -> float:
    """Total variation between the shares of the classes: 0 for equal shares, 1 for disjoint."""
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        return nan
    shares = [
        torch.bincount(logits.argmax(dim=1), minlength=x.shape[1]).to(torch.float64) / len(logits)
        for logits in (x, y)
    ]
    return 0.5 * float((shares[0] - shares[1]).abs().sum())


def _knobs(name: str, values: Sequence[float], *, lowest_allowed: bool) -> tuple[float, ...]:
    """Distinct finite numbers, above 0 or, with ``lowest_allowed``, at least 0."""
    bound = ">= 0" if lowest_allowed else "> 0"
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) == 0:
        raise ValueError(f"{name}: expected a list of numbers {bound}, got {values!r}")
    for value in values:
        good = isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
        if not good or value < 0 or (value == 0 and not lowest_allowed):
            raise ValueError(f"{name}: expected finite numbers {bound}, got {value!r}")
    return tuple(dict.fromkeys(float(value) for value in values))
