"""Every check by name, in the order they run, and the plugins they can be asked of."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from flowzoo import registry
from flowzoo.catalogue import PluginError, UnknownPluginError, find
from flowzoo.interfaces import Prior
from flowzoo.options import nearest
from flowzoo.plugin import PluginSpec
from flowzoo.priors import prior_class, prior_names
from flowzoo.testing import (
    base_flow_checks,
    capability_checks,
    dimension_checks,
    flow_map_checks,
    mixture_checks,
    module_checks,
    partitioner_checks,
    prior_checks,
    property_checks,
    spec_checks,
    task_checks,
    training_checks,
)
from flowzoo.testing.outcome import LEVELS, Check, Level
from flowzoo.testing.run import Report, Result, run_all
from flowzoo.testing.subject import Subject

Run = Callable[[Subject], None]


class PluginUsageError(ValueError):
    """The suite was asked for something it does not have."""

    exit_code = 2  # of the command: bad usage


class _Named(NamedTuple):
    name: str
    run: Run
    level: Level = "quick"


_SPEC = (
    _Named("spec", spec_checks.spec_is_valid),
    _Named("options", spec_checks.options_are_named),
    _Named("import", spec_checks.imports_lightly),
)
_MODULE = (
    _Named("registered-tensors", module_checks.registered_state),
    _Named("dtypes", module_checks.dtypes),
    _Named("meta-device", module_checks.meta_device),
    _Named("device", module_checks.other_device),
    _Named("deepcopy", module_checks.copies),
    _Named("save-load", module_checks.saves),
    _Named("isolation", module_checks.isolation),
)
_CHECKS: Mapping[str, tuple[_Named, ...]] = {
    "base-flow": (
        *_SPEC,
        _Named("build", base_flow_checks.builds),
        _Named("capabilities", base_flow_checks.declares),
        _Named("fast-direction", base_flow_checks.fast_direction),
        _Named("shapes", base_flow_checks.shapes),
        _Named("bad-input", base_flow_checks.refuses_bad_input),
        _Named("round-trip", flow_map_checks.round_trip),
        _Named("same-volume", flow_map_checks.volumes_agree),
        _Named("jacobian", flow_map_checks.volume_is_jacobian),
        _Named("derivatives", flow_map_checks.derivatives),
        _Named("parameter-derivatives", flow_map_checks.parameter_derivatives),
        _Named("conformal", flow_map_checks.conformal),
        _Named("normalised", flow_map_checks.normalised),
        _Named("rows-independent", base_flow_checks.rows_independent),
        _Named("context", base_flow_checks.context_matters),
        _Named("gradients", flow_map_checks.gradients),
        _Named("layers", base_flow_checks.layers_compose),
        _Named("packed", flow_map_checks.packs),
        _Named("properties", property_checks.flow_properties, "full"),
        *_MODULE,
    ),
    "prior": (
        _Named("shapes", prior_checks.shapes),
        _Named("bad-input", prior_checks.refuses_bad_input),
        _Named("normalised", prior_checks.normalised),
        _Named("from-normal", prior_checks.normals_become_draws),
        _Named("seeds", prior_checks.seeds),
        _Named("derivatives", prior_checks.derivatives),
        _Named("rows-independent", prior_checks.rows_independent),
        _Named("context", prior_checks.context_matters),
        _Named("gradients", prior_checks.gradients),
        _Named("packed", prior_checks.packs),
        _Named("support", prior_checks.support),
        *_MODULE,
    ),
    "partitioner": (
        *_SPEC,
        _Named("build", partitioner_checks.builds),
        _Named("training", training_checks.trains),
        _Named("distances", partitioner_checks.distances_are),
        _Named("charts", partitioner_checks.uses_its_charts),
        _Named("codes", partitioner_checks.codes_belong),
        _Named("derivatives", partitioner_checks.derivatives),
        _Named("rows-independent", partitioner_checks.rows_independent),
        _Named("training-mode", partitioner_checks.assigns_in_training),
        _Named("bad-input", partitioner_checks.refuses_bad_input),
        _Named("gradients", partitioner_checks.gradients),
        _Named("packed", partitioner_checks.packs),
        *_MODULE,
    ),
    "mixture": (
        *_SPEC,
        _Named("build", mixture_checks.builds),
        _Named("training", training_checks.trains),
        _Named("log-prob", mixture_checks.log_probs),
        _Named("bad-input", mixture_checks.refuses_bad_input),
        _Named("rows-independent", mixture_checks.rows_independent),
        _Named("normalised", mixture_checks.normalised),
        _Named("bounds", mixture_checks.bounds_hold),
        _Named("num-samples", mixture_checks.estimates_heed_their_samples),
        _Named("sample", mixture_checks.samples),
        _Named("samples-follow-density", mixture_checks.samples_follow_density),
        _Named("sample-and-log-prob", mixture_checks.sample_scores_agree),
        _Named("capabilities", capability_checks.capabilities_work),
        _Named("dimension", dimension_checks.dimensions_are_found),
        _Named("spectrum", dimension_checks.spectrum),
        _Named("codes", dimension_checks.codes),
        _Named("gradients", training_checks.gradients),
        _Named("packed", training_checks.packs),
        _Named("learning", training_checks.learns_the_data, "full"),
        _Named("resume", training_checks.resumes, "full"),
        _Named("properties", property_checks.mixture_properties, "full"),
        *_MODULE,
    ),
    "task": (
        *_SPEC,
        _Named("build", task_checks.builds),
        _Named("splits", task_checks.splits_are),
        _Named("seeds", task_checks.seeds),
        _Named("distinct-rows", task_checks.rows_are_distinct),
        _Named("images", task_checks.images),
        _Named("labels", task_checks.labels),
        _Named("dimension", task_checks.dimension),
        _Named("oracle", task_checks.oracle),
        _Named("oracle-normalised", task_checks.oracle_normalised),
        _Named("support", task_checks.support),
        _Named("bad-input", task_checks.refuses_bad_input),
    ),
    "metric": _SPEC,
    "executor": (_SPEC[0], _SPEC[2]),
    "command": (_SPEC[0], _SPEC[2]),
}
KINDS: tuple[str, ...] = tuple(_CHECKS)
"""The kinds that can be checked: those of plugins, and the core's priors."""


def check_names(kind: str) -> list[str]:
    """The names of the checks of a kind, in the order they run.

    Raises:
        PluginError: an unknown kind.

    Example:
        >>> "round-trip" in check_names("base-flow")
        True
    """
    return [named.name for named in _checks_of(kind)]


def checks(
    plugin: PluginSpec | type | str,
    name: str | None = None,
    *,
    level: Level = "quick",
    options: Mapping[str, Any] | None = None,
    sizes: Sequence[int] | None = None,
    device: str | None = None,
) -> Iterator[Check]:
    """The named checks of one plugin, in the order they run.

    Args:
        plugin: a kind, followed by a ``name``; or a spec, or a class that fulfils a contract.
        name: the plugin's name, or ``distribution:name``; a prior's name for kind ``prior``.
        level: ``quick``, or ``full`` with the slow ones.
        options: options of a small instance, instead of the spec's ``check_options``.
        sizes: numbers of columns to try, instead of 1, 2, 3 and 5.
        device: a second device the plugin must run on, e.g. ``"cuda"``.

    Raises:
        PluginError: no such plugin, or one that is not ready.
        ValueError: an unknown level.
        TypeError: neither of the three.

    Example:
        >>> [check.name for check in checks("base-flow", "realnvp")][:3]
        ['spec', 'options', 'import']
    """
    if level not in LEVELS:
        raise PluginUsageError(
            f"level: expected one of {LEVELS}, got {level!r}{nearest(level, LEVELS)}"
        )
    if device is not None:
        _check_device(device)
    subject = _subject(plugin, name, level, options, sizes, device)
    failing = {} if subject.spec is None else subject.spec.expected_failed_checks
    for named in _checks_of(subject.kind):
        if named.level == "full" and level == "quick":
            continue
        # that the declarations themselves are valid cannot be declared away
        reason = "" if named.name == "spec" else failing.get(named.name, "")
        yield Check(named.name, subject, named.run, reason)


def run_checks(
    plugin: PluginSpec | type | str,
    name: str | None = None,
    *,
    level: Level = "quick",
    options: Mapping[str, Any] | None = None,
    sizes: Sequence[int] | None = None,
    device: str | None = None,
    deselect: tuple[str, ...] = (),
    on_result: Callable[[Result], None] | None = None,
    timeout: float | None = None,
) -> Report:
    """Run the checks of one plugin; see ``checks`` for the arguments.

    Args:
        plugin, name, level, options, sizes, device: as for ``checks``.
        deselect: names of checks to leave out.
        on_result: called with each result as it comes.
        timeout: seconds after which a check has failed; in a main thread only.

    Raises:
        ValueError: ``deselect`` names no check of the kind, or ``timeout`` is not positive.

    Example:
        >>> run_checks("prior", "standard-normal").ok
        True
    """
    chosen = list(checks(plugin, name, level=level, options=options, sizes=sizes, device=device))
    subject = chosen[0].subject
    for unwanted in deselect:
        if unwanted not in check_names(subject.kind):
            raise PluginUsageError(
                f"deselect: expected some of {check_names(subject.kind)}, got {unwanted!r}"
            )
    kept = [check for check in chosen if check.name not in deselect]
    if not kept:
        raise PluginUsageError("deselect: expected at least one check to be left, got none")
    if timeout is not None and not 0 < timeout < float("inf"):
        raise PluginUsageError(f"timeout: expected > 0 and finite, got {timeout}")
    return run_all(subject.kind, subject.name, kept, on_result, timeout)


def everything() -> list[tuple[str, str]]:
    """(kind, name) of all that can be checked: the core's priors, and every ready plugin."""
    found = [("prior", name) for name in prior_names()]
    return found + [(spec.kind, spec.name) for spec in registry.specs()]


def _check_device(device: str) -> None:
    """Refuse a device that is not there, or cannot compute, before a plugin is blamed for it."""
    try:
        made = torch.zeros(1, device=device)
        if made.is_meta:
            raise PluginUsageError(
                f"device: expected one that computes, got {device!r}, which holds no values; the "
                "check 'meta-device' always tries it"
            )
        made.cpu()
    except (RuntimeError, AssertionError, ImportError) as error:
        said = str(error).partition("\n")[0]
        raise PluginUsageError(
            f"device: expected one that is there, got {device!r}: {said}"
        ) from error


def _checks_of(kind: str) -> tuple[_Named, ...]:
    if kind not in _CHECKS:
        raise UnknownPluginError(
            f"unknown kind {kind!r}, expected one of {list(KINDS)}{nearest(kind, KINDS)}"
        )
    return _CHECKS[kind]


def _subject(
    plugin: PluginSpec | type | str,
    name: str | None,
    level: Level,
    options: Mapping[str, Any] | None,
    sizes: Sequence[int] | None,
    device: str | None,
) -> Subject:
    """What the checks are to look at."""
    spec: PluginSpec | None = None
    module, kind = "", ""
    if isinstance(plugin, PluginSpec):
        spec, kind, name = plugin, plugin.kind, plugin.name
        target = registry.target_of(spec)
        with contextlib.suppress(PluginError):  # one that is not installed is checked as well
            entry = find(kind, name)
            if entry.spec == spec and entry.distribution:
                module = entry.value.partition(":")[0]
    elif inspect.isclass(plugin):
        target = plugin
        kind = "prior" if issubclass(plugin, Prior) else registry.kind_of(plugin)
        name = name or plugin.__name__
    elif isinstance(plugin, str) and name is not None:
        kind = plugin
        _checks_of(kind)
        if kind == "prior":
            if name not in prior_names():
                raise UnknownPluginError(
                    f"unknown prior {name!r}, expected one of {prior_names()}"
                    f"{nearest(name, prior_names())}"
                )
            target = prior_class(name)
        else:
            target = registry.load(kind, name)
            entry = find(kind, name)
            spec = entry.spec
            module = entry.value.partition(":")[0] if entry.distribution else ""
    else:
        raise TypeError(f"plugin: expected a kind and a name, a spec or a class, got {plugin!r}")
    owner = f"{kind} {name!r}"
    return Subject(
        kind=kind,
        name=name,
        build=lambda **given: registry.construct(target, owner, given),
        target=target,
        spec=spec,
        module=module,
        level=level,
        device=device,
        given=options,
        asked=None if sizes is None else tuple(sizes),
    )
