"""Marks for tests that need image sets which not every machine has."""

from __future__ import annotations

import pytest

from flowzoo_bench.data.fetch import DataNotFoundError, read
from flowzoo_bench.data.files import FASHION_MNIST, MNIST, DataSet


def needs(data: DataSet) -> pytest.MarkDecorator:
    """Skip a test where the files of a data set are not on this machine."""
    try:
        read(data, "t10k-labels-idx1-ubyte.gz")
    except DataNotFoundError:
        return pytest.mark.skip(reason=f"the files of {data.name} are not on this machine")
    return pytest.mark.skipif(False, reason="")


needs_fashion_mnist = needs(FASHION_MNIST)
needs_mnist = needs(MNIST)
