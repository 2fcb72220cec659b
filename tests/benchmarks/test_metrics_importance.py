"""What the metric ``importance`` says of estimates whose weights are known."""

from __future__ import annotations

from math import exp, isnan, nan, sqrt
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from flowzoo import registry
from flowzoo.importance import ImportanceEstimate, Weights, weighted_draws
from flowzoo.interfaces import LOWER_BOUND, Evaluation, Likelihood, Mixture, Splits, Task, Trained
from flowzoo.interfaces.metric import MetricValue
from flowzoo_bench.metrics import Importance
from flowzoo_bench.tasks.standardize import Standardizer
from flowzoo_plugins.noisy_injective.deep import DeepNIF
from lgf_models import linear_gaussian, marginal

SIGMA, ROWS = 0.8, 500
NAMES = [
    "effective_sample_size",
    "effective_sample_size_low",
    "importance_bias",
    "importance_spread",
    "importance_relative_spread",
    "importance_non_finite_rows",
]
GAPS = ["elbo_gap", "elbo_relative_gap"]


class Rows(Task):
    """Rows 0, 1, ... / 1000 in the first column; the others stretch."""

    def __init__(self, features: int = 2, rows: int = ROWS, standardize: bool = False) -> None:
        super().__init__(features)
        self.rows = rows
        self.standardize = standardize

    def splits(self, seed: int) -> Splits:
        x = 50.0 * torch.randn(
            self.rows, self.features, dtype=torch.float64, generator=torch.Generator()
        )
        x[:, 0] = torch.arange(self.rows) / 1000
        return Splits(x, x, x)


class LogNormal(Mixture):
    """log w = c + sigma_n e: of mean c, of log of the mean c + sigma_n^2 / 2."""

    capabilities = frozenset({"importance_estimate"})
    evaluations: ClassVar = {
        "importance": Evaluation(Likelihood("estimate", 3)),
        "elbo": Evaluation(LOWER_BOUND),
    }

    def __init__(self, features: int, sigma: Any = lambda x: SIGMA, shift: float = 10.0) -> None:
        super().__init__(features)
        self.sigma, self.shift = sigma, shift
        self.asked: list[tuple[int, int | None]] = []

    def stages(self) -> Any:
        return ()

    def _weights(
        self, x: Tensor, num_samples: int | None, generator: torch.Generator | None
    ) -> Weights:
        assert num_samples is not None and generator is not None and not torch.is_grad_enabled()
        self.asked.append((len(x), num_samples))

        def weigh(rows: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
            sigma = torch.as_tensor(self.sigma(rows), dtype=rows.dtype).reshape(-1, 1)
            return noise, self.shift + sigma * noise[..., 0]

        return weighted_draws(weigh, x, 1, num_samples, generator=generator)

    def importance_estimate(self, x: Tensor, **given: Any) -> ImportanceEstimate:
        return self._weights(x, **given).estimate()

    def _log_prob(
        self,
        x: Tensor,
        evaluation: str,
        num_samples: int | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        assert evaluation == "elbo"
        return self._weights(x, num_samples, generator).mean_log()

    def _sample(self, *_: Any) -> Tensor:
        raise AssertionError("nothing is drawn from the model for this")


def trained(model: Mixture, task: Task | None = None, **more: Any) -> Trained:
    task = task or Rows()

    def refuse(*_: Any) -> Any:
        raise AssertionError("the estimate has a method of its own")

    return Trained(task, task.splits(0), model, refuse, refuse, seed=3, **more)


def measured(metric: Importance, run: Trained) -> dict[str, MetricValue]:
    values = metric.compute(run)
    assert len({value.name for value in values}) == len(values)
    return {value.name: value for value in values}


def test_lognormal_weights_have_their_closed_forms() -> None:
    samples, repeats = 400, 60
    metric = Importance(num_samples=samples, repeats=repeats)
    got = measured(metric, trained(LogNormal(2)))
    assert set(got) == {*NAMES, *GAPS}
    spread = exp(SIGMA**2) - 1  # relative variance of a weight
    found = {name: value.value for name, value in got.items()}
    assert found["effective_sample_size"] == pytest.approx(samples * exp(-(SIGMA**2)), rel=0.04)
    assert found["importance_bias"] == pytest.approx(-spread / 2 / samples, rel=0.15)
    # of a mean over rows; a standard deviation of 60 numbers is 9 % off
    assert found["importance_spread"] == pytest.approx(sqrt(spread / samples / ROWS), rel=0.3)
    assert found["elbo_gap"] == pytest.approx(SIGMA**2 / 2, abs=0.01)
    mean = 10.0 + SIGMA**2 / 2
    assert found["elbo_relative_gap"] == pytest.approx(found["elbo_gap"] / mean, rel=1e-3)
    expected = found["importance_spread"] / mean
    assert found["importance_relative_spread"] == pytest.approx(expected, rel=1e-3)
    assert found["importance_non_finite_rows"] == 0
    for name in ("importance_bias", "importance_spread", "elbo_gap"):
        assert got[name].unit == "nats"
    for name in NAMES[:2]:
        assert got[name].unit == "draws"
    assert {value.direction for name, value in got.items() if "rows" not in name} == {"none"}
    assert (got["elbo_gap"].n, got["importance_spread"].n) == (ROWS, repeats)
    assert got["elbo_gap"].stderr is not None and got["elbo_gap"].stderr < 0.01


def test_the_low_effective_sample_size_is_that_of_the_worst_twentieth() -> None:
    """A tenth of the rows has broad weights: a twentieth quantile is one of theirs."""
    model = LogNormal(2, lambda rows: torch.where(rows[:, 0] < 0.05, 1.5, 0.1))
    got = measured(Importance(num_samples=2000), trained(model))
    share = {name: got[name].value / 2000 for name in NAMES[:2]}
    assert 0.08 < share["effective_sample_size_low"] < exp(-(1.5**2)) + 0.05
    assert share["effective_sample_size"] == pytest.approx(
        0.1 * exp(-(1.5**2)) + 0.9 * exp(-0.01), abs=0.02
    )


def test_repeats_and_draws_are_as_many_as_asked_for() -> None:
    model = LogNormal(2)
    first = measured(Importance(num_samples=50, max_rows=40), trained(model))
    assert model.asked == [(40, 50)] * 4  # three repeats and the bound
    assert first["elbo_gap"].n == 40 and first["importance_spread"].value > 0
    again = measured(Importance(num_samples=50, max_rows=40), trained(LogNormal(2)))
    assert again == first
    whole = measured(Importance(num_samples=50), trained(LogNormal(2)))
    assert whole["elbo_gap"].n == ROWS


def test_the_gap_is_that_of_the_same_draws() -> None:
    """By other draws of each row its standard error would be four times as large."""
    gap = measured(Importance(num_samples=2), trained(LogNormal(2)))["elbo_gap"]
    assert gap.stderr is not None and gap.stderr < 0.02


def test_some_rows_stand_for_all() -> None:
    """Rows may be in an order: the first are not taken."""
    seen: list[Tensor] = []

    def sigma(rows: Tensor) -> float:
        seen.append(rows[:, 0])
        return SIGMA

    measured(Importance(num_samples=2, max_rows=50), trained(LogNormal(2, sigma)))
    rows = torch.cat(seen)
    assert float(rows.mean()) == pytest.approx(ROWS / 2000, abs=0.1)
    assert len(rows.unique()) == 50


def test_relative_numbers_are_of_the_log_density_in_original_units() -> None:
    task = Rows(standardize=True)
    scaling = Standardizer.fit(task.splits(0).train)
    volume = float(scaling.log_abs_det(task.splits(0).test).mean())
    assert abs(volume) > 1
    plain = measured(Importance(num_samples=50), trained(LogNormal(2)))
    run = trained(LogNormal(2), task, inside=lambda x: scaling.encode(x).float())
    got = measured(Importance(num_samples=50), run)
    for name in ("importance_bias", "elbo_gap", "effective_sample_size"):
        assert got[name].value == pytest.approx(plain[name].value, rel=0.1)
    ratio = got["elbo_relative_gap"].value / got["elbo_gap"].value
    assert ratio == pytest.approx(1 / abs(10.0 + SIGMA**2 / 2 + volume), rel=1e-2)
    below = measured(Importance(num_samples=50), trained(LogNormal(2, shift=-30.0)))
    assert below["elbo_relative_gap"].value > 0 and below["importance_relative_spread"].value > 0
    spread = got["importance_relative_spread"].value / got["importance_spread"].value
    assert spread == pytest.approx(ratio, rel=1e-2)


def test_rows_that_are_no_numbers_are_counted_and_hidden_in_no_mean() -> None:
    model = LogNormal(2, lambda rows: torch.where((rows[:, 0] - 0.003).abs() < 1e-6, nan, SIGMA))
    got = measured(Importance(num_samples=20), trained(model))
    assert got["importance_non_finite_rows"].value == 1
    assert all(isnan(got[name].value) for name in (*GAPS, *NAMES[:-1]))


def test_models_that_have_no_such_estimate_are_passed_over() -> None:
    class Exact(LogNormal):
        capabilities = frozenset({"embed"})

    class NoBound(LogNormal):
        evaluations: ClassVar = {"importance": Evaluation(Likelihood("estimate", 3))}

    assert Importance().compute(trained(Exact(2))) == []
    got = measured(Importance(num_samples=20), trained(NoBound(2)))
    assert set(got) == set(NAMES)


def test_bad_options_and_bad_answers_are_named() -> None:
    for option in ("num_samples", "repeats"):  # a bias needs two draws, a spread two repeats
        with pytest.raises(ValueError, match=f"{option}: expected at least 2, got 1"):
            Importance(**{option: 1})
    with pytest.raises(ValueError, match="max_rows"):
        Importance(max_rows=0)
    empty = Rows(rows=0)
    with pytest.raises(ValueError, match=r"splits\.test: expected at least one row"):
        Importance().compute(trained(LogNormal(2), empty))

    class Short(LogNormal):
        def importance_estimate(self, x: Tensor, **given: Any) -> ImportanceEstimate:
            found = super().importance_estimate(x, **given)
            return found._replace(bias=found.bias[:3])

    with pytest.raises(ValueError, match=r"importance_estimate: bias: expected shape \(500,\)"):
        Importance(num_samples=2).compute(trained(Short(2)))


class Given(Task):
    """Rows that a test has."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x.shape[1])
        self.x = x

    def splits(self, seed: int) -> Splits:
        return Splits(self.x, self.x, self.x)


def test_of_lgf_it_is_the_gap_to_a_known_density() -> None:
    model = linear_gaussian(2, 2, 1, seed=5)
    with torch.no_grad():
        x = marginal(model).sample((400,))
        bound = model.log_prob(x, evaluation="elbo", num_samples=4000)
        gap = float((marginal(model).log_prob(x) - bound).mean())
    assert gap > 0.05
    got = measured(Importance(num_samples=1000), trained(model, Given(x)))
    assert got["elbo_gap"].value == pytest.approx(gap, rel=0.05)
    assert -0.01 < got["importance_bias"].value < 0
    assert 1 < got["effective_sample_size_low"].value < got["effective_sample_size"].value < 1000


def test_of_a_deep_nif_it_is_the_gap_to_a_known_density() -> None:
    options = {"latent_features": 2, "base_flow": "none", "latent_flow": "none"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DeepNIF(4, **options).double().eval()
        with torch.no_grad():
            model.injection.plane.log_std.fill_(0.0)
            x = model.sample(300)
            exact, bound = model.log_prob(x), model.log_prob(x, evaluation="elbo")
    got = measured(Importance(num_samples=1000), trained(model, Given(x)))
    gap = float((exact - bound).mean())
    assert gap > 0.05
    assert got["elbo_gap"].value == pytest.approx(gap, rel=0.1)
    assert 1 <= got["effective_sample_size_low"].value < got["effective_sample_size"].value < 1000


def test_it_is_registered() -> None:
    assert isinstance(registry.build("metric", "importance", num_samples=2), Importance)
