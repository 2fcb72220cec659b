"""The coordinates models see: logit and scaling, and densities brought back from them."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch.nn.functional import logsigmoid

from flowzoo.interfaces import EXACT, LEBESGUE, Evaluation, Measure, Mixture, Trained
from flowzoo.training import FitResult
from flowzoo_bench.member import Member
from flowzoo_bench.metrics import LogLikelihood, SampleKDE
from flowzoo_bench.runspec import Part, RunSpec
from flowzoo_bench.tasks import ArrayTask, Logit, Standardizer
from flowzoo_bench.tasks.coordinates import coordinates

F64 = torch.float64


def uniform(rows: int, features: int, levels: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return levels * torch.rand(rows, features, generator=generator, dtype=F64)


@pytest.mark.parametrize(("margin", "levels"), [(0.05, 8), (1e-6, 256), (0.2, 17)])
def test_logit_is_the_inverse_of_the_squashed_sigmoid(margin, levels):
    logit = Logit(margin, levels)
    x = uniform(50, 3, levels)
    z = logit.encode(x)
    share = margin + (1 - 2 * margin) * x / levels
    torch.testing.assert_close(torch.sigmoid(z), share, rtol=1e-13, atol=0)
    torch.testing.assert_close(logit.decode(z), x, rtol=0, atol=1e-12 * levels)
    ends = logit.encode(torch.tensor([[0.0, levels]], dtype=F64))[0]
    edge = log(margin / (1 - margin))
    torch.testing.assert_close(ends, torch.tensor([edge, -edge], dtype=F64), rtol=1e-9, atol=0)
    assert logit.encode(x.float()).dtype == logit.decode(z.float()).dtype == torch.float32


@pytest.mark.parametrize("coordinate", [Logit(0.05, 8), Standardizer.fit(uniform(40, 3, 8))])
def test_log_det_is_that_of_autograd_row_by_row(coordinate):
    x = uniform(6, 3, 8, seed=1)
    for row in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(
            lambda one: coordinate.encode(one[None])[0], x[row]
        )
        assert float(coordinate.log_abs_det(x)[row]) == pytest.approx(
            float(jacobian.slogdet().logabsdet), abs=1e-11
        )
    assert coordinate.log_abs_det(x[:0]).shape == (0,)
    assert coordinate.log_abs_det(x.float()).dtype == F64


def test_a_density_of_logits_has_mass_one_in_levels():
    logit, normal = Logit(0.05, 8), torch.distributions.Normal(0.3, 1.7)
    room = 0.05 * 8 / 0.9
    x = torch.linspace(-room, 8 + room, 200_002, dtype=F64)[1:-1, None]  # all of the open interval
    density = (normal.log_prob(logit.encode(x))[:, 0] + logit.log_abs_det(x)).exp()
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=1e-6)
    inside = (x[:, 0] >= 0) & (x[:, 0] <= 8)
    z = logit.encode(torch.tensor([[0.0], [8.0]], dtype=F64))
    expected = float(normal.cdf(z[1]) - normal.cdf(z[0]))
    assert float(torch.trapezoid(density[inside], x[inside, 0])) == pytest.approx(
        expected, abs=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_decoded_points_stay_where_encode_is_finite_and_nothing_is_hidden(dtype):
    logit, room = Logit(0.05, 8), 0.4 / 0.9
    x = logit.decode(torch.tensor([[-1e3, -40.0, 40.0, 1e3]], dtype=dtype))
    assert torch.isfinite(logit.encode(x)).all() and torch.isfinite(logit.log_abs_det(x)).all()
    assert float(x.min()) == pytest.approx(-room, abs=1e-4)  # not clipped to the levels
    assert float(x.max()) == pytest.approx(8 + room, abs=1e-4)
    strange = torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.0]], dtype=dtype)
    assert torch.isfinite(logit.decode(strange)).tolist() == [[False, False, False, True]]
    outside = torch.tensor([[-1.0, 9.0]], dtype=dtype)
    assert torch.isnan(logit.encode(outside)).all()
    assert torch.isnan(logit.log_abs_det(outside)).all()


def test_the_coordinates_a_task_asks_for():
    train = uniform(30, 2, 8)
    task = ArrayTask(train, train, train)
    assert torch.equal(
        coordinates(task, train).encode(train), Standardizer.fit(train).encode(train)
    )
    task.standardize = False
    assert torch.equal(coordinates(task, train).encode(train), train)
    task.logit = 0.1
    with pytest.raises(ValueError, match="levels: expected their number"):
        coordinates(task, train)
    task.levels = 8
    assert coordinates(task, train) == Logit(0.1, 8)
    task.standardize = True
    with pytest.raises(ValueError, match="logit: expected None for a task that standardises"):
        coordinates(task, train)
    for wrong in ({"margin": 0.5, "levels": 8}, {"margin": 0.1, "levels": 0}):
        with pytest.raises(ValueError, match=r"margin: expected|levels: expected"):
            Logit(**wrong)


class Logistic(Mixture):
    """Independent standard logistic columns: the logit of a uniform law."""

    def __init__(self, features: int, measure: Measure = LEBESGUE) -> None:
        super().__init__(features)
        self.evaluations = {
            "exact": Evaluation(EXACT, LEBESGUE),
            "other": Evaluation(EXACT, measure),
        }

    def stages(self):
        return ()

    def _log_prob(self, x, evaluation, num_samples, generator):
        return (logsigmoid(x) + logsigmoid(-x)).sum(dim=1)

    def _sample(self, num, temperature, generator):
        u = torch.rand(num, self.features, generator=generator, dtype=F64)
        return temperature * torch.logit(u)


def member(model: Mixture, **options: object) -> Member:
    """A run on digits, with another model put in its place."""
    run = Member(
        RunSpec(
            task=Part(name="digits", options=options),
            method=Part(name="gaussian"),
            precision="float64",
            task_label="digits",
            method_label="logistic",
        )
    )
    run.model = model
    return run


def trained(run: Member) -> Trained:
    return Trained(run.task, run.splits, run.model, run.log_prob, run.sample, seed=1)


def by_name(values):
    return {value.name: value for value in values}


@pytest.mark.parametrize("bits", [3, 8])
def test_a_uniform_law_takes_as_many_bits_as_the_levels_have(bits):
    run = member(Logistic(64), bits=bits, logit=1e-9)
    found = by_name(LogLikelihood(all_evaluations=False).compute(trained(run)))
    assert found["test_bits_per_dim"].value == pytest.approx(bits, abs=1e-7)
    assert found["test_bits_per_dim"].unit == f"bits/dim at {bits} bits"
    # with a margin the law is uniform on the wider interval, and levels get that much less
    run = member(Logistic(64), bits=bits, logit=0.05)
    scores = run.log_prob(run.splits.test, None)
    expected = torch.full_like(scores, 64 * log(0.9 / 2**bits))
    torch.testing.assert_close(scores, expected, rtol=1e-12, atol=0)
    x = run.sample(2000, 3).flatten().sort().values
    room = 0.05 * 2**bits / 0.9
    even = torch.linspace(-room, 2**bits + room, len(x), dtype=F64)
    assert float((x - even).abs().max()) < 1.95 / len(x) ** 0.5 * (2**bits + 2 * room)


def test_models_are_trained_on_the_logit_of_levels():
    run = member(Logistic(64), bits=4, logit=0.05)
    share = 0.05 + 0.9 * run.splits.train / 16
    torch.testing.assert_close(run.train, torch.logit(share))
    torch.testing.assert_close(run.coordinates.decode(run.valid), run.splits.valid)


def test_models_are_trained_on_levels_over_their_number():
    run = member(Logistic(64), bits=4, unit=True, logit=0.05)
    torch.testing.assert_close(run.train, run.splits.train / 16)
    torch.testing.assert_close(run.coordinates.decode(run.valid), run.splits.valid)
    x = run.splits.test
    expected = Logistic(64).log_prob(x / 16) - 64 * log(16)
    torch.testing.assert_close(run.log_prob(x, None), expected)
    run = member(Logistic(64, Measure("surface", dim=2)), unit=True)
    with pytest.raises(ValueError, match="Lebesgue measure on levels over their number"):
        run.log_prob(run.splits.test, "other")
    run.task.standardize = True
    with pytest.raises(ValueError, match="unit: expected"):
        coordinates(run.task, run.splits.train)


def test_what_a_record_says_of_levels():
    fit = FitResult("ok", "", (), 0, 1.0, 1)
    data = member(Logistic(64), bits=3).about(fit)["data"]
    assert (data["bits"], data["levels"], tuple(data["shape"])) == (3, 8, (1, 8, 8))
    data = member(Logistic(64)).about(fit)["data"]
    assert (data["bits"], data["levels"]) == (None, 17)
    unit = by_name(LogLikelihood(all_evaluations=False).compute(trained(member(Logistic(64)))))
    assert unit["test_bits_per_dim"].unit == "bits/dim"


@pytest.mark.parametrize("logit", [0.05, 0.0])
def test_a_density_on_a_surface_is_refused_in_changed_coordinates(logit, caplog):
    run = member(Logistic(64, Measure("surface", dim=2)), bits=3, logit=logit)
    seen = "the logit of data" if logit else "standardised data"
    with pytest.raises(ValueError, match=f"Lebesgue measure on {seen}"):
        run.log_prob(run.splits.test, "other")
    assert "test_log_likelihood[other]" not in by_name(LogLikelihood().compute(trained(run)))
    assert "'other' left out" in caplog.text


def test_sample_kde_of_logit_data_is_a_density_in_levels():
    run = member(Logistic(64), bits=3, logit=0.05)
    found = by_name(SampleKDE(num_samples=40, bandwidths=["cv"]).compute(trained(run)))
    h = found["sample_kde_bandwidth"].value
    centres, test = (torch.logit(0.05 + 0.9 * x / 8) for x in run.splits[::2])
    kernel = torch.distributions.Normal(centres, h).log_prob(test[:, None]).sum(dim=-1)
    inside = torch.logsumexp(kernel, dim=1) - log(len(centres))
    y = torch.sigmoid(test)
    volume = (log(0.9 / 8) - y.log() - (1 - y).log()).sum(dim=1)
    reference = found["sample_kde_cv"].reference
    assert reference == pytest.approx(float((inside + volume).mean()), abs=1e-6)
