"""When the loss without entropy says that nothing but noise is left."""

from __future__ import annotations

import math
from collections.abc import Mapping

_ONE_AXIS = 0.5 * math.log(2.0)
"""What one axis with as much signal as noise has above the entropy of the noise, in nats."""


def collapse_message(means: Mapping[str, float]) -> str | None:
    r"""A warning where the loss has passed its floor H(sigma epsilon), or come down to it; or None.

    -E log p(z + sigma epsilon) is at least the entropy of the noise. At it no axis of A A' is left
    above sigma^2; below it, by more than chance, can only be what is no noise, as an offset. The
    floor is that of the noise drawn, so that chance is small.
    """
    surrogate, floor = means["surrogate"], means["floor"]
    if not (math.isfinite(surrogate) and math.isfinite(floor)) or surrogate >= floor + _ONE_AXIS:
        return None
    where = "passed" if surrogate < floor - _ONE_AXIS else "reached"
    return (
        f"collapse: the loss without entropy, {surrogate:.2f} nats, has {where} its floor "
        f"{floor:.2f}, the entropy of the noise; codes are no wider than the noise and the "
        f"spectrum tells no dimension"
    )
