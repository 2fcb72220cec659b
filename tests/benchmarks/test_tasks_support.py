"""Seeds, standardisation and task specs."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from flowzoo_bench.seeds import seed
from flowzoo_bench.tasks import Standardizer


def test_seed_is_stable_and_63_bits():
    # sha256 of '["data","helix",0]', first eight bytes, shifted right by one
    import hashlib

    digest = hashlib.sha256(b'["data","helix",0]').hexdigest()
    assert seed("data", "helix", 0) == int(digest[:16], 16) // 2
    values = [seed("data", index) for index in range(2000)]
    assert len(set(values)) == 2000
    assert max(values) < 2**63 and max(values) > 2**62 and min(values) >= 0
    torch.Generator().manual_seed(max(values))


def test_seed_tells_types_and_boundaries_apart():
    variants = [
        seed("a", 1),
        seed("a", "1"),
        seed("a", 1.0),
        seed("a", True),
        seed("a", None),
        seed("a"),
        seed("a", ""),
        seed("a", "b", "c"),
        seed("a", "bc"),
        seed("ab", "c"),
        seed("a", 'b","c'),
    ]
    assert len(set(variants)) == len(variants)


def test_seed_refuses_what_has_no_canonical_form():
    for part in ([1], (1, 2), {"a": 1}, np.int64(3), torch.tensor(1)):
        with pytest.raises(TypeError, match="parts"):
            seed("a", part)
    with pytest.raises(TypeError, match="purpose"):
        seed(1)
    with pytest.raises(ValueError):
        seed("a", float("nan"))


def test_standardizer_fits_scales_and_undoes():
    x = torch.as_tensor(np.random.default_rng(0).normal([5, -3], [2, 0.01], (1000, 2)))
    fit = Standardizer.fit(x)
    z = fit.encode(x)
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(2).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        z.std(dim=0, correction=0), torch.ones(2).double(), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(fit.decode(z), x, rtol=0, atol=1e-13)
    assert fit.encode(x.float()).dtype == torch.float32
    jacobian = torch.autograd.functional.jacobian(lambda r: fit.encode(r[None])[0], x[0])
    expected = jacobian.slogdet().logabsdet.expand(4)
    torch.testing.assert_close(fit.log_abs_det(x[:4]), expected, rtol=0, atol=1e-12)


def test_original_unit_density_of_a_gaussian():
    normal = torch.distributions.Normal(
        torch.tensor([5.0, -3.0]).double(), torch.tensor([2.0, 0.01]).double()
    )
    x = torch.tensor([[5.3, -3.001], [4.0, -2.99]]).double()
    scaling = Standardizer(normal.loc, normal.scale)
    standard = torch.distributions.Normal(torch.zeros(2).double(), torch.ones(2).double())
    got = standard.log_prob(scaling.encode(x)).sum(dim=1) + scaling.log_abs_det(x)
    torch.testing.assert_close(got, normal.log_prob(x).sum(dim=1))


def test_constant_columns_keep_scale_one():
    x = torch.tensor([[0.1, 1.0, 1e-320], [0.1, 2.0, 0.0], [0.1, 4.0, 0.0]]).double()
    fit = Standardizer.fit(x)
    assert fit.scale[0] == 1 and fit.scale[2] == 1 and fit.scale[1] != 1
    assert torch.isfinite(fit.encode(x)).all()
    assert Standardizer.fit(x[:1]).scale.tolist() == [1, 1, 1]
    identity = Standardizer.identity(3)
    assert torch.equal(identity.encode(x), x) and not identity.log_abs_det(x).any()


def test_standardizer_refuses_bad_input():
    with pytest.raises(ValueError, match="N >= 1"):
        Standardizer.fit(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="finite"):
        Standardizer.fit(torch.tensor([[1.0], [float("inf")]]))
    with pytest.raises(ValueError, match="positive"):
        Standardizer(torch.zeros(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="shape"):
        Standardizer(torch.zeros(2), torch.ones(3))


def specs():
    from flowzoo.plugin import PluginSpec
    from flowzoo_bench.metrics import plugin as metrics
    from flowzoo_bench.tasks import plugin as tasks
    from flowzoo_bench.tasks import plugin_manifolds as manifolds
    from flowzoo_bench.tasks import plugin_plane as plane

    return [
        v
        for m in (tasks, manifolds, plane, metrics)
        for v in vars(m).values()
        if isinstance(v, PluginSpec)
    ]


@pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.name)
def test_every_spec_points_at_a_class_of_its_kind(spec):
    from importlib import import_module

    from flowzoo.interfaces.metric import Metric
    from flowzoo.interfaces.task import Task

    module, _, name = spec.target.partition(":")
    target = getattr(import_module(module), name)
    assert issubclass(target, {"task": Task, "metric": Metric}[spec.kind])
    if spec.kind == "task" and spec.name != "file":
        task = target()
        assert spec.capabilities["features"] in (None, task.features)
        assert (task.oracle is not None) == spec.capabilities["oracle"]
        assert (target.distance is not Task.distance) == spec.capabilities["support"]


def test_specs_and_packages_import_nothing_heavy():
    code = (
        "import sys, flowzoo_bench.tasks.plugin, flowzoo_bench.tasks.plugin_manifolds;"
        "import flowzoo_bench.tasks.plugin_plane, flowzoo_bench.metrics.plugin;"
        "import flowzoo_bench.seeds;"
        "print([m for m in ('torch', 'numpy', 'scipy', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
