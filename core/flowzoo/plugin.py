"""What a plugin says about itself; importing this module, or a spec, imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

API = (1, 0)
"""Version of the contracts: a plugin loads if its major is equal and its minor is not larger."""

Kind = Literal["partitioner", "base-flow", "mixture", "task", "metric", "executor", "command"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GROUPS: Mapping[Kind, str] = {
    kind: f"flowzoo.{kind.replace('-', '_')}s" for kind in KINDS
}  # entry-point group of each kind


@dataclass(frozen=True)
class PluginSpec:
    """One plugin, as its entry point names it.

    Attributes:
        kind: which contract the target fulfils.
        name: unique within the kind; equal to the entry point's name.
        summary: one line.
        target: ``package.module:Class``, imported only when the plugin is loaded. The constructor's
            keywords are the plugin's options.
        api: version of the contracts it was written for, ``major.minor``.
        version: the method's own version; raising it says that results are not comparable.
        requires: distributions needed beyond flowzoo's own, as requirement strings.
        capabilities: plain data about the method, shown by ``flowzoo info``.
        paper: title and identifier of the source.
        bibtex: the source's BibTeX entry.
        expected_failed_checks: conformance checks that must fail, each with its reason.
        check_options: options of a small instance for the conformance checks, laid over the
            defaults; or ``package.module:function``, called with an empty folder (a path), which
            returns them, for a plugin that needs a file.
    """

    kind: Kind
    name: str
    summary: str
    target: str
    api: str = "1.0"
    version: str = "1"
    requires: tuple[str, ...] = ()
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    paper: str = ""
    bibtex: str = ""
    expected_failed_checks: Mapping[str, str] = field(default_factory=dict)
    check_options: Mapping[str, Any] | str = field(default_factory=dict)

    def __post_init__(self) -> None:
        for field_name in ("name", "summary", "target", "api", "version"):
            value = getattr(self, field_name)
            if not isinstance(value, str):
                raise ValueError(f"{field_name}: expected a string, got {value!r}")
        if isinstance(self.requires, str) or not all(isinstance(r, str) for r in self.requires):
            raise ValueError(f"requires: expected a tuple of strings, got {self.requires!r}")
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {KINDS}, got {self.kind!r}")
        if not self.name:
            raise ValueError("name: expected a non-empty string, got ''")
        for name, reason in self.expected_failed_checks.items():
            if not isinstance(reason, str) or not reason.strip():
                raise ValueError(
                    f"expected_failed_checks: expected a reason for {name!r}, got {reason!r}"
                )
        if isinstance(self.check_options, str) and self.check_options.count(":") != 1:
            raise ValueError(
                "check_options: expected a mapping or 'package.module:function', "
                f"got {self.check_options!r}"
            )
        if self.target.count(":") != 1:
            raise ValueError(f"target: expected 'package.module:Class', got {self.target!r}")
        parts = self.api.split(".")
        if len(parts) != 2 or not all(part.isdigit() for part in parts):
            raise ValueError(f"api: expected 'major.minor', got {self.api!r}")
