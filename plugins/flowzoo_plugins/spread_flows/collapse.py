"""What training warns of: nothing but noise left, and dimensions that tell nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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


def dimension_messages(
    dimensions: Sequence[int], rows: Sequence[int], most: int | None
) -> list[str]:
    """Warnings about the dimensions found of each part, from so many training rows of each.

    ``most`` is the rank that A is held to, None where that is D.

    The loss cannot say of many columns what the spectrum says: a little signal in each of them is
    more, together, than one axis has.
    """
    said = []
    if min(dimensions) == 0:
        said.append("collapse: no axis of A A' stands out of the noise, codes are no wider than it")
    said += [
        f"dimension: {found} axes of {count} rows, which span no more: it is that of these rows, "
        f"not of what they were drawn from"
        for found, count in zip(dimensions, rows, strict=True)
        if found >= max(1, count - 1)
    ]
    if most is not None and max(dimensions) >= most:
        said.append(
            f"dimension: all {most} columns of A stand out of the noise: it is at least {most}, "
            f"and a larger rank may find more"
        )
    return said


def disagreements(
    axes: Sequence[int], around: Sequence[int], rows: Sequence[int], most: int | None
) -> list[str]:
    """Warnings about parts whose A A' has other axes than the density around rows dimensions.

    ``rows`` are those of each part that were kept to look around, ``most`` the rank A is held to,
    of which ``dimension_messages`` tells.
    """
    said = [
        f"dimension: part {part} has none of the {sum(rows)} rows kept; what it has is the axes "
        f"of its A A'"
        for part, count in enumerate(rows)
        if count == 0
    ]
    return said + [
        f"dimension: {dimension} around rows, and A A' has {count} axes above the noise: codes "
        f"stay bent, as those of a sphere, or were squeezed; embed, reconstruct and the density on "
        f"the manifold take these axes unless told otherwise"
        for count, dimension in zip(axes, around, strict=True)
        if count not in (0, dimension, most)
    ]
