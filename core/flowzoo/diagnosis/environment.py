"""Python, the libraries, torch and its devices, environment variables."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from packaging.requirements import Requirement

from flowzoo import _version
from flowzoo.catalogue import BUILT_IN, points
from flowzoo.diagnosis.finding import Finding, note, ok, problem
from flowzoo.discovery import first_line
from flowzoo.options import nearest

VARIABLES: Mapping[str, str] = {
    "FLOWZOO_DISABLE": "turns plugins off by name or distribution:name",
    "FLOWZOO_PLUGIN_AUTOLOAD": "0 leaves only the built-in plugins",
    "FLOWZOO_TRACEBACK": "1 shows where an error of the command came from",
    "FLOWZOO_CHECKPOINT_SECONDS": "training time between two checkpoints of a bench",
    "FLOWZOO_DATA": "folder of data sets, looked into before any other",
    "FLOWZOO_CACHE": "folder of what runs share: downloads, trained feature networks",
    "FLOWZOO_PARENT_PIPE": "ties a bench's worker to its bench",
}
"""What reads the environment, and why."""

_OTHERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG")


def versions() -> Iterator[Finding]:
    """Python, flowzoo, what it needs and what it can use."""
    yield ok("python", f"{platform.python_version()}, {platform.platform()}, {sys.executable}")
    where = os.path.dirname(os.path.abspath(_version.__file__))
    yield ok("flowzoo", f"{_version.__version__}, {where}")
    try:
        distribution = importlib.metadata.distribution(BUILT_IN)
    except importlib.metadata.PackageNotFoundError:
        yield problem("flowzoo", "imported but not installed: no plugin is found; pip install it")
        return
    if distribution.version != _version.__version__:
        yield problem(
            "flowzoo",
            f"the code is {_version.__version__}, what is installed says {distribution.version}: "
            "install it again",
        )
    extras: dict[str, list[str]] = {}
    for text in distribution.requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _required(requirement)
            continue
        for extra in distribution.metadata.get_all("Provides-Extra") or []:
            if requirement.marker.evaluate({"extra": extra}) and requirement.name != BUILT_IN:
                wrong = _wrong(requirement)
                extras.setdefault(extra, []).extend([wrong] if wrong else [])
    for extra, missing in sorted(extras.items()):
        if missing:
            text = f"{', '.join(missing)}; pip install 'flowzoo[{extra}]'"
            yield note(f"extra {extra}", text)
        else:
            yield ok(f"extra {extra}", "present")


def _required(requirement: Requirement) -> Finding:
    wrong = _wrong(requirement)
    if wrong:
        return problem(requirement.name, f"{wrong}; pip install '{requirement}'")
    return ok(requirement.name, importlib.metadata.version(requirement.name))


def _wrong(requirement: Requirement) -> str:
    """What is wrong with a distribution that is needed; empty when nothing is."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} is {version}, {requirement.specifier} is needed"
    return ""


def torch_state() -> Iterator[Finding]:
    """How torch is built, its devices, threads and the flags that change results."""
    start = time.perf_counter()
    was_loaded = "torch" in sys.modules
    try:
        import torch
    except Exception as error:
        yield problem("torch", f"cannot be imported: {first_line(error)}")
        return
    took = "loaded before" if was_loaded else f"imported in {time.perf_counter() - start:.1f} s"
    yield ok("torch", f"{torch.__version__}, {took}")
    try:
        torch.zeros(1).numpy()
    except Exception as error:
        yield problem("torch", f"does not work with the numpy that is installed: {error}")
    yield from _cuda(torch)
    mps = torch.backends.mps
    yield note("mps", "available" if mps.is_available() else "not available")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = f"{torch.get_num_threads()} of torch, {cores} cores may be used"
    if torch.get_num_threads() > (cores or 1):
        yield note("threads", f"{threads}: more threads than cores make training slow")
    else:
        yield ok("threads", threads)
    dtype = torch.get_default_dtype()
    yield note(
        "determinism",
        f"deterministic algorithms {_switch(torch.are_deterministic_algorithms_enabled())}, "
        f"cudnn benchmark {_switch(torch.backends.cudnn.benchmark)}, "
        f"float32 products {torch.get_float32_matmul_precision()}, "
        f"default dtype {str(dtype).removeprefix('torch.')}",
    )


def _cuda(torch: Any) -> Iterator[Finding]:
    """The GPUs, and whether torch was built for them."""
    if not torch.backends.cuda.is_built():
        yield note("cuda", "torch is built without it: models train on the CPU")
        return
    if not torch.cuda.is_available():
        yield note("cuda", f"torch is built for CUDA {torch.version.cuda}, but no device is found")
        return
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        text = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
        try:
            torch.ones(2, device=f"cuda:{index}").sum().item()
        except Exception as error:
            yield problem(f"cuda:{index}", f"{text}: cannot be used: {first_line(error)}")
        else:
            yield ok(f"cuda:{index}", text)


def _switch(on: bool) -> str:
    return "on" if on else "off"


def variables() -> Iterator[Finding]:
    """Environment variables that change what happens; a name nobody reads is a slip."""
    for name in sorted(os.environ):
        value = os.environ[name]
        if name in VARIABLES:
            yield note(name, f"{value!r}: {VARIABLES[name]}")
        elif name.startswith("FLOWZOO_"):
            yield problem(name, f"nothing reads it{nearest(name, VARIABLES)}")
        elif name in _OTHERS:
            yield note(name, repr(value))
    known = {n for point in points() for n in (point.name, f"{point.distribution}:{point.name}")}
    for item in os.environ.get("FLOWZOO_DISABLE", "").split(","):
        if item.strip() and item.strip() not in known:
            hint = nearest(item.strip(), known)
            yield problem("FLOWZOO_DISABLE", f"no plugin is called {item.strip()!r}{hint}")
