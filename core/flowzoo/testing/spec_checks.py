"""Checks of what a plugin says about itself, and of importing it."""

from __future__ import annotations

import functools
import inspect
import json
import subprocess
import sys
from typing import Any

from flowzoo.registry import target_of
from flowzoo.testing.outcome import CheckFailed, NotApplicable, require
from flowzoo.testing.refusals import refuses
from flowzoo.testing.subject import Subject

_IMPORT = """
import json, sys
path, spec_module, target_module = json.loads(sys.argv[1])
sys.path[:] = path
import importlib, time
import flowzoo.plugin
began = time.process_time()  # a busy machine is not the plugin's fault
importlib.import_module(spec_module)
heavy = sorted({"torch", "sklearn", "scipy", "matplotlib", "pandas"} & set(sys.modules))
light = time.process_time() - began
from flowzoo.testing.isolation import changes, global_state
import flowzoo.interfaces, flowzoo.registry
before = global_state()
importlib.import_module(target_module)
print(json.dumps({"heavy": heavy, "seconds": light, "changed": changes(before, global_state())}))
"""


def spec_is_valid(subject: Subject) -> None:
    """The spec loads, its target fulfils the contract, its lines are filled in."""
    spec = subject.spec
    if spec is None:
        raise NotApplicable("no plugin")
    require(bool(spec.summary.strip()), "summary: expected a line, got none")
    require("\n" not in spec.summary, "summary: expected one line")
    target_of(spec)  # says what is wrong
    from flowzoo.testing.suite import check_names

    known = check_names(subject.kind)
    for name in spec.expected_failed_checks:
        require(
            name in known, f"expected_failed_checks: unknown {name!r}, expected some of {known}"
        )
    unknown = sorted(set(subject.options) - set(subject.signature))
    require(not unknown, f"check_options: no options of its own: {unknown}")


def options_are_named(subject: Subject) -> None:
    """Every option is a named keyword with a type; an unknown one is refused."""
    parameters = inspect.signature(subject.target).parameters.values()
    for parameter in parameters:
        require(
            parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL),
            f"options: expected named keywords, got *{parameter.name}: a misspelt one would be "
            "swallowed",
        )
    if subject.kind in ("base-flow", "mixture", "partitioner"):
        require("features" in subject.signature, "options: expected one called 'features'")
    if subject.spec is not None:
        untyped = [o.name for o in subject.signature.values() if o.type_text in ("Any", "_empty")]
        require(not untyped, f"options without a type: {untyped}")
        refuses("no_such_option", subject.make, no_such_option=1)
    try:
        json.dumps(dict(subject.options))
    except TypeError as error:
        raise CheckFailed(f"check_options: expected plain data, {error}") from error


def imports_lightly(subject: Subject) -> None:
    """Importing the spec imports nothing heavy; importing the target changes nothing global."""
    if subject.spec is None or not subject.module:
        raise NotApplicable("not installed")
    found = _imported(subject.module, subject.spec.target.partition(":")[0], tuple(sys.path))
    require("error" not in found, f"import: {found.get('error')}")
    require(not found["heavy"], f"importing {subject.module} imports {found['heavy']}")
    require(
        found["seconds"] < 1.0,
        f"importing {subject.module} takes {found['seconds']:.1f} s of processor time",
    )
    require(not found["changed"], f"importing the target changes {found['changed']}")


@functools.cache
def _imported(spec_module: str, target_module: str, path: tuple[str, ...]) -> dict[str, Any]:
    """What importing the two in a fresh process did; once for modules that plugins share."""
    job = json.dumps([list(path), spec_module, target_module])
    command = [sys.executable, "-c", _IMPORT, job]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if ended.returncode != 0:
        return {"error": (ended.stderr.strip().splitlines() or ["no message"])[-1]}
    answer: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return answer
