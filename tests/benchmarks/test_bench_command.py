"""What the bench command does before and around its runs, in this process."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import typer

from flowzoo_bench import bench as command
from flowzoo_bench import session
from flowzoo_bench.experiment import UsageError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_during_imports_wait_for_their_end(number: signal.Signals) -> None:
    seen = []
    waiting = threading.Event()
    # a thread, as imports start them, that would take a signal the main thread blocks
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), command._imports_undisturbed():
            os.kill(os.getpid(), number)
            seen.append("went on")
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
        waiting.set()
        thread.join()
    assert seen == ["went on"]


def test_signals_that_are_ignored_stay_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with command._imports_undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("error", [ValueError("no slots"), TypeError("bad"), RuntimeError("down")])
def test_an_executor_that_cannot_be_made_is_bad_usage(error: Exception) -> None:
    def load(kind: str, name: str) -> Any:
        def make(**options: Any) -> Any:
            raise error

        return make

    with pytest.raises(UsageError, match=f"executor 'mine': .*{error}"):
        command._executor(load, "mine", "cpu", None)


def test_a_full_disk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(session, "write_atomically", full)
    with pytest.raises(typer.Exit) as stop:
        command.bench(
            "quick",
            out=tmp_path,
            tasks="helix",
            methods="Gaussian",
            replicates=1,
            device="cpu",
            slots=1,
            executor="local",
            figures=False,
        )
    assert stop.value.exit_code == 1
    said = capsys.readouterr().err
    assert f"{tmp_path}/experiment.json: No space left on device" in said
    assert "Traceback" not in said
