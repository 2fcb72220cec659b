"""Names of numbers that were measured on samples drawn with a knob turned."""

from __future__ import annotations

import re
from math import isfinite

_SUFFIX = re.compile(r"\[(?P<knob>[st])=(?P<value>[^\[\]]+)\]$")


def knob_name(base: str, *, noise_scale: float = 1.0, temperature: float = 1.0) -> str:
    """``base`` with ``[s=...]`` for a noise scale and ``[t=...]`` for a temperature other than 1.

    Raises:
        ValueError: a knob is not a finite number >= 0, or ``base`` already ends in one.

    Example:
        >>> knob_name("frechet_distance[classifier]", noise_scale=0.2, temperature=2.0)
        'frechet_distance[classifier][s=0.2][t=2]'
        >>> knob_name("frechet_distance[classifier]")
        'frechet_distance[classifier]'
    """
    if parse_knob_name(base)[1]:
        raise ValueError(f"base: expected a name without knobs, got {base!r}")
    for name, value in (("noise_scale", noise_scale), ("temperature", temperature)):
        if not (isfinite(value) and value >= 0):
            raise ValueError(f"{name}: expected a finite number >= 0, got {value!r}")
    suffixes = [
        f"[{knob}={_shown(value)}]"
        for knob, value in (("s", noise_scale), ("t", temperature))
        if value != 1
    ]
    return base + "".join(suffixes)


def parse_knob_name(name: str) -> tuple[str, dict[str, float]]:
    """The base name and its knobs: ``s`` (noise scale), ``t`` (temperature); what is 1 is absent.

    Example:
        >>> parse_knob_name("precision[classifier][s=0.2]")
        ('precision[classifier]', {'s': 0.2})
    """
    knobs: dict[str, float] = {}
    base = name
    while (found := _SUFFIX.search(base)) is not None and found["knob"] not in knobs:
        try:
            knobs[found["knob"]] = float(found["value"])
        except ValueError:
            break
        base = base[: found.start()]
    return base, dict(sorted(knobs.items()))


def _shown(value: float) -> str:
    """The shortest text that reads back as the same number; no ``.0``."""
    return repr(float(value)).removesuffix(".0")
