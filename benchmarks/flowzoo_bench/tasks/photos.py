"""Photos that scikit-image carries, for tasks that cut them up."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

PHOTOS = ("astronaut", "chelsea", "coffee", "hubble", "rocket")
"""In the order of their labels. Public domain or CC0, all of them."""
_FUNCTIONS = {"hubble": "hubble_deep_field"}


@lru_cache(maxsize=len(PHOTOS))
def photo(name: str) -> NDArray[np.uint8]:
    """A photo (H, W, 3), one of ``PHOTOS``, not to be written to.

    Raises:
        ImportError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError(
            "photos: scikit-image is not installed; pip install 'flowzoo[image]'"
        ) from error
    found = np.array(getattr(data, _FUNCTIONS.get(name, name))(), dtype=np.uint8)
    found.flags.writeable = False
    return found


def photo_digest() -> str:
    """Hash of the decoded photos: two decoders may round differently.

    Raises:
        ImportError: scikit-image is not installed.
    """
    digest = hashlib.sha256()
    for name in PHOTOS:
        digest.update(photo(name).tobytes())
    return digest.hexdigest()[:16]
