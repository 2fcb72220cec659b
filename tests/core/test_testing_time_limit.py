"""A check that does not end fails, and the others go on."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest
from torch import nn

from flowzoo.cli.main import main
from flowzoo.interfaces import BaseFlow, Step
from flowzoo.plugin import PluginSpec
from flowzoo.testing import CheckFailed, run_checks
from flowzoo.testing.time_limit import time_limit


class Sleepy(BaseFlow):
    """The identity, whose ``decode`` takes its time."""

    def __init__(self, features: int, *, stubborn: bool = False) -> None:
        super().__init__(features)
        self.net = nn.Linear(features, features)
        self.stubborn = stubborn

    def _encode(self, x, context, chart):
        return Step(x, x.new_zeros(len(x)))

    def _decode(self, z, context, chart):
        for _ in range(2):
            try:
                time.sleep(10)
            except CheckFailed:
                if not self.stubborn:
                    raise
                self.stubborn = False  # it swallows the first alarm
        return Step(z, z.new_zeros(len(z)))


def test_what_hangs_is_one_failure_and_the_rest_is_checked():
    spec = PluginSpec("base-flow", "sleepy", "Sleeps", f"{Sleepy.__module__}:Sleepy")
    report = run_checks(spec, sizes=[2], timeout=0.5)
    found = {result.name: result for result in report.results}
    assert found["round-trip"].status == "failed"
    assert "no end after 0.5 s" in found["round-trip"].message
    assert found["jacobian"].status == "passed"


@pytest.mark.parametrize("stubborn", [False, True])
def test_the_alarm_rings_again_and_is_put_away(stubborn: bool) -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(CheckFailed, match=r"no end after 0.2 s"):
        with time_limit(0.2):
            Sleepy(2, stubborn=stubborn)._decode(None, None, None)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_ends_in_time_is_left_alone():
    with time_limit(60.0):
        pass
    with time_limit(None):
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_outside_the_main_thread_there_is_no_limit():
    ended: list[Any] = []

    def work() -> None:
        with time_limit(0.01):
            time.sleep(0.05)
            ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan"])
def test_a_limit_that_is_none_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "prior", "standard-normal", "--timeout", seconds]) == 2
    assert "timeout: expected > 0 and finite" in capsys.readouterr().err
