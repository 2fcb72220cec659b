from __future__ import annotations

from flowzoo._version import __version__ as __version__
