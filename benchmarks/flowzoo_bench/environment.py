"""What a run ran on; no host names, user names or paths."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

_DISTRIBUTIONS = ("flowzoo", "torch", "numpy", "scipy", "scikit-learn", "nflows", "normflows")


@cache
def git_commit() -> str | None:
    """Commit of the checkout the harness runs from, with ``-dirty`` when files differ."""
    folder = Path(__file__).parent
    try:
        ran = [
            subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10
            )
            for words in (
                ("rev-parse", "HEAD"),
                ("ls-files", "--error-unmatch", Path(__file__).name),
                ("status", "--porcelain", "--untracked-files=no"),
            )
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    if ran[0].returncode or ran[1].returncode:  # none, or one that merely contains the install
        return None
    return ran[0].stdout.strip() + ("-dirty" if ran[2].stdout.strip() else "")


def software() -> dict[str, Any]:
    """Versions and the settings that change numbers."""
    import torch

    versions: dict[str, Any] = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    versions["threads"] = torch.get_num_threads()
    versions["tf32"] = torch.backends.cuda.matmul.allow_tf32
    return versions


def hardware(device: str) -> dict[str, Any]:
    """Processor and, on CUDA, the GPU."""
    import torch

    about: dict[str, Any] = {"machine": platform.machine(), "cpu": _cpu_name()}
    if device == "cuda" and torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
        about["gpu_memory"] = torch.cuda.get_device_properties(0).total_memory
        about["cuda"] = torch.version.cuda
    return about


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def peak_memory(device: str) -> tuple[int | None, int | None]:
    """Peak resident bytes of this process, and peak bytes allocated on its GPU."""
    import resource
    import sys

    import torch

    unit = 1 if sys.platform == "darwin" else 1024
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    gpu = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return rss, gpu
