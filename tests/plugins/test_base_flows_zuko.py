"""The adapter to zuko: signs, directions, packing, process state, and zuko not installed."""

import copy
import importlib.metadata
import subprocess
import sys

import pytest
import torch

zuko = pytest.importorskip("zuko", reason="zuko is an optional extra")

import flowzoo_plugins.base_flows.plugin as specs  # noqa: E402
from flowzoo.catalogue import state_of  # noqa: E402
from flowzoo.training import is_packable  # noqa: E402
from flowzoo_plugins.base_flows import ZukoMAF, ZukoNSF, ZukoTransform  # noqa: E402
from known_flows import F64, data, small  # noqa: E402

FLOWS = pytest.mark.parametrize("cls", [ZukoMAF, ZukoNSF])


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@FLOWS
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("features", [1, 2, 3, 5])
def test_inverse_and_volume(cls, features, context):
    flow = small(cls, features, context)
    x, c = data(6, features, context)
    z, log_abs_det = flow.encode(x, c)
    back = flow.decode(z, c)
    torch.testing.assert_close(back.value, x, rtol=0, atol=1e-8)
    torch.testing.assert_close(back.log_abs_det, log_abs_det, rtol=0, atol=1e-8)
    assert z.dtype == log_abs_det.dtype == F64 and flow.fast == "encode"
    j = torch.autograd.functional.jacobian(lambda v: flow.encode(v, c).value.sum(0), x)
    _, expected = torch.linalg.slogdet(j.permute(1, 0, 2))
    torch.testing.assert_close(log_abs_det, expected, rtol=0, atol=1e-8)
    if context:
        assert (flow.encode(x, c + 0.5).value != z).any(dim=0).all()


@FLOWS
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("training", [False, True])
def test_edge_batches_and_meta(cls, context, rows, training):
    flow = small(cls, 3, context).train(training)
    x, c = data(rows, 3, context)
    for step in (flow.encode(x, c), flow.decode(x, c)):
        assert step.value.shape == (rows, 3) and step.log_abs_det.shape == (rows,)
        assert step.value.isfinite().all() and step.log_abs_det.isfinite().all()
    meta = copy.deepcopy(flow).to("meta")
    step = meta.encode(x.to("meta"), None if c is None else c.to("meta"))
    assert step.value.is_meta and step.log_abs_det.is_meta


@FLOWS
def test_copies_saves_and_packs(cls):
    flow = small(cls, 3, 2)
    x, c = data(5, 3, 2)
    expected = flow.encode(x, c).value
    assert torch.equal(copy.deepcopy(flow).encode(x, c).value, expected)
    fresh = cls(3, context_features=2, layers=3, hidden=(16, 16)).double().eval()
    fresh.load_state_dict(flow.state_dict())
    assert torch.equal(fresh.encode(x, c).value, expected)
    assert is_packable(flow) and len(flow.layers()) == 3


def test_maf_is_zukos():
    """Without batch-norm the same numbers as zuko's own MAF with the same weights."""
    theirs = zuko.flows.MAF(3, 2, transforms=3, hidden_features=(16,)).double()
    ours = ZukoMAF(3, context_features=2, layers=3, hidden=(16,), normalization="none").double()
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.transform.parameters(), strict=True):
            mine.copy_(other)
    x, c = data(6, 3, 2)
    step = ours.encode(x, c)
    base = torch.distributions.Normal(0.0, 1.0).log_prob(step.value).sum(1)
    torch.testing.assert_close(base + step.log_abs_det, theirs(c).log_prob(x))


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: ZukoTransform(2, torch.nn.Tanh()), TypeError, "zuko LazyTransform, got Tanh"),
        (lambda: ZukoMAF(0), ValueError, "features: expected a positive integer, got 0"),
        (lambda: ZukoMAF(2, layers=0), ValueError, "layers: expected a positive integer"),
        (lambda: ZukoMAF(2, hidden=(0,)), ValueError, "hidden: expected a positive integer"),
        (lambda: ZukoNSF(2, num_bins=1), ValueError, "num_bins: expected >= 2, got 1"),
        (lambda: ZukoNSF(2, tail_bound=0.0), ValueError, "tail_bound: .* > 0, got 0.0"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_torchs_argument_checks_stay_on():
    code = """
import torch
from flowzoo_plugins.base_flows import ZukoMAF
before = torch.random.get_rng_state().sum()
with torch.random.fork_rng():
    ZukoMAF(2, layers=1, hidden=(4,))
assert before == torch.random.get_rng_state().sum()
try:
    torch.distributions.Normal(0.0, -1.0)
except ValueError:
    pass
else:
    raise SystemExit("importing zuko turned the checks off")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("spec", [specs.ZUKO_MAF, specs.ZUKO_NSF], ids=lambda spec: spec.name)
def test_without_zuko_the_list_says_what_to_install(spec, monkeypatch):
    assert state_of(spec) == ("ready", "")
    installed = importlib.metadata.version

    def version(name):
        if name == "zuko":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert state_of(spec) == ("missing-deps", "pip install 'zuko>=1.4'")
