"""The executors that come along; importing this imports nothing heavy."""

from __future__ import annotations

from flowzoo.plugin import PluginSpec

LOCAL = PluginSpec(
    kind="executor",
    name="local",
    summary="One worker process a pack on this machine, in its own process group.",
    target="flowzoo_bench.executors.local:LocalExecutor",
    capabilities={"isolation": "process group", "timeout": True, "gpu_slots": True},
)
