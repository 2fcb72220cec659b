"""Known mistakes, planted one at a time in shipped classes: the named check fails for each."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from flowzoo import layers, nets, priors
from flowzoo.interfaces import BaseFlow, Mixture, Partitioner, Splits, Step
from flowzoo.layers import conformal
from flowzoo_bench.tasks.curve_sets import Helix
from flowzoo_bench.tasks.curves import Curve
from flowzoo_plugins.base_flows.realnvp import RealNVP
from flowzoo_plugins.baselines.global_flow import GlobalFlow
from flowzoo_plugins.baselines.gmm import GaussianMixture
from flowzoo_plugins.partitioners.kmeans import KMeans
from flowzoo_plugins.vq_flows import evaluation
from flowzoo_plugins.vq_flows.mixture import VQFlow
from flowzoo_plugins.vq_flows.weights import ChartWeights
from planted import assert_found, outcome


class Fault(NamedTuple):
    """A mistake: ``wrap`` makes the wrong method of the right one."""

    mistake: str
    plugin: tuple[str, str]
    check: str
    owner: Any
    method: str
    wrap: Callable[[Any], Any]


FLOW = ("base-flow", "realnvp")
MAF = ("base-flow", "maf")
CEF = ("base-flow", "cef")
GLOBAL = ("mixture", "global")
VQ = ("mixture", "vq")
GMM = ("mixture", "gmm")
NORMAL = ("prior", "standard-normal")
BALL = ("prior", "uniform-ball")
COUPLING = layers.AffineCoupling


def volume(change):
    """A direction whose log-determinant goes through ``change(log_abs_det, value)``."""

    def wrap(right):
        def wrong(self, value, context, chart):
            step = right(self, value, context, chart)
            return Step(step.value, change(step.log_abs_det, value))

        return wrong

    return wrap


def moved(change):
    """A direction whose input goes through ``change`` first."""
    return lambda right: lambda self, value, *rest: right(self, change(value), *rest)


def result(change):
    """A method whose result goes through ``change``."""
    return lambda right: lambda *args, **options: change(right(*args, **options))


def after_init(change):
    """A constructor that does something more."""

    def wrap(right):
        def wrong(self, *args, **options):
            right(self, *args, **options)
            change(self)

        return wrong

    return wrap


def mixed_rows(value):
    return value - 0.1 * value.mean(dim=0) if len(value) else value


def in_place(value):
    with torch.no_grad():
        return value.clamp_(-1.0, 1.0)


def reseeding(value):
    torch.manual_seed(0)
    return value


def drawing(value):
    torch.rand(1)
    return value


def through_float32(value):
    return value.float().to(value.dtype)


def by_values(value):
    return value * 1.0 if bool((value > 100).any()) else value


def first_rows(value):
    return value[value.isfinite().all(dim=1)]


def refuse_nothing(right):
    return lambda self, value, context=None, chart=None: self._encode(
        torch.atleast_2d(value), context, chart
    )


def stray_tensor(module):
    module.factor = torch.ones(1)


def unused_parameter(module):
    module.never_used = nn.Parameter(torch.zeros(3))


SHARED = nn.Parameter(torch.zeros(1))


def shared_parameter(module):
    module.shift = SHARED


def unsaved_buffer(module):
    codes = module.codes
    del module._buffers["codes"]
    module.register_buffer("codes", codes, persistent=False)


def replaced_buffer(right):
    def wrong(self, x, context, chart):
        if self.training:
            self.running_mean = 0.9 * self.running_mean + 0.1 * x.mean(dim=0).detach()
        return Step(x - self.running_mean, x.new_zeros(len(x)))

    return wrong


def global_draws(right):
    def wrong(self, num, context=None, *, temperature=1.0, noise_scale=1.0, generator=None):
        return right(self, num, context, temperature=temperature)

    return wrong


def always_the_same(right):
    def wrong(self, num, context=None, *, temperature=1.0, noise_scale=1.0, generator=None):
        fixed = torch.Generator().manual_seed(0)
        return right(self, num, context, temperature=temperature, generator=fixed)

    return wrong


def cold_is_warm(right):
    def wrong(self, num, context=None, *, temperature=1.0, noise_scale=1.0, generator=None):
        return right(self, num, context, generator=generator)

    return wrong


def sampled_with_a_minus(right):
    def wrong(self, num, *, generator=None):
        z = self.prior.sample(num, generator=generator)
        x, log_abs_det = self._decode(z)
        return x, self.prior.log_prob(z) - log_abs_det

    return wrong


def bound_above(right):
    def wrong(model, x, name, log_inside=None):
        value = right(model, x, name, log_inside)
        return value + 0.5 if name == "elbo" else value

    return wrong


def clocked(right):
    def wrong(self, *args):
        right(self, *args)
        self.means.add_(time.perf_counter_ns() % 1000 * 1e-6)

    return wrong


def shared_score(right):
    def wrong(self, x, *rest):
        value = right(self, x, *rest)
        return value - 0.1 * value.mean()

    return wrong


def overflowing(right):
    def wrong(self, moved, inputs, inverse):
        more = inputs.square().sum(dim=1, keepdim=True)
        step = right(self, moved * more.exp(), inputs, inverse)
        return Step(step.value, step.log_abs_det + more[:, 0])

    return wrong


def wide(change):
    """A method of a model whose result changes from three columns on."""

    def wrap(right):
        def wrong(self, *args):
            found = right(self, *args)
            return change(found) if self.features >= 3 else found

        return wrong

    return wrap


def estimate_above(right):
    def wrong(model, x, name, log_inside=None):
        value = right(model, x, name, log_inside)
        return value + 3.0 if name == "renormalised" and model.features >= 3 else value

    return wrong


def stays_in_training(right):
    def wrong(self, x, *rest):
        value = right(self, x, *rest)
        self.train()
        return value

    return wrong


def coarse_products(right):
    def wrong(self, x, *rest):
        torch.set_float32_matmul_precision("medium")
        return right(self, x, *rest)

    return wrong


def warm_only(right):
    return lambda self, num, temperature, generator: right(self, num, 1.0, generator)


def doubled_in_training(right):
    def wrong(self, x, context, chart):
        step = right(self, x, context, chart)
        return Step(step.value * (2.0 if self.training else 1.0), step.log_abs_det)

    return wrong


def tripled_gradient(right):
    """Of the translation net's parameters only: values and input gradients stay right."""

    def wrong(self, moved, inputs, inverse):
        step = right(self, moved, inputs, inverse)
        shift = self.translation_net(inputs.detach())
        return Step(step.value + 2.0 * (shift - shift.detach()), step.log_abs_det)

    return wrong


def without_gradient(right):
    def wrong(self, z, context, chart):
        with torch.no_grad():
            return right(self, z, context, chart)

    return wrong


def first_column_only(right):
    def wrong(self, x, context, chart):
        if context is not None:
            context = context[:, :1].expand_as(context)
        return right(self, x, context, chart)

    return wrong


def scaled_rows(right):
    def wrong(self, x_train, *rest):
        x_train.mul_(2.0)
        return right(self, x_train, *rest)

    return wrong


def lost_codes(right):
    def wrong(self, *args):
        right(self, *args)
        self.codes.zero_()

    return wrong


def any_seed(right):
    return lambda self, seed: right(self, 0)


def touching_the_stream(right):
    def wrong(self, seed):
        torch.manual_seed(seed)
        return right(self, seed)

    return wrong


def own_storage(right):
    def wrong(self, seed):
        held = self.__dict__.setdefault("held", {})
        if seed not in held:
            held[seed] = right(self, seed)
        return held[seed]

    return wrong


def leaking_test_rows(splits):
    return Splits(splits.train, splits.valid, splits.train[:500].clone())


def one_chart(right):
    return lambda self, x: torch.cat([right(self, x)[:, :1] * 0, right(self, x)[:, 1:] + 1.0], 1)


FAULTS = [
    # base flows
    Fault("log-det of decode with the wrong sign", FLOW, "same-volume", COUPLING, "_decode",
          volume(lambda v, x: -v)),
    Fault("log-det of encode dropped", FLOW, "jacobian", COUPLING, "_encode",
          volume(lambda v, x: 0 * v)),
    Fault("log-det of encode counted twice", FLOW, "normalised", COUPLING, "_encode",
          volume(lambda v, x: 2 * v)),
    Fault("log-det of both directions off by a constant", FLOW, "jacobian", RealNVP, "_encode",
          volume(lambda v, x: v + 0.01)),
    Fault("inverse that forgets the shift", FLOW, "round-trip", COUPLING, "_decode",
          moved(lambda z: z + 0.01)),
    Fault("inverse right to float32 only", FLOW, "dtypes", COUPLING, "_decode",
          moved(through_float32)),
    Fault("batch rows mixed", FLOW, "rows-independent", COUPLING, "_encode", moved(mixed_rows)),
    Fault("input edited in place", FLOW, "isolation", RealNVP, "_encode", moved(in_place)),
    Fault("global seed set", FLOW, "isolation", COUPLING, "_encode", moved(reseeding)),
    Fault("global stream used", FLOW, "isolation", COUPLING, "_encode", moved(drawing)),
    Fault("unregistered tensor", FLOW, "registered-tensors", COUPLING, "__init__",
          after_init(stray_tensor)),
    Fault("unregistered tensor in use", FLOW, "meta-device", COUPLING, "_encode",
          moved(lambda x: x * torch.ones(1, 1, dtype=x.dtype))),
    Fault("float32 inside", FLOW, "dtypes", COUPLING, "_encode", moved(lambda x: x.float())),
    Fault("values decide a branch", FLOW, "packed", COUPLING, "_encode", moved(by_values)),
    Fault("values decide a shape", FLOW, "meta-device", COUPLING, "_encode", moved(first_rows)),
    Fault("statistics replaced, not updated", FLOW, "packed", layers.InvertibleBatchNorm,
          "_encode", replaced_buffer),
    Fault("context ignored", FLOW, "context", COUPLING, "_move",
          lambda right: lambda self, moved, inputs, *rest: right(self, moved, 0 * inputs, *rest)),
    Fault("parameter never used", FLOW, "gradients", COUPLING, "__init__",
          after_init(unused_parameter)),
    Fault("gradients overflow far from the data", FLOW, "gradients", COUPLING, "_move",
          overflowing),
    Fault("fails for no row", FLOW, "shapes", COUPLING, "_encode",
          moved(lambda x: x + 0 * x.max(dim=0).values)),
    Fault("wrong shapes accepted", FLOW, "bad-input", BaseFlow, "encode", refuse_nothing),
    Fault("state shared between instances", FLOW, "deepcopy", COUPLING, "__init__",
          after_init(shared_parameter)),
    Fault("layers in the wrong order", FLOW, "layers", RealNVP, "layers",
          result(lambda found: tuple(reversed(found)))),
    Fault("wrong fast direction declared", MAF, "capabilities", layers.MaskedAffineAutoregressive,
          "__init__", after_init(lambda layer: setattr(layer, "fast", "decode"))),
    Fault("mask that lets a column see itself", MAF, "jacobian", nets.made.MaskedOutput, "__init__",
          after_init(lambda layer: layer.mask.fill_(1.0))),
    Fault("gradient cut", FLOW, "derivatives", COUPLING, "_move",
          lambda right: lambda self, moved, x, *rest: right(self, moved, x.detach(), *rest)),
    Fault("another map in training mode", ("base-flow", "nice"), "jacobian",
          layers.AdditiveCoupling, "_encode", doubled_in_training),
    Fault("gradients of parameters tripled", FLOW, "parameter-derivatives", COUPLING, "_move",
          tripled_gradient),
    Fault("decode cut from the graph", FLOW, "derivatives", RealNVP, "_decode", without_gradient),
    Fault("second column of the context ignored", FLOW, "context", RealNVP, "_encode",
          first_column_only),
    Fault("NaN becomes a number", FLOW, "bad-input", RealNVP, "_encode",
          moved(lambda x: x.nan_to_num())),
    # embeddings
    Fault("two charts share one map", CEF, "context", conformal, "_of",
          lambda right: lambda value, chart: right(
              value, None if chart is None else chart.clamp(max=1))),
    Fault("exponent D for d in the volume of a scale", CEF, "jacobian", conformal.Scale, "_volume",
          result(lambda v: 1.5 * v)),
    Fault("wrong sign in the special conformal map", CEF, "jacobian", conformal.SpecialConformal,
          "_decode", volume(lambda v, x: -v)),
    Fault("matrix that is not orthogonal", CEF, "conformal", conformal.Orthogonal, "matrix",
          result(lambda q: q * torch.linspace(1.0, 1.1, q.shape[-1], dtype=q.dtype))),
    # priors
    Fault("normaliser off by a constant", NORMAL, "normalised", priors.StandardNormal, "log_prob",
          result(lambda v: v + 0.01)),
    Fault("normaliser off by a constant, uniform", BALL, "normalised", priors.UniformBall,
          "log_prob", result(lambda v: v - 0.05)),
    Fault("seed ignored: always the global stream", NORMAL, "seeds", priors.StandardNormal,
          "sample", global_draws),
    Fault("seed ignored: always the same draws", NORMAL, "seeds", priors.StandardNormal, "sample",
          always_the_same),
    Fault("temperature ignored", NORMAL, "seeds", priors.StandardNormal, "sample", cold_is_warm),
    Fault("draws spread too wide", NORMAL, "normalised", priors.StandardNormal, "sample",
          result(lambda z: 1.1 * z)),
    Fault("normal numbers mapped to another law", BALL, "from-normal", priors.UniformBall,
          "from_normal", result(lambda z: 0.9 * z)),
    # mixtures
    Fault("normaliser of the prior off by a constant", GLOBAL, "normalised", priors.StandardNormal,
          "log_prob", result(lambda v: v + 0.01)),
    Fault("chart weights not normalised", VQ, "normalised", ChartWeights, "log_prob",
          result(lambda v: v + 0.2)),
    Fault("component weights not normalised", GMM, "normalised", GaussianMixture, "_joint",
          result(lambda v: v + 0.05)),
    Fault("wrong sign when sampling", GLOBAL, "sample-and-log-prob", GlobalFlow,
          "sample_and_log_prob", sampled_with_a_minus),
    Fault("draws ignore the weights", VQ, "samples-follow-density", VQFlow, "chart_decode",
          lambda right: lambda self, z, chart: right(self, z, 0 * chart)),
    Fault("draws of another spread than the density's", GLOBAL, "samples-follow-density",
          GlobalFlow, "_decode", lambda right: lambda self, z: right(self, 1.15 * z)),
    Fault("bound above the density", VQ, "bounds", evaluation, "log_prob", bound_above),
    Fault("bound with too much mass", VQ, "normalised", evaluation, "log_prob", bound_above),
    Fault("seed ignored when sampling", GLOBAL, "sample", priors.StandardNormal, "sample",
          global_draws),
    Fault("one draw for ever", GLOBAL, "sample", priors.StandardNormal, "sample",
          always_the_same),
    Fault("rows scored together", GLOBAL, "rows-independent", GlobalFlow, "_log_prob",
          shared_score),
    Fault("NaN rows accepted", GLOBAL, "bad-input", Mixture, "log_prob",
          lambda right: lambda self, x, *, evaluation=None, num_samples=None, generator=None:
          self._log_prob(x, evaluation or "exact", num_samples, generator)),
    Fault("charts as floats", VQ, "capabilities", VQFlow, "assign",
          result(lambda chart: chart.double())),
    Fault("training that reseeds the process", GMM, "training", GaussianMixture, "_fit",
          lambda right: lambda self, *args: (random.seed(0), right(self, *args))[1]),
    Fault("training that depends on more than the seed", GMM, "training", GaussianMixture, "_fit",
          clocked),
    Fault("density wrong from 3 columns on", GLOBAL, "samples-follow-density", GlobalFlow,
          "_log_prob", wide(lambda v: v + 0.2)),
    Fault("draws too wide from 3 columns on", GLOBAL, "samples-follow-density", GlobalFlow,
          "_sample", wide(lambda x: 1.3 * x)),
    Fault("estimate far off from 3 columns on", VQ, "bounds", evaluation, "log_prob",
          estimate_above),
    Fault("scoring that leaves training mode on", GLOBAL, "isolation", GlobalFlow, "_log_prob",
          stays_in_training),
    Fault("precision of products lowered", GLOBAL, "isolation", GlobalFlow, "_log_prob",
          coarse_products),
    Fault("temperature of the mixture ignored", GLOBAL, "sample", GlobalFlow, "_sample", warm_only),
    Fault("negative charts", VQ, "capabilities", VQFlow, "assign", result(lambda c: c - 5)),
    Fault("codes of another shape", VQ, "capabilities", VQFlow, "embed",
          result(lambda z: z[:, None, :])),
    Fault("training rows changed in place", GMM, "training", GaussianMixture, "_fit", scaled_rows),
    # partitioners
    Fault("codes forgotten", ("partitioner", "kmeans"), "charts", KMeans, "_fit", lost_codes),
    Fault("negative distances", ("partitioner", "kmeans"), "distances", KMeans, "_distances",
          result(lambda d: d - 1.0)),
    Fault("NaN where a row is a code", ("partitioner", "kmeans"), "distances", KMeans, "_distances",
          result(lambda d: d / (d > 0.05))),
    Fault("every row in one chart", ("partitioner", "kmeans"), "charts", KMeans, "_distances",
          one_chart),
    Fault("codes not saved", ("partitioner", "kmeans"), "save-load", KMeans, "__init__",
          after_init(unsaved_buffer)),
    Fault("distances within the batch", ("partitioner", "kmeans"), "rows-independent", Partitioner,
          "distances", result(lambda d: d / d.mean())),
    # tasks
    Fault("seed ignored", ("task", "helix"), "seeds", Helix, "splits", any_seed),
    Fault("global stream reseeded", ("task", "helix"), "seeds", Helix, "splits",
          touching_the_stream),
    Fault("its own storage handed out", ("task", "helix"), "seeds", Helix, "splits", own_storage),
    Fault("float32 rows", ("task", "helix"), "splits", Helix, "splits",
          result(lambda s: Splits(*(x.float() for x in s)))),
    Fault("test rows among the training rows", ("task", "helix"), "distinct-rows", Helix, "splits",
          result(leaking_test_rows)),
    Fault("true density off by a constant", ("task", "helix"), "oracle-normalised", Helix,
          "log_prob", result(lambda v: v + 0.3)),
    Fault("true density of rows together", ("task", "helix"), "oracle", Helix, "log_prob",
          result(lambda v: v - v.mean())),
    Fault("validation rows are the test rows", ("task", "helix"), "distinct-rows", Helix, "splits",
          result(lambda s: Splits(s.train, s.test.clone(), s.test))),
    Fault("test rows off the support", ("task", "helix"), "oracle-normalised", Helix, "splits",
          result(lambda s: Splits(s.train, s.valid, s.test + 0.02))),
    Fault("squared distance", ("task", "helix"), "support", Curve, "distance",
          result(lambda d: d.square())),
    Fault("distance to another support", ("task", "helix"), "support", Curve, "distance",
          result(lambda d: d + 0.5)),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.mistake for fault in FAULTS])
def test_a_planted_mistake_fails_its_check(fault, monkeypatch):
    right = getattr(fault.owner, fault.method)
    monkeypatch.setattr(fault.owner, fault.method, fault.wrap(right))
    assert_found(fault.plugin, fault.check)


@pytest.mark.parametrize(
    "plugin, name",
    sorted({(fault.plugin, fault.check) for fault in FAULTS}),
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_the_original_passes(plugin, name):
    found = outcome(plugin, name)
    assert found.status == "passed", f"{found.status}: {found.message}"
