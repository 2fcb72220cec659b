"""Distributions made up for a test, in a folder on sys.path."""

from __future__ import annotations

from pathlib import Path

from flowzoo import registry

SPEC = """
from flowzoo.plugin import PluginSpec
SPEC = PluginSpec(kind={kind!r}, name={name!r}, summary="made for a test",
                  target="{module}_target:Thing", {extra})
"""


class Site:
    """A folder on sys.path that holds fake distributions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def entry_points(
        self,
        text: str,
        dist: str,
        version: str = "1.0",
        *,
        metadata: bool = True,
        egg: bool = False,
    ) -> Path:
        folder = dist.replace("-", "_")  # as the wheel format asks
        info = self.folder / f"{folder}-{version}.{'egg' if egg else 'dist'}-info"
        info.mkdir()
        if metadata:
            name = "PKG-INFO" if egg else "METADATA"
            (info / name).write_text(
                f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n", "utf-8"
            )
        (info / "entry_points.txt").write_text(text, "utf-8")
        return info

    def plugin(
        self,
        dist: str,
        name: str = "thing",
        *,
        module: str | None = None,
        kind: str = "task",
        said: tuple[str, str] | None = None,
        extra: str = "",
        version: str = "1.0",
        **how: bool,
    ) -> str:
        module = module or f"fake_{dist.replace('-', '_').lower()}_{name.replace('-', '_')}"
        spec_kind, spec_name = said or (kind, name)
        text = SPEC.format(kind=spec_kind, name=spec_name, module=module, extra=extra)
        (self.folder / f"{module}.py").write_text(text, "utf-8")
        group = f"flowzoo.{kind.replace('-', '_')}s"
        self.entry_points(f"[{group}]\n{name} = {module}:SPEC\n", dist, version, **how)
        return module

    def target(self, module: str, text: str) -> None:
        (self.folder / f"{module}_target.py").write_text(text, "utf-8")


def tasks() -> dict[str, registry.Entry]:
    """The tasks that are not built in."""
    registry.refresh()
    return {
        f"{entry.distribution}:{entry.name}": entry
        for entry in registry.entries("task")
        if entry.distribution != "flowzoo"
    }
