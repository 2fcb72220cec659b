"""The plugin under check, and the instances of it that the checks look at."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from flowzoo.options import Option, options_of
from flowzoo.plugin import PluginSpec
from flowzoo.testing.outcome import Level

GRID = (1, 2, 3, 5)
"""Numbers of columns every plugin is tried on, unless it declares others."""
CONTEXT = 2
CHARTS = 3


@dataclass(frozen=True)
class Case:
    """One shape to try: D columns, C columns of context, K charts (None: not indexed by charts)."""

    features: int
    context: int = 0
    charts: int | None = None

    def options(self) -> dict[str, int]:
        """The options that ask for it."""
        asked = {"features": self.features}
        if self.context:
            asked["context_features"] = self.context
        if self.charts is not None:
            asked["num_charts"] = self.charts
        return asked

    def __str__(self) -> str:
        text = f"D={self.features}"
        if self.context:
            text += f", context {self.context}"
        return text if self.charts is None else f"{text}, {self.charts} charts"


@dataclass(frozen=True)
class Subject:
    """A plugin, or any builder of instances, with what is known about it.

    Attributes:
        kind: which contract it fulfils; ``prior`` beside the plugin kinds.
        name: its name.
        build: makes an instance from options, as ``flowzoo.build`` does.
        target: the class or function whose signature names the options.
        spec: what the plugin says about itself; None for what is no plugin.
        module: module that holds the spec; empty when unknown.
        level: how much is tried.
        device: where else the plugin must run, e.g. ``cuda``; None for nowhere else.
        given: options of a small instance, instead of the spec's.
        asked: numbers of columns to try, instead of what the plugin declares.
    """

    kind: str
    name: str
    build: Callable[..., Any]
    target: Callable[..., Any]
    spec: PluginSpec | None = None
    module: str = ""
    level: Level = "quick"
    device: str | None = None
    given: Mapping[str, Any] | None = None
    asked: tuple[int, ...] | None = None
    _made: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What the plugin declares."""
        return {} if self.spec is None else self.spec.capabilities

    @property
    def signature(self) -> dict[str, Option]:
        """The options the plugin's constructor names."""
        return options_of(self.target)

    @property
    def options(self) -> Mapping[str, Any]:
        """The options that make a small instance."""
        if self.given is not None:
            return self.given
        declared: Mapping[str, Any] | str = {} if self.spec is None else self.spec.check_options
        if not isinstance(declared, str):
            return declared
        if "options" not in self._made:
            from importlib import import_module

            module, _, name = declared.partition(":")
            # lives as long as the subject: instances may read the files again
            self._made["folder"] = folder = tempfile.TemporaryDirectory(prefix="flowzoo-check-")
            self._made["options"] = getattr(import_module(module), name)(Path(folder.name))
        options: Mapping[str, Any] = self._made["options"]
        return options

    def sizes(self) -> list[int]:
        """The numbers of columns to try."""
        if self.asked is not None:
            return list(self.asked)
        declared: Sequence[int] | int | None = self.capabilities.get("features")
        least = self.least_features()
        tried = (declared,) if isinstance(declared, int) else declared
        if tried is None:
            tried = [d for d in GRID if d >= least] or [least, least + 2]
        sizes = [d for d in tried if d >= least]
        if not sizes:
            raise ValueError(f"capabilities: features {declared} and min_features {least}: no D")
        return sizes

    def least_features(self) -> int:
        """The smallest D the plugin declares to work for."""
        return int(self.capabilities.get("min_features", 1))

    def cases(self) -> Iterator[Case]:
        """Every shape to try: with and without context and charts, where those are options."""
        named = self.signature
        conditional = "context_features" in named and self.capabilities.get("conditional", True)
        always = conditional and named["context_features"].required
        indexed = "num_charts" in named and self.kind == "base-flow"
        charted = indexed and named["num_charts"].default is not None
        sizes = self.sizes()
        for features in sizes:
            charts = CHARTS if charted else None
            if not always:
                yield Case(features, 0, charts)
            if conditional:
                yield Case(features, CONTEXT, charts)
            if indexed and not charted and features == sizes[-1]:
                yield Case(features, CONTEXT if conditional else 0, CHARTS)

    def make(self, seed: int = 0, **options: Any) -> Any:
        """A new instance with the small options; the global random stream is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build(**{**self.options, **options})

    def keep(self, key: Any, make: Callable[[], Any]) -> Any:
        """A copy of what ``make`` returns, which is called once for each ``key``."""
        if key not in self._made:
            self._made[key] = make()
        return copy.deepcopy(self._made[key])


@contextmanager
def trying(what: object) -> Iterator[None]:
    """Say in the message of what is raised inside which case it was."""
    from flowzoo.testing.outcome import CheckFailed, NotApplicable

    try:
        yield
    except NotApplicable:
        raise
    except CheckFailed as failure:
        raise CheckFailed(f"{what}: {failure}") from failure
    except Exception as error:
        raise CheckFailed(
            f"{what}: {type(error).__name__}: {' '.join(str(error).split())}"[:500]
        ) from error
