"""The four metrics on models whose right answers are known."""

import logging
from collections import OrderedDict
from math import inf, isnan, log, nan, sqrt

import pytest
import torch

from flowzoo.interfaces.measure import LEBESGUE, LOWER_BOUND, Evaluation, Likelihood, Measure
from flowzoo.interfaces.metric import Trained
from flowzoo.interfaces.mixture import Mixture
from flowzoo.interfaces.task import Splits, Task
from flowzoo_bench.metrics import LogLikelihood, SampleKDE, SupportDistance, Throughput
from flowzoo_bench.metrics import sample_kde as sample_kde_module
from flowzoo_bench.metrics.kernel_density import kde_log_prob
from flowzoo_bench.tasks import ArrayTask, BreastCancer, Digits, Helix, Spherical, Standardizer


class Known(Mixture):
    """Scores and samples that a test gives it."""

    def __init__(self, features, evaluations=None):
        super().__init__(features)
        self.evaluations = evaluations or {"full": Evaluation()}
        self.weight = torch.nn.Parameter(torch.zeros(7, dtype=torch.float64))
        self.register_buffer("rows", torch.zeros(4, 3, dtype=torch.float64))

    def stages(self):
        return ()

    def _log_prob(self, x, evaluation, num_samples, generator):
        raise AssertionError("metrics must score through Trained.log_prob")

    def _sample(self, num, temperature, generator):
        raise AssertionError("metrics must sample through Trained.sample")


def trained(task, log_prob=None, sample=None, evaluations=None, seed=11):
    calls = []

    def recorded_sample(num, seed):
        calls.append((num, seed))
        return sample(num, seed)

    run = Trained(
        task,
        task.splits(0),
        Known(task.features, evaluations),
        log_prob or (lambda x, evaluation: task.log_prob(x)),
        recorded_sample,
        seed,
    )
    object.__setattr__(run, "calls", calls)
    return run


def by_name(values):
    assert len({value.name for value in values}) == len(values)
    return {value.name: value for value in values}


NAMES = {
    "test_log_likelihood",
    "test_log_likelihood_median",
    "test_non_finite_rows",
    "gap_to_oracle",
}
SMALL = {"num_train": 400, "num_valid": 10, "num_test": 300}


def test_the_oracle_itself_has_no_gap():
    task = Helix(**SMALL)
    got = by_name(LogLikelihood().compute(trained(task)))
    assert set(got) == NAMES
    main, gap = got["test_log_likelihood"], got["gap_to_oracle"]
    scores = task.log_prob(task.splits(0).test)
    assert main.value == pytest.approx(float(scores.mean()), abs=1e-12)
    assert main.reference == pytest.approx(main.value, abs=1e-12)
    assert main.stderr == pytest.approx(float(scores.std()) / 300**0.5)
    assert (main.unit, main.direction, main.n) == ("nats", "max", 300)
    assert (main.likelihood, main.measure) == ("exact", "lebesgue")
    assert (gap.value, gap.stderr, gap.direction) == (0, 0, "min")
    assert got["test_non_finite_rows"].value == 0


def test_gap_is_paired_and_positive_when_the_model_is_worse():
    task = Helix(**SMALL)
    run = trained(task, lambda x, evaluation: task.log_prob(x) - 0.5 - 0.01 * x[:, 1])
    got = by_name(LogLikelihood().compute(run))
    gap = got["gap_to_oracle"]
    assert gap.value == pytest.approx(0.5, abs=0.01)
    assert got["test_log_likelihood"].reference - got["test_log_likelihood"].value == pytest.approx(
        gap.value
    )
    assert gap.stderr == pytest.approx(0.01 * float(run.splits.test[:, 1].std()) / 300**0.5)
    assert gap.stderr < 0.05 * got["test_log_likelihood"].stderr


def test_every_evaluation_is_scored_under_its_own_kind_and_measure():
    task = Helix(**SMALL)
    evaluations = {
        "full": Evaluation(),
        "truncated": Evaluation(LOWER_BOUND, LEBESGUE),
        "sampled": Evaluation(Likelihood("estimate", 10), LEBESGUE),
        "smooth": Evaluation(measure=Measure("smoothed", sigma=0.1)),
    }
    offset = {None: 0.0, "truncated": -1.0, "sampled": -2.0, "smooth": -3.0}
    asked = []

    def log_prob(x, evaluation):
        asked.append(evaluation)
        return task.log_prob(x) + offset[evaluation]

    got = by_name(LogLikelihood().compute(trained(task, log_prob, None, evaluations)))
    assert asked == [None, "truncated", "sampled", "smooth"]
    assert got["gap_to_oracle[truncated]"].value == pytest.approx(1)
    assert got["gap_to_oracle[truncated]"].likelihood == "lower_bound"
    assert got["test_log_likelihood[sampled]"].likelihood == "estimate(10)"
    smooth = got["test_log_likelihood[smooth]"]
    assert (smooth.measure, smooth.reference) == ("smoothed(sigma=0.1)", None)
    assert "gap_to_oracle[smooth]" not in got
    run = trained(task, log_prob, None, evaluations)
    only = by_name(LogLikelihood(all_evaluations=False).compute(run))
    assert set(only) == NAMES


def test_the_median_says_when_single_rows_decide_the_mean():
    task = Helix(**SMALL)

    def log_prob(x, evaluation):
        scores = task.log_prob(x)
        scores[7] = -1e8
        return scores

    got = by_name(LogLikelihood().compute(trained(task, log_prob)))
    median = got["test_log_likelihood_median"]
    assert got["test_log_likelihood"].value < -3e5
    usual = task.log_prob(task.splits(0).test).median()
    assert median.value == pytest.approx(float(usual), abs=0.05)
    assert (median.unit, median.direction, median.n) == ("nats", "max", 300)
    assert (median.likelihood, median.measure, median.reference) == ("exact", "lebesgue", None)


def test_surface_oracle_is_not_held_against_a_lebesgue_density():
    task = Spherical(**SMALL)
    got = by_name(LogLikelihood().compute(trained(task)))
    assert got["test_log_likelihood"].reference is None and "gap_to_oracle" not in got
    surface = {"full": Evaluation(measure=Measure("surface", dim=2))}
    got = by_name(LogLikelihood().compute(trained(task, None, None, surface)))
    assert got["gap_to_oracle"].value == 0 and got["gap_to_oracle"].measure == "surface(dim=2)"


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_non_finite_scores_are_counted_and_kept_in_the_mean(bad):
    task = Helix(**SMALL)

    def log_prob(x, evaluation):
        scores = task.log_prob(x)
        scores[[3, 5]] = bad
        return scores

    got = by_name(LogLikelihood().compute(trained(task, log_prob)))
    assert got["test_non_finite_rows"].value == 2
    assert not torch.isfinite(torch.tensor(got["test_log_likelihood"].value))
    assert not torch.isfinite(torch.tensor(got["gap_to_oracle"].value))


def test_bits_per_dimension_of_a_uniform_density():
    # uniform on [0, 17)^64: log2 17 bits a pixel
    task = Digits()
    run = trained(task, lambda x, evaluation: torch.full((len(x),), -64 * log(17), dtype=x.dtype))
    got = by_name(LogLikelihood().compute(run))
    bits = got["test_bits_per_dim"]
    assert bits.value == pytest.approx(log(17) / log(2), abs=1e-9)
    assert (bits.unit, bits.direction) == ("bits/dim", "min")
    # bins of width 2 in units twice as large are the same bits
    wide = ArrayTask(*(2 * x for x in task.splits(0)), bin_width=2.0)
    run = trained(wide, lambda x, evaluation: torch.full((len(x),), -64 * log(34), dtype=x.dtype))
    assert by_name(LogLikelihood().compute(run))["test_bits_per_dim"].value == pytest.approx(
        bits.value
    )


def test_log_likelihood_refuses_scores_of_another_shape():
    run = trained(Helix(**SMALL), lambda x, evaluation: torch.zeros(3))
    with pytest.raises(ValueError, match=r"expected shape \(300,\), got \(3,\)"):
        LogLikelihood().compute(run)


def test_sample_kde_scores_samples_beside_real_data():
    task = Helix()
    run = trained(task, sample=lambda num, seed: task.splits(77).valid[:num])
    got = by_name(SampleKDE(num_samples=2000).compute(run))
    train, _, test = run.splits
    assert run.calls == [(2000, 11)]
    paper = got["sample_kde_paper"]
    expected = kde_log_prob(task.splits(77).valid[:2000], train, 0.1)
    assert paper.value == pytest.approx(float(expected.mean()), abs=1e-9)
    assert paper.reference == pytest.approx(float(kde_log_prob(test, train, 0.1).mean()), abs=1e-9)
    assert paper.value == pytest.approx(paper.reference, abs=0.05)
    cv, h = got["sample_kde_cv"], got["sample_kde_bandwidth"].value
    assert 0.006 < h < 0.015
    assert cv.value == pytest.approx(cv.reference, abs=0.15)
    assert cv.reference == pytest.approx(float(kde_log_prob(test, train, h).mean()), abs=1e-9)
    assert got["sample_non_finite_rows"].value == 0


def test_sample_kde_sees_samples_off_the_support():
    task = Helix(**SMALL)
    run = trained(task, sample=lambda num, seed: task.splits(77).test[:num] + 0.5)
    got = by_name(SampleKDE(num_samples=200).compute(run))
    assert got["sample_kde_paper"].value < got["sample_kde_paper"].reference - 3


def test_sample_kde_of_standardised_data_is_a_density_in_original_units():
    task = BreastCancer()
    run = trained(task, sample=lambda num, seed: task.splits(0).valid[:num])
    got = by_name(SampleKDE(num_samples=50, bandwidths=["cv"]).compute(run))
    scaling = Standardizer.fit(run.splits.train)
    h = got["sample_kde_bandwidth"].value
    # the same density written as a product kernel of width h * scale in original units
    difference = (run.splits.valid[:50, None] - run.splits.train) / (h * scaling.scale)
    kernel = -0.5 * difference.square().sum(dim=-1)
    constant = (h * scaling.scale).log().sum() + 15 * log(2 * torch.pi) + log(341)
    expected = (torch.logsumexp(kernel, dim=1) - constant).mean()
    assert got["sample_kde_cv"].value == pytest.approx(float(expected), abs=1e-6)
    assert "sample_kde_paper" not in got


def test_sample_kde_does_not_hide_non_finite_samples():
    task = Helix(**SMALL)

    def sample(num, seed):
        x = task.splits(1).test[:num].clone()
        x[0, 0], x[1, 2] = nan, inf
        return x

    got = by_name(SampleKDE(num_samples=100).compute(trained(task, sample=sample)))
    assert got["sample_non_finite_rows"].value == 2
    assert isnan(got["sample_kde_paper"].value) and isnan(got["sample_kde_cv"].value)
    assert not isnan(got["sample_kde_paper"].reference)


def test_sample_kde_chooses_one_bandwidth_per_data_set_and_warns_at_the_edge(monkeypatch, caplog):
    x = Helix(**SMALL).splits(0)
    task = ArrayTask(torch.cat([x.train, x.train]), x.valid, x.test, standardize=False)
    chosen = []
    original = sample_kde_module.leave_one_out_bandwidth

    def counted(*args):
        chosen.append(1)
        return original(*args)

    monkeypatch.setattr(sample_kde_module, "leave_one_out_bandwidth", counted)
    monkeypatch.setattr(sample_kde_module, "_bandwidths", OrderedDict())
    run = trained(task, sample=lambda num, seed: x.test[:num])
    with caplog.at_level(logging.WARNING):
        first = SampleKDE(num_samples=50).compute(run)
        assert SampleKDE(num_samples=50).compute(run) == first
    assert len(chosen) == 1
    assert len([r for r in caplog.records if "edge of its grid" in r.message]) == 2
    assert by_name(first)["sample_kde_bandwidth"].value == pytest.approx(1e-3)
    other = trained(Helix(**SMALL), sample=lambda num, seed: x.test[:num])
    assert by_name(SampleKDE(num_samples=50).compute(other))["sample_kde_bandwidth"].value > 2e-3
    assert len(chosen) == 2


def test_sample_kde_names_bad_options_and_samples():
    with pytest.raises(ValueError, match="bandwidths"):
        SampleKDE(bandwidths=["silverman"])
    with pytest.raises(ValueError, match="num_samples"):
        SampleKDE(num_samples=0)
    run = trained(Helix(**SMALL), sample=lambda num, seed: torch.zeros(num, 2))
    with pytest.raises(ValueError, match=r"expected shape \(10, 3\), got \(10, 2\)"):
        SampleKDE(num_samples=10).compute(run)


def test_support_distance_counts_bridges():
    task = Helix(**SMALL)

    def sample(num, seed):
        x = task.splits(1).test[:num].clone()
        x[:25, 1:] = 0  # on the axis: distance about 1
        return x

    got = by_name(SupportDistance(num_samples=100).compute(trained(task, sample=sample)))
    assert got["bridge_mass"].value == 0.25 and got["bridge_mass"].reference == 0
    assert got["sample_distance"].value == pytest.approx(0.25 * 1 + 0.75 * 0.0125, rel=0.05)
    assert got["sample_distance"].reference == pytest.approx(0.0125, rel=0.1)
    assert got["sample_distance"].direction == got["bridge_mass"].direction == "min"
    near = trained(task, sample=lambda num, seed: task.splits(1).test[:num])
    assert by_name(SupportDistance(num_samples=300).compute(near))["bridge_mass"].value == 0
    strict = by_name(SupportDistance(num_samples=300, far=1.0).compute(near))["bridge_mass"]
    assert strict.value == pytest.approx(0.607, abs=0.1)  # Rayleigh: exp(-1/2)


@pytest.mark.parametrize(("features", "limit"), [(2, 5.0), (3, 5.0), (65, 5 + 8 - sqrt(2))])
def test_bridges_begin_beyond_the_noise_of_all_columns(features, limit):
    class Line(Task):
        """The first axis, with noise in all columns."""

        dimension = 1

        def __init__(self):
            super().__init__(features)
            self.noise_scale = 0.1

        def splits(self, seed):
            x = 0.1 * torch.randn(200, features, generator=torch.Generator().manual_seed(seed))
            return Splits(*x.double().split([50, 50, 100]))

        def distance(self, x):
            return x[:, 1:].norm(dim=1)

    def off(deviations):
        x = torch.zeros(10, features, dtype=torch.float64)
        x[:, 1] = 0.1 * deviations
        return trained(Line(), sample=lambda num, seed: x)

    for deviations, expected in ((0.99 * limit, 0.0), (1.01 * limit, 1.0)):
        got = by_name(SupportDistance(num_samples=10).compute(off(deviations)))["bridge_mass"]
        assert (got.value, got.reference) == (expected, 0.0)


def test_support_distance_without_noise_without_support_and_with_bad_samples():
    sphere = Spherical(**SMALL)
    run = trained(sphere, sample=lambda num, seed: 1.5 * sphere.splits(1).test[:num])
    got = by_name(SupportDistance(num_samples=50).compute(run))
    assert set(got) == {"sample_distance"}
    assert got["sample_distance"].value == pytest.approx(0.5)
    assert SupportDistance().compute(trained(BreastCancer())) == []
    helix = Helix(**SMALL)
    run = trained(helix, sample=lambda num, seed: torch.full((num, 3), nan).double())
    got = by_name(SupportDistance(num_samples=50).compute(run))
    assert isnan(got["sample_distance"].value) and got["bridge_mass"].value == 1
    with pytest.raises(ValueError, match="far"):
        SupportDistance(far=0)


def test_throughput_times_calls_after_a_warm_up(monkeypatch):
    task = Helix(**SMALL)
    now, scored = [0.0], []
    monkeypatch.setattr("flowzoo_bench.metrics.throughput.perf_counter", lambda: now[0])

    def sample(num, seed):
        now[0] += 100 if len(run.calls) == 1 else 0.5  # a slow first call must not count
        return torch.zeros(num, 3)

    def log_prob(x, evaluation):
        scored.append(len(x))
        now[0] += 100 if len(scored) == 1 else 0.25
        return torch.zeros(len(x))

    run = trained(task, log_prob, sample)
    got = by_name(Throughput(num_samples=200, repeats=3).compute(run))
    assert got["samples_per_second"].value == pytest.approx(200 / 0.5)
    assert got["log_prob_rows_per_second"].value == pytest.approx(200 / 0.25)
    assert len(run.calls) == len(scored) == 4 and set(scored) == {200}
    assert got["parameters"].value == 7 and got["buffer_values"].value == 12
    with pytest.raises(ValueError, match="repeats"):
        Throughput(repeats=0)
