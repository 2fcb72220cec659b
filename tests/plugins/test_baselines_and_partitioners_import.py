"""The packages import lazily, and their specs match their entry points."""

import subprocess
import sys

import pytest

from flowzoo.registry import load

CODE = """
import sys
import flowzoo_plugins.{package}.plugin
heavy = sorted(m for m in ("torch", "sklearn", "numpy", "scipy") if m in sys.modules)
assert not heavy, heavy
import flowzoo_plugins.{package} as package
assert set(package.__all__) <= set(dir(package))
"""


@pytest.mark.parametrize("package", ["baselines", "partitioners"])
def test_specs_import_nothing_heavy(package):
    subprocess.run([sys.executable, "-c", CODE.format(package=package)], check=True, timeout=60)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("partitioner", "kmeans"),
        ("partitioner", "vq-autoencoder"),
        ("mixture", "gaussian"),
        ("mixture", "gmm"),
        ("mixture", "kde"),
        ("mixture", "global"),
    ],
)
def test_targets_are_what_the_packages_export(kind, name):
    target = load(kind, name)
    package = __import__(target.__module__.rpartition(".")[0], fromlist=["x"])
    assert getattr(package, target.__name__) is target


def test_unknown_names_are_attribute_errors():
    import flowzoo_plugins.baselines
    import flowzoo_plugins.partitioners

    for package in (flowzoo_plugins.baselines, flowzoo_plugins.partitioners):
        with pytest.raises(AttributeError, match="no attribute 'Missing'"):
            _ = package.Missing
