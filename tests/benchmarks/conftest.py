"""A distribution of misbehaving plugins, put on PYTHONPATH for the harness's tests."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

_MODULE = '''
import os, signal, sys, time
import torch
from torch import nn
from flowzoo.interfaces import EXACT, LEBESGUE, Evaluation, Measure, Metric, MetricValue
from flowzoo.interfaces import Mixture, Splits, Stage, Task
from flowzoo.interfaces.stage import ParameterGroup


class Blob(Task):
    """A standard normal whose density is known."""

    oracle = Evaluation(EXACT, LEBESGUE)

    def __init__(self, *, rows: int = 64) -> None:
        super().__init__(2)
        self.rows = rows

    def splits(self, seed):
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(3 * self.rows, 2, dtype=torch.float64, generator=generator)
        return Splits(*draw.split(self.rows))

    def log_prob(self, x):  # the density of the unscaled draw
        return torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(dim=1)


class Scaled(Task):
    """Far from the origin and stretched; models see it standardised."""

    standardize = True

    def __init__(self) -> None:
        super().__init__(2)

    def splits(self, seed):
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(192, 2, dtype=torch.float64, generator=generator)
        return Splits(*(draw * torch.tensor([10.0, 0.1]) + 100.0).split(64))


class Shift(Mixture):
    """A unit Gaussian with a learned mean, that can be told to fail."""

    evaluations = {"exact": Evaluation(EXACT, LEBESGUE)}

    def __init__(self, features: int, *, fault: str = "", epochs: int = 5, pause: float = 0.0,
                 width: float = 1.0, training: dict | None = None):
        super().__init__(features)
        self.mean = nn.Parameter(torch.randn(features))
        self.fault, self.pause, self.epochs = fault, pause, epochs
        self.width = width
        if fault == "exit":
            sys.exit(0)
        if fault == "surface":
            self.evaluations = {"exact": Evaluation(EXACT, Measure("surface", dim=1))}
        if fault.startswith("assign"):
            self.capabilities = frozenset({"assign"})
        if training:
            self.epochs = training["epochs"]

    def stages(self):
        return (Stage("flow", self._loss, epochs=self.epochs, batch_size=16,
                      groups=(ParameterGroup(lr=0.05),),
                      prepare=self._prepare, after_epoch=self._after,
                      **({"monitor": self._monitor, "watch": self._watch}
                         if self.fault == "watch" else {})),)

    def _monitor(self, x, noise):
        return {"distance": (x - self.mean).norm(dim=1), "endless": x[:, 0] / 0.0}

    def _watch(self, means):
        return f"a distance of {means['distance']:.6f}"

    def _prepare(self, x, valid, generator):
        if self.fault == "raise":
            raise RuntimeError("this plugin raises")
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "kill-some" and float(x[0, 0]) > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "raise-some" and float(x[0, 0]) > 0:
            raise RuntimeError("not these data")
        if self.fault == "hang":
            if os.fork() == 0:
                time.sleep(1000)
            time.sleep(1000)
        if self.fault == "flood":
            for _ in range(3000):
                print("x" * 1000)

    def _after(self, x, generator):
        time.sleep(self.pause)

    def _loss(self, x, noise, progress):
        loss = 0.5 * ((x - self.mean) ** 2).sum(dim=1) + 1.8378770664093453
        return loss * float("nan") if self.fault == "nan" else loss

    def _log_prob(self, x, evaluation, num_samples, generator):
        if self.fault == "score":
            raise RuntimeError("cannot score")
        if self.fault == "score-nan":
            return x.sum(dim=1) * float("nan")
        if self.fault == "liar":
            return -self._loss(x, x, 1.0) + 1.0
        return -self._loss(x, x, 1.0)

    def assign(self, x):
        if self.fault == "assign-raise":
            raise RuntimeError("no charts today")
        return torch.zeros(len(x), 7, dtype=torch.int64)

    def _sample(self, num, temperature, generator):
        if self.fault == "narrow":
            return torch.zeros(num, 1)
        noise = torch.randn(num, self.features, generator=generator, dtype=self.mean.dtype)
        return self.mean + temperature * noise


class MeanNorm(Metric):
    """Length of the learned mean: a number with a reference, without density."""

    def compute(self, trained):
        if not isinstance(trained.model, Shift):
            return []
        if trained.model.fault == "metric-raise":
            raise RuntimeError("nothing to measure")
        if trained.model.fault == "metric-exit":
            sys.exit(0)
        if trained.model.fault == "metric-bad":
            return [MetricValue("mean_norm", 0.0, direction="maximum")]
        if trained.model.fault == "metric-twice":
            return [MetricValue("test_log_likelihood", 0.0)]
        return [MetricValue("mean_norm", float(trained.model.mean.detach().norm()), reference=0.0)]
'''

_SPECS = """
from flowzoo.plugin import PluginSpec
BLOB = PluginSpec("task", "blob", "a Gaussian", "faulty_plugins.parts:Blob")
SCALED = PluginSpec("task", "scaled", "a Gaussian", "faulty_plugins.parts:Scaled")
SHIFT = PluginSpec("mixture", "shift", "a shift", "faulty_plugins.parts:Shift")
NORM = PluginSpec("metric", "mean-norm", "a norm", "faulty_plugins.parts:MeanNorm")
ABSENT = PluginSpec("mixture", "absent", "needs more", "faulty_plugins.parts:Shift",
                    requires=("no-such-distribution-xyz",))
"""

_POINTS = """
[flowzoo.tasks]
blob = faulty_plugins:BLOB
scaled = faulty_plugins:SCALED
[flowzoo.mixtures]
shift = faulty_plugins:SHIFT
absent = faulty_plugins:ABSENT
[flowzoo.metrics]
mean-norm = faulty_plugins:NORM
"""


def _obey_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Bench:
    """Runs ``flowzoo`` with the plugins installed, in a process of its own."""

    path: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        paths = [str(self.path), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}

    def write(self, text: str, name: str = "experiment.toml") -> Path:
        path = self.folder / name
        path.write_text(text, "utf-8")
        return path

    def command(self, *arguments: object) -> list[str]:
        run = "import sys; from flowzoo.cli import main; sys.exit(main())"
        return [sys.executable, "-c", run, *map(str, arguments)]

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # a test run in the background of a script ignores Ctrl-C, and so would its children
            preexec_fn=_obey_ctrl_c,
        )

    def run(self, *arguments: object) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=500)
        return process.returncode, output

    def here(self, *arguments: object) -> tuple[int, str]:
        """As ``run``, but in this process, which needs ``faulty``; workers have their own."""
        from flowzoo.cli import main

        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said), pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            code = main([*map(str, arguments)])
        return code, said.getvalue()


@pytest.fixture(scope="session")
def faulty_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("site")
    package = path / "faulty_plugins"
    package.mkdir()
    (package / "__init__.py").write_text(_SPECS, "utf-8")
    (package / "parts.py").write_text(_MODULE, "utf-8")
    info = path / "faulty_plugins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: faulty-plugins\nVersion: 1.0\n", "utf-8"
    )
    (info / "entry_points.txt").write_text(_POINTS, "utf-8")
    return path


@pytest.fixture
def faulty(faulty_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugins in this process."""
    monkeypatch.syspath_prepend(str(faulty_path))
    return faulty_path


@pytest.fixture
def bench(faulty_path: Path, tmp_path: Path) -> Bench:
    return Bench(faulty_path, tmp_path)


@pytest.fixture(scope="session")
def finished(
    faulty_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Path], Path]:
    """Copies what a bench that is through leaves, run once a text; a test needs ``faulty`` too."""
    done: dict[str, Path] = {}

    def copy(text: str, out: Path) -> Path:
        if text not in done:
            bench = Bench(faulty_path, tmp_path_factory.mktemp("finished"))
            path = bench.write(text)
            code, output = bench.here("bench", path, "--no-figures", "--out", bench.folder / "out")
            assert code == 0, output
            done[text] = bench.folder / "out"
        return Path(shutil.copytree(done[text], out))

    return copy


@pytest.fixture
def workers_of() -> Callable[[Path], list[int]]:
    """Process ids whose command line names a folder."""

    def find(folder: Path) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes()
                    state = (entry / "stat").read_text("utf-8").rpartition(")")[2].split()[0]
                except OSError:
                    continue
                if b"flowzoo_bench.worker" in words and str(folder).encode() in words:
                    if state != "Z":
                        found.append(int(entry.name))
        return found

    return find


@pytest.fixture
def all_gone(workers_of: Callable[[Path], list[int]]) -> Callable[[Path], bool]:
    """Wait until a folder has had no worker for a while; False when some stay.

    One look is not enough after a SIGKILL of the bench: a worker it was just starting has the
    bench's command line until its exec is through, and shows up (and ends itself) only then.
    """

    def wait(folder: Path, *, quiet: float = 2.0, limit: float = 60.0) -> bool:
        end = time.monotonic() + limit
        empty_since = time.monotonic()
        while (now := time.monotonic()) < end:
            if workers_of(folder):
                empty_since = now
            elif now - empty_since >= quiet:
                return True
            time.sleep(0.02)
        return False

    return wait
