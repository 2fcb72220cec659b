"""Sample quality on images whose faults are known, and settings of the sampler."""

from math import isnan, nan
from typing import ClassVar

import pytest
import torch

from flowzoo.interfaces import Evaluation, Mixture, Splits, Task, Trained
from flowzoo_bench.metrics import ImageQuality
from flowzoo_bench.metrics.features.frechet import frechet_distance
from flowzoo_bench.metrics.features.images import ImageFeatures

LEVELS = 8
ALL = torch.arange(4)
NAMES = {
    f"{name}[classifier]"
    for name in (
        "frechet_distance",
        "kernel_distance",
        "precision",
        "recall",
        "density",
        "coverage",
        "class_histogram_distance",
    )
}


class Quarters(Task):
    """8 x 8 images with one bright quarter, which is their class."""

    shape = (1, 8, 8)
    levels = LEVELS

    def __init__(self, classes=(0, 1, 2, 3), test_classes=None):
        super().__init__(64)
        self.classes = torch.tensor(classes)
        self.test_classes = torch.tensor(test_classes or classes)

    def splits(self, seed):
        return Splits(
            draw(400, seed, self.classes),
            draw(120, seed + 1, self.classes),
            draw(100, seed + 2, self.test_classes),
        )

    def labels(self, seed):
        counts = ((400, self.classes), (120, self.classes), (100, self.test_classes))
        return Splits(*(classes.repeat(rows)[:rows] for rows, classes in counts))


def draw(rows, seed, classes=ALL):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 5, (rows, 8, 8), generator=generator).double()
    bright = classes.repeat(rows)[:rows, None, None]
    half = torch.arange(8) // 4
    x += 3 * ((half[:, None] == bright // 2) & (half == bright % 2))
    return x.flatten(1) + torch.rand(rows, 64, generator=generator, dtype=torch.float64)


class Plain(Mixture):
    evaluations: ClassVar = {"exact": Evaluation()}

    def stages(self):
        return ()

    def _log_prob(self, x, evaluation, num_samples, generator):
        raise AssertionError("no density is asked for")

    def _sample(self, num, temperature, generator):
        raise AssertionError("samples come from Trained")


class Noisy(Plain):
    capabilities = frozenset({"noise_scale"})


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """One classifier for the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def trained(sample, *, task=None, model=Plain, labels=True):
    task = Quarters() if task is None else task
    found = task.labels(0) if labels else None
    return Trained(task, task.splits(0), model(task.features), None, sample, 11, labels=found)


def measured(sample, metric=None, **options):
    values = (metric or ImageQuality()).compute(trained(sample, **options))
    assert len({value.name for value in values}) == len(values)
    return {value.name: value for value in values}


def real(num, seed, **knobs):
    return draw(num, 1000 + seed)


def test_real_images_score_as_the_reference_does():
    got = measured(real)
    assert set(got) == {"classifier_accuracy", *NAMES}
    assert got["classifier_accuracy"].value > 0.97 and got["classifier_accuracy"].n == 100
    assert got["classifier_accuracy"].unit.startswith("weights ")
    frechet = got["frechet_distance[classifier]"]
    assert frechet.n == 100 and frechet.direction == "min"  # as many as test rows, not 2000
    assert frechet.value == pytest.approx(frechet.reference, rel=0.5)
    for name in ("precision", "recall", "density", "coverage"):
        value = got[f"{name}[classifier]"]
        assert value.value == pytest.approx(value.reference, abs=0.15)


def test_the_reference_is_the_score_of_validation_images():
    task = Quarters()
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))[:100]
    got = measured(lambda num, seed, **knobs: task.splits(0).valid[order])
    for name in NAMES:
        assert got[name].value == got[name].reference
    test = measured(lambda num, seed, **knobs: task.splits(0).test)
    assert test["frechet_distance[classifier]"].value == pytest.approx(0, abs=1e-6)
    assert test["coverage[classifier]"].value == test["recall[classifier]"].value == 1
    assert test["class_histogram_distance[classifier]"].value == 0


@pytest.mark.parametrize("sizes, count", [((400, 40, 100), 40), ((400, 120, 50), 50)])
def test_samples_and_the_floor_are_of_equal_size(sizes, count):
    """Distances of few rows are larger: a floor of fewer rows than samples would be no floor."""
    task, asked = Quarters(), []
    task.splits = lambda seed: Splits(*(draw(rows, seed + i) for i, rows in enumerate(sizes)))
    task.labels = lambda seed: Splits(*(ALL.repeat(rows)[:rows] for rows in sizes))

    def sample(num, seed, **knobs):
        asked.append(num)
        return real(num, seed)

    got = measured(sample, task=task)
    assert asked == [count] and {got[name].n for name in NAMES} == {count}
    features = ImageFeatures.of(trained(sample, task=task))
    order = torch.Generator().manual_seed(0)
    valid = task.splits(0).valid
    test = task.splits(0).test
    rows = [
        features(x[torch.randperm(len(x), generator=order.manual_seed(0))[:count]])[0]
        for x in (valid, test)
    ]
    assert got["frechet_distance[classifier]"].reference == frechet_distance(*rows)


def test_every_fault_shows_where_it_should():
    def noise(num, seed, **knobs):
        return LEVELS * torch.rand(num, 64, generator=torch.Generator().manual_seed(seed))

    def one_class(num, seed, **knobs):
        return draw(num, seed, torch.tensor([2]))

    good, noisy, collapsed = measured(real), measured(noise), measured(one_class)
    for worse in (noisy, collapsed):
        for name in ("frechet_distance", "kernel_distance"):
            assert worse[f"{name}[classifier]"].value > 5 * good[f"{name}[classifier]"].reference
    assert noisy["precision[classifier]"].value < 0.6
    assert collapsed["class_histogram_distance[classifier]"].value == pytest.approx(0.75, abs=0.03)
    assert collapsed["precision[classifier]"].value > 0.8
    assert collapsed["recall[classifier]"].value < 0.5
    assert collapsed["coverage[classifier]"].value < 0.5


def test_only_levels_count():
    def other_noise(num, seed, **knobs):
        whole = real(num, seed).floor()
        return torch.where(whole == LEVELS - 1, whole + 3.5, whole - 0.9 * (whole == 0) + 0.01)

    assert measured(real) == measured(other_noise)


def test_settings_are_passed_on_and_named():
    asked = []

    def sample(num, seed, *, temperature=1.0, noise_scale=None):
        asked.append((num, seed, temperature, noise_scale))
        return real(num, seed)

    metric = ImageQuality(num_samples=50, noise_scales=[0, 1, 0.5], temperatures=[1.0, 2])
    got = measured(sample, metric, model=Noisy)
    assert asked == [(50, 11, t, s) for t in (1.0, 2.0) for s in (0.0, 1.0, 0.5)]
    suffixes = ["", "[s=0]", "[s=0.5]", "[t=2]", "[s=0][t=2]", "[s=0.5][t=2]"]
    assert set(got) == {"classifier_accuracy"} | {n + suffix for n in NAMES for suffix in suffixes}
    asked.clear()
    got = measured(sample, metric)  # a model without that knob
    assert asked == [(50, 11, t, None) for t in (1.0, 2.0)]
    assert set(got) == {"classifier_accuracy"} | {
        n + suffix for n in NAMES for suffix in ("", "[t=2]")
    }
    asked.clear()
    apart = ImageQuality(num_samples=50, noise_scales=[0, 1], temperatures=[1, 2], crossed=False)
    measured(sample, apart, model=Noisy)
    assert asked == [(50, 11, 1.0, 0.0), (50, 11, 1.0, 1.0), (50, 11, 2.0, 1.0)]


def test_a_noise_scale_is_chosen_on_training_images_and_scored_on_test_images():
    task, drawn = Quarters(), []

    def sample(num, seed, *, temperature=1.0, noise_scale=None):
        drawn.append((num, seed, noise_scale))
        x = draw(num, seed)
        return torch.lerp(x, x.mean(), 2 * abs(noise_scale - 0.5))  # grey at 0 and 1

    metric = ImageQuality(noise_scales=[0.0, 0.5, 1.0], choose_noise_scale=True)
    got = measured(sample, metric, model=Noisy)
    assert got["chosen_noise_scale"].value == 0.5 and got["chosen_noise_scale"].n == 40
    best = got["frechet_distance[classifier][chosen s]"]
    assert best == best.__class__(
        **{**vars(got["frechet_distance[classifier][s=0.5]"]), "name": best.name}
    )
    # the choice is made on draws of their own
    assert [d for d in drawn if d[0] == 40] == [(40, 12, s) for s in (0.0, 0.5, 1.0)]
    # ... against training images that the classifier has not seen
    features = ImageFeatures.of(trained(sample, task=task, model=Noisy))
    assert torch.equal(features.held_apart, task.splits(0).train[9::10])
    held, _ = features(features.held_apart)
    distances = {
        s: frechet_distance(features(sample(40, 12, noise_scale=s))[0], held) for s in (0, 0.5)
    }
    assert distances[0.5] < distances[0]
    assert "chosen_noise_scale" not in measured(sample_plain, metric)


def sample_plain(num, seed, *, temperature=1.0, noise_scale=None):
    assert noise_scale is None
    return real(num, seed)


@pytest.mark.parametrize("bad", [nan, float("inf")])
def test_samples_that_are_not_finite_are_not_hidden(bad):
    def sample(num, seed, *, temperature=1.0, noise_scale=None):
        x = real(num, seed)
        if noise_scale == 0:
            x[3, 63] = bad
        return x

    metric = ImageQuality(noise_scales=[0, 1], choose_noise_scale=True)
    got = measured(sample, metric, model=Noisy)
    assert all(isnan(got[f"{name}[s=0]"].value) for name in NAMES)
    assert not any(isnan(got[name].value) for name in NAMES)
    assert not any(isnan(got[f"{name}[s=0]"].reference) for name in NAMES)
    assert got["chosen_noise_scale"].value == 1
    none = measured(sample, ImageQuality(noise_scales=[0], choose_noise_scale=True), model=Noisy)
    assert isnan(none["chosen_noise_scale"].value)
    assert isnan(none["frechet_distance[classifier][chosen s]"].value)


def test_no_values_without_labels_levels_shape_or_classes():
    assert ImageQuality().compute(trained(real, labels=False)) == []
    for name in ("shape", "levels"):
        task = Quarters()
        setattr(task, name, None)
        assert ImageQuality().compute(trained(real, task=task)) == []
    assert ImageQuality().compute(trained(real, task=Quarters(classes=(1,)))) == []


def test_classes_that_were_never_seen_are_no_measure_of_the_classifier():
    got = measured(real, task=Quarters(classes=(0, 1), test_classes=(2, 3)))
    assert "classifier_accuracy" not in got
    assert got["classifier_accuracy[held apart]"].n == 40
    assert got["classifier_accuracy[held apart]"].value > 0.9
    assert got["class_histogram_distance[classifier]"].value <= 1


def test_the_numbers_are_the_same_again_and_the_generator_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = measured(real)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    assert measured(real) == first


def test_bad_options_and_samples_are_named():
    for options, message in (
        ({"num_samples": 0}, "num_samples"),
        ({"k": 0}, "k: expected a positive"),
        ({"noise_scales": []}, "noise_scales: expected a list of numbers >= 0"),
        ({"noise_scales": [-0.1]}, "noise_scales: expected finite numbers >= 0, got -0.1"),
        ({"noise_scales": 1.0}, "noise_scales: expected a list"),
        ({"temperatures": [0.0]}, "temperatures: expected finite numbers > 0, got 0.0"),
        ({"temperatures": ["1"]}, "temperatures"),
        ({"crossed": 1}, "crossed: expected true or false"),
    ):
        with pytest.raises(ValueError, match=message):
            ImageQuality(**options)
    with pytest.raises(ValueError, match=r"expected shape \(100, 64\), got \(100, 3\)"):
        measured(lambda num, seed, **knobs: torch.zeros(num, 3))
    with pytest.raises(ValueError, match="k: expected fewer than the 100 rows compared"):
        measured(real, ImageQuality(k=100))
