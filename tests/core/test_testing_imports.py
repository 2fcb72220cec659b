"""How long a spec's import may take: by the processor's clock, as machines are busy."""

from __future__ import annotations

import pytest

import flowzoo
from fake_site import Site
from planted import outcome

TASK = """
from flowzoo.interfaces import Task

class Thing(Task):
    def __init__(self):
        super().__init__(1)

    def splits(self, seed):
        raise RuntimeError
"""
WAITS = "import time\ntime.sleep(1.3)\n"
WORKS = "import time\nwhile time.process_time() < 2.5:\n    pass\n"


@pytest.mark.parametrize(("head", "status"), [(WAITS, "passed"), (WORKS, "failed")])
def test_imports_are_timed_by_their_work(site: Site, head: str, status: str) -> None:
    module = site.plugin("slow", "slow")
    site.target(module, TASK)
    file = site.folder / f"{module}.py"
    file.write_text(head + file.read_text("utf-8"), "utf-8")
    flowzoo.registry.refresh()
    found = outcome(("task", "slow"), "import")
    assert found.status == status, found.message
    if status == "failed":
        assert "of processor time" in found.message
