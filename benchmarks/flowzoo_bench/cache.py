"""Where the harness keeps what several runs share."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "FLOWZOO_CACHE"
"""Names the folder; the platform's cache folder where it is not set."""


def cache_folder() -> Path:
    """The folder of shared, disposable files; it need not exist yet."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).expanduser()
    import pooch

    return Path(pooch.os_cache("flowzoo"))
