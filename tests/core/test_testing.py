"""The conformance suite itself: its three doors, its verdicts, its quadrature."""

from __future__ import annotations

import json
import math
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flowzoo
import flowzoo.registry
from flowzoo.catalogue import PluginError
from flowzoo.cli.main import main
from flowzoo.interfaces import BaseFlow, Evaluation, Mixture, Step
from flowzoo.plugin import PluginSpec
from flowzoo.priors import StandardNormal, prior_names
from flowzoo.testing import (
    CheckFailed,
    NotApplicable,
    check_names,
    checks,
    everything,
    parametrize_with_checks,
    run_checks,
)
from flowzoo.testing.distribution import check_counts, check_mass, draws_follow
from flowzoo.testing.outcome import Check
from flowzoo.testing.quadrature import CELLS, Grid, cell_masses, integrate
from flowzoo.testing.run import run_check
from flowzoo.testing.strategies import batches, tensors
from flowzoo.testing.subject import Case, Subject

FLOW = """
import torch
from torch import nn
from flowzoo.interfaces import BaseFlow, Evaluation, Mixture, Step

class Thing(BaseFlow):
    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.log_scale = nn.Parameter(torch.zeros(features))
    def _encode(self, x, context, chart):
        return Step(x * self.log_scale.exp(), {volume})
    def _decode(self, z, context, chart):
        return Step(z * (-self.log_scale).exp(), self.log_scale.sum().expand(len(z)))
"""
RIGHT, WRONG = "self.log_scale.sum().expand(len(x))", "x.new_zeros(len(x))"
BROKEN = {"same-volume", "jacobian", "normalised"}


class Shift(BaseFlow):
    """A flow that is no plugin."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.offset = torch.nn.Parameter(torch.zeros(features))

    def _encode(self, x, context, chart):
        return Step(x - self.offset, x.new_zeros(len(x)))

    def _decode(self, z, context, chart):
        return Step(z + self.offset, z.new_zeros(len(z)))


def check_of(run, reason=""):
    return Check("named", Subject("base-flow", "shift", Shift, Shift), run, reason)


def raising(error):
    def run(subject):
        raise error

    return run


# verdicts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "run, reason, status",
    [
        (lambda subject: None, "", "passed"),
        (raising(CheckFailed("too far")), "", "failed"),
        (raising(KeyError("gone")), "", "failed"),
        (raising(SystemExit(3)), "", "failed"),
        (raising(NotApplicable("no density")), "", "skipped"),
        (raising(CheckFailed("too far")), "as its paper has it", "expected failure"),
        (raising(KeyError("gone")), "as its paper has it", "expected failure"),
        (lambda subject: None, "as its paper has it", "unexpected pass"),
        (raising(NotApplicable("no density")), "as its paper has it", "skipped"),
    ],
)
def test_verdicts(run, reason, status):
    check = check_of(run, reason)
    result = run_check(check)
    assert result.status == status and result.name == "named"
    assert result.ok == (status in ("passed", "skipped", "expected failure"))
    if status != "passed":
        assert result.message
    if status == "skipped":
        with pytest.raises(NotApplicable, match="no density"):
            check()
    elif result.ok:
        check()
    else:
        with pytest.raises(CheckFailed, match="base-flow shift: named"):
            check()


def test_a_crash_says_what_and_where():
    result = run_check(check_of(raising(KeyError("gone"))))
    assert "KeyError" in result.message and "test_testing.py" in result.message


def test_checks_leave_the_random_streams_alone():
    torch.manual_seed(3)
    expected = torch.get_rng_state()
    assert run_check(check_of(lambda subject: torch.manual_seed(1))).status == "passed"
    assert torch.equal(torch.get_rng_state(), expected)


# doors --------------------------------------------------------------------------------------------


def test_names_are_unique_and_of_every_kind():
    for kind in ("base-flow", "prior", "partitioner", "mixture", "task", "metric", "command"):
        names = check_names(kind)
        assert len(names) == len(set(names)) > 0
    with pytest.raises(PluginError, match="unknown kind 'flows'"):
        check_names("flows")


def test_full_adds_to_quick():
    quick = [check.name for check in checks("mixture", "gaussian")]
    full = [check.name for check in checks("mixture", "gaussian", level="full")]
    assert [name for name in full if name in quick] == quick
    assert {"learning", "resume", "properties"} == set(full) - set(quick)
    with pytest.raises(ValueError, match="level: expected one of"):
        list(checks("mixture", "gaussian", level="slow"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, name, only",
    [
        ("mixture", "vq", ("learning", "resume", "properties")),
        ("mixture", "gmm", ("learning", "properties")),
        ("base-flow", "nsf-coupling", ("properties",)),
        ("base-flow", "cef", ("properties",)),
    ],
)
def test_full_level_of_some_built_ins(kind, name, only):
    for check in checks(kind, name, level="full"):
        if check.name in only:
            result = run_check(check)
            assert result.status == "passed", result


def test_a_class_and_a_spec_that_are_not_installed():
    report = run_checks(Shift)
    assert report.ok, report.failures
    assert {r.name for r in report.results if r.status == "skipped"} >= {"spec", "save-load"}
    assert len(report.results) == len(check_names("base-flow")) - 1  # "properties" is slow
    assert run_checks(StandardNormal).kind == "prior"
    spec = PluginSpec("base-flow", "shift", "Adds a constant", f"{Shift.__module__}:Shift")
    found = {result.name: result for result in run_checks(spec).results}
    assert found["round-trip"].status == found["spec"].status == "passed"
    with pytest.raises(PluginError, match="cannot be imported"):
        run_checks(PluginSpec("base-flow", "realnvp", "Another", "no_such_module:Flow"))
    with pytest.raises(TypeError, match="plugin: expected a kind and a name, a spec or a class"):
        list(checks("base-flow"))
    with pytest.raises(PluginError):
        list(checks(dict))


def test_a_class_registered_in_the_process():
    with flowzoo.register(Shift, name="my-shift"):
        assert run_checks("base-flow", "my-shift", deselect=("dtypes",)).ok
        assert ("base-flow", "my-shift") in everything()
    with pytest.raises(ValueError, match="deselect: expected some of"):
        run_checks("base-flow", "realnvp", deselect=("no such",))
    with pytest.raises(ValueError, match="at least one check to be left"):
        run_checks("metric", "sample-kde", deselect=tuple(check_names("metric")))


def test_options_and_sizes_of_ones_own():
    (build,) = [c for c in checks("base-flow", "realnvp", sizes=(4,)) if c.name == "build"]
    assert [case.features for case in build.subject.cases()] == [4, 4]
    assert build.subject.options["layers"] == 2
    (build,) = [
        c for c in checks("base-flow", "realnvp", options={"layers": 1}) if c.name == "build"
    ]
    assert len(build.subject.make(features=2).layers()) == 1


def test_expected_failures_are_strict(site):
    site.target(
        site.plugin("one", kind="base-flow", extra="expected_failed_checks={'layers': 'why not'}"),
        FLOW.format(volume=RIGHT),
    )
    site.target(
        site.plugin(
            "two",
            "other",
            kind="base-flow",
            extra=f"expected_failed_checks={dict.fromkeys(BROKEN, 'ours')}",
        ),
        FLOW.format(volume=WRONG),
    )
    site.target(
        site.plugin("three", "third", kind="base-flow", extra="expected_failed_checks={'x': 'y'}"),
        FLOW.format(volume=RIGHT),
    )
    flowzoo.registry.refresh()
    only = tuple(set(check_names("base-flow")) - BROKEN - {"layers", "spec"})
    one, two, three = (
        run_checks("base-flow", name, deselect=only) for name in ("thing", "other", "third")
    )
    assert [r.status for r in one.failures] == ["unexpected pass"]
    assert {r.name for r in two.results if r.status == "expected failure"} == BROKEN
    assert two.ok
    assert [r.name for r in three.failures] == ["spec"]
    assert "unknown 'x'" in three.failures[0].message


def test_command(site, capsys):
    site.target(site.plugin("good", kind="base-flow"), FLOW.format(volume=RIGHT))
    site.target(site.plugin("bad", "wrong", kind="base-flow"), FLOW.format(volume=WRONG))
    flowzoo.registry.refresh()
    assert main(["check", "base-flow", "good:thing"]) == 0
    shown = capsys.readouterr().out
    assert "ok     round-trip" in shown and "save-load" in shown and "1 checked" in shown
    assert main(["check", "base-flow", "wrong", "--json"]) == 1
    (report,) = json.loads(capsys.readouterr().out)
    assert (report["kind"], report["name"], report["ok"]) == ("base-flow", "wrong", False)
    assert {c["name"] for c in report["checks"] if c["status"] == "failed"} == BROKEN
    left_out = [word for name in BROKEN for word in ("--deselect", name)]
    assert main(["check", "base-flow", "wrong", *left_out]) == 0
    capsys.readouterr()
    assert main(["check", "--all", "prior"]) == 0
    assert capsys.readouterr().out.count("prior ") == len(prior_names())


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "expected KIND and NAME, or --all"),
        (["base-flow"], "expected KIND and NAME, or --all"),
        (["base-flow", "realnvp", "--all"], "expected KIND and NAME, or --all"),
        (["base-flow", "realnpv"], "did you mean 'realnvp'"),
        (["baseflow", "realnvp"], "did you mean 'base-flow'"),
        (["flow", "--all"], "unknown kind 'flow'"),
        (["prior", "--all", "--deselect", "nope"], "--deselect: expected some of"),
        (
            ["prior", "standard-normal", "--device", "nodevice"],
            "device: expected one that is there",
        ),
        (["base-flow", "realnvp", "--device", "meta"], "device: expected one that computes"),
        (["base-flow", "realnvp", "--level", "slow"], "level: expected one of"),
        (["prior", "standard"], "did you mean 'standard-normal'"),
    ],
)
def test_bad_usage(words, said, capsys):
    assert main(["check", *words]) == 2
    shown = capsys.readouterr()
    assert said in shown.err and not shown.out


def test_pytest_door():
    spec = PluginSpec("base-flow", "shift", "Adds a constant", f"{Shift.__module__}:Shift")

    @parametrize_with_checks([("prior", "standard-normal"), spec, Shift])
    def test(check):
        check()

    (mark,) = test.pytestmark
    assert mark.name == "parametrize"
    cases = {case.id: case.values[0] for case in mark.args[1]}
    assert {"prior-standard-normal-seeds", "base-flow-shift-round-trip"} <= set(cases)
    cases["prior-standard-normal-seeds"]()
    with pytest.raises(pytest.skip.Exception, match="support is all of"):
        cases["prior-standard-normal-support"]()
    cases["base-flow-shift-spec"]()
    with pytest.raises(pytest.skip.Exception, match="not installed"):
        cases["base-flow-shift-save-load"]()


class Column(BaseFlow):
    """Legal and unusual: told a chart always, nothing to train, many columns at least."""

    def __init__(self, features: int, *, num_charts: int = 2) -> None:
        if features < 6:
            raise ValueError(f"features: expected at least 6, got {features}")
        super().__init__(features, num_charts=num_charts)

    def _encode(self, x, context, chart):
        return Step(x.roll(1, dims=1) + chart[:, None], x.new_zeros(len(x)))

    def _decode(self, z, context, chart):
        return Step((z - chart[:, None]).roll(-1, dims=1), z.new_zeros(len(z)))


def test_unusual_flows_are_no_false_alarm():
    spec = PluginSpec(
        "base-flow",
        "column",
        "Rolls columns",
        f"{Column.__module__}:Column",
        capabilities={"min_features": 6, "conditional": False},
    )
    report = run_checks(spec)
    assert report.ok, report.failures
    ran = {result.name for result in report.results if result.status == "passed"}
    assert {"round-trip", "jacobian", "context", "rows-independent"} <= ran


class Unbuildable(BaseFlow):
    """Cannot be built."""

    def __init__(self, features: int) -> None:
        raise RuntimeError("no such thing")

    def _encode(self, x, context, chart): ...

    def _decode(self, z, context, chart): ...


def test_what_cannot_be_built_is_said_once():
    report = run_checks(Unbuildable)
    failed = [result.name for result in report.results if result.status == "failed"]
    assert failed == ["build"] or failed == ["options", "build"]
    assert report.results[-1].message == "build fails"


class Spikes(Mixture):
    """A right density that no grid resolves: two spikes far apart and far from the origin."""

    evaluations: ClassVar = {"exact": Evaluation()}

    def __init__(self, features: int, *, heavier: float = 0.5) -> None:
        super().__init__(features)
        self.heavier = heavier
        self.register_buffer("centre", torch.tensor([1e4, 1e4 + 50.0]))

    def stages(self):
        return ()

    def _log_prob(self, x, evaluation, num_samples, generator):
        apart = (x[:, None, :] - self.centre[:, None]) / 1e-3
        each = -0.5 * apart.square().sum(dim=2) - self.features * math.log(
            1e-3 * math.sqrt(2 * math.pi)
        )
        return each.logsumexp(dim=1) - math.log(2.0)

    def _sample(self, num, temperature, generator):
        first = torch.rand(num, generator=generator, dtype=self.centre.dtype) < self.heavier
        noise = torch.randn(num, self.features, generator=generator, dtype=self.centre.dtype)
        return torch.where(first, *self.centre)[:, None] + temperature * 1e-3 * noise


@pytest.mark.parametrize("heavier, verdict", [(0.5, "passed"), (0.7, "failed")])
def test_a_density_too_fine_for_a_grid_is_judged_by_overlaps(heavier, verdict):
    options = {"options": {"heavier": heavier}, "sizes": (2, 3)}
    found = {
        check.name: run_check(check)
        for check in checks(Spikes, **options)
        if check.name in ("normalised", "samples-follow-density")
    }
    assert found["normalised"].status in ("passed", "skipped"), found
    assert found["samples-follow-density"].status == verdict, found


# quadrature ---------------------------------------------------------------------------------------


def normal(mean, std):
    mean = torch.as_tensor(mean, dtype=torch.float64)
    return torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)


@pytest.mark.parametrize("features", [1, 2])
@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (50.0, 0.01), (-1e4, 3.0)])
def test_mass_of_a_normal(features, mean, std):
    density = normal([mean] * features, std)
    torch.manual_seed(0)
    grid = Grid.around(density.sample((2000,)))
    masses, moved = integrate(density.log_prob, grid)
    assert float(masses.sum()) == pytest.approx(1.0, abs=1e-4) and moved < 1e-3
    # the mass left of the mean, cell by cell
    left = masses.reshape(CELLS, -1).sum(dim=1).cumsum(0)
    edge = -1.0 + 2.0 * 6 / CELLS
    x = float(grid.centre[0] + grid.scale[0] * edge / (1 - edge**2))
    expected = 0.5 * (1 + math.erf((x - mean) / std / math.sqrt(2)))
    assert float(left[5]) == pytest.approx(expected, abs=1e-3)


def test_mass_of_heavy_tails():
    density = torch.distributions.Cauchy(torch.tensor(0.0, dtype=torch.float64), 1.0)
    torch.manual_seed(0)
    grid = Grid.around(density.sample((2000, 1)))
    masses, _ = integrate(lambda x: density.log_prob(x[:, 0]), grid)
    assert float(masses.sum()) == pytest.approx(1.0, abs=1e-3)


def test_two_bumps_far_apart():
    first, second = normal([-40.0], 0.05), normal([40.0], 0.05)

    def log_prob(x):
        return torch.logaddexp(first.log_prob(x), second.log_prob(x)) - math.log(2.0)

    torch.manual_seed(0)
    draws = torch.cat([first.sample((3000,)), second.sample((3000,))])
    draws_follow(log_prob, draws, tolerance=1e-3)
    with pytest.raises(CheckFailed, match="do not follow"):
        draws_follow(log_prob, torch.cat([draws, draws[:1000]]), tolerance=1e-3)


def test_verdicts_on_masses_and_counts():
    density = normal([0.0, 0.0], 1.0)
    torch.manual_seed(0)
    draws = density.sample((6000,))
    grid = Grid.around(draws)
    masses = cell_masses(density.log_prob, grid, 256)
    check_mass(masses, 0.0, 1e-3)
    check_mass(0.5 * masses, 0.0, 1e-3, bound=True)
    for factor, bound in ((1.01, False), (0.99, False), (1.01, True)):
        with pytest.raises(CheckFailed, match="total mass"):
            check_mass(factor * masses, 0.0, 1e-3, bound=bound)
    check_counts(masses, grid, draws)
    for wrong in (1.1 * draws, draws + 0.15, draws.abs()):
        with pytest.raises(CheckFailed, match="do not follow"):
            check_counts(masses, grid, wrong)


def test_a_nan_density_is_named():
    grid = Grid.around(torch.randn(100, 1))
    with pytest.raises(CheckFailed, match="NaN at x = "):
        integrate(lambda x: torch.full((len(x),), torch.nan), grid)


@given(st.data())
def test_strategies(data):
    case = Case(3, context=2, charts=4)
    batch = data.draw(batches(case))
    assert batch.rows.shape[1] == 3 and batch.context.shape == (len(batch.rows), 2)
    assert batch.chart.dtype == torch.int64 and bool((batch.chart < 4).all())
    assert bool(data.draw(tensors(3, 2)).isfinite().all())
    assert data.draw(batches(Case(5), 2)).context is None


def test_all_says_what_it_leaves_out(site, capsys):
    site.plugin("torn", "torn", kind="executor", extra="requires=('no-such-distribution',)")
    flowzoo.registry.refresh()
    assert main(["check", "--all", "executor"]) == 0
    assert "executor torn not checked, missing-deps" in capsys.readouterr().err
