"""The public conformance suite: named checks that any plugin, installed or not, can be put to.

Three doors to one set of checks: the command ``flowzoo check KIND NAME``, the decorator
``parametrize_with_checks`` for pytest, and ``run_checks``, which returns a report. ``checks`` hands
out the checks themselves. What each proves is its function's docstring.
"""

from flowzoo.testing.doors import parametrize_with_checks as parametrize_with_checks
from flowzoo.testing.outcome import Check as Check
from flowzoo.testing.outcome import CheckFailed as CheckFailed
from flowzoo.testing.outcome import NotApplicable as NotApplicable
from flowzoo.testing.run import Report as Report
from flowzoo.testing.run import Result as Result
from flowzoo.testing.suite import check_names as check_names
from flowzoo.testing.suite import checks as checks
from flowzoo.testing.suite import everything as everything
from flowzoo.testing.suite import run_checks as run_checks
