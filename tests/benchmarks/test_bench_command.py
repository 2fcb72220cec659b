"""What the bench command does before and around its runs, in this process."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import typer

from flowzoo_bench import bench as command
from flowzoo_bench import session
from flowzoo_bench.experiment import UsageError


def test_ctrl_c_during_imports_waits_for_their_end() -> None:
    seen = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), command._imports_undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("went on")
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["went on"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


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
