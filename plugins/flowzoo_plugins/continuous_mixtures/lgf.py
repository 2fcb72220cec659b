"""Localised generative flows: stacked mixtures of bijections over a continuous index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from flowzoo.charts import Condition
from flowzoo.interfaces import BaseFlow, Partitioner, Prior
from flowzoo.layers.scale_bound import LOG_SCALE_BOUND, Bound, check_bound_or_none
from flowzoo.mixtures import Frame
from flowzoo.nets import Activation
from flowzoo.priors import build_prior
from flowzoo.training.options import TrainingOptions
from flowzoo.validation import check_positive
from flowzoo_plugins.continuous_mixtures.bijections import (
    Affine,
    Conditioned,
    IndexedBijection,
    scale_and_shift_net,
)
from flowzoo_plugins.continuous_mixtures.building import check_widths, flow_layers, told_layers
from flowzoo_plugins.continuous_mixtures.charts import Charts
from flowzoo_plugins.continuous_mixtures.index import ConditionalGaussian
from flowzoo_plugins.continuous_mixtures.joint import IndexedLayer, InferFrom, Joint
from flowzoo_plugins.continuous_mixtures.mixture import IndexedMixture
from flowzoo_plugins.continuous_mixtures.objectives import Objective

Family = Literal["affine", "conditioned"]


class LGF(IndexedMixture):
    r"""A base flow taken apart, with a continuous index between its layers.

    .. math:: z_0 \sim p_{Z_0}, \quad u_l \sim N(\mu_p(z_{l-1}), \sigma_p(z_{l-1})^2), \quad
        z_l = G_l^{-1}(z_{l-1}; u_l), \quad x = z_L

    .. math:: G_l(z; u) = e^{s_l(u)} \odot g_l(z) + t_l(u)

    where g_1 to g_L are ``base_flow.layers()``. A u of its own for every row lets each map cover a
    part of the data only. The density is an integral over u_1..u_L: with the inference model
    q(u_l|z_l), Gaussian too, ``importance`` estimates it from S draws,

    .. math:: \log \frac1S \sum_s \frac{p(x, u^s)}{q(u^s \mid x)}, \qquad u^s \sim q(\cdot \mid x)

    too low in expectation (``importance_estimate`` says by how much), and ``elbo`` bounds it by the
    mean of the logarithms.

    With a ``partitioner`` all of this is told the chart k of a row, and mixed by weights p_k; the
    evaluations sum over all charts.

    Source: Cornish et al. (2020), Localised Generative Flows, with the corrections in this plugin's
    README; charts, frame, and objectives but ``elbo`` are ours.

    Args:
        features: D.
        base_flow: what is taken apart: name, ``{"name": ..., **options}`` or a built flow; a named
            one is built without normalization. ``{"name": "none", "layers": L}`` for g = identity.
        family: G: ``affine`` as above, or ``conditioned``, where u joins the context of g_l, and
            layers that take no context belong to the next that does.
        index_features: d_u, columns of each u_l.
        p_hidden: hidden widths of the networks of p(u|z).
        q_hidden: of q(u|z).
        st_hidden: of (s, t), which the family ``affine`` has.
        activation: of these.
        log_scale_bound: bound on |s| and on |log sigma|, or ``none``, as in the paper.
        infer_from: q takes g_l(z_l) (``flow``, the authors' code) or z_l (``data``, the paper). For
            a conditioned family both are z_l.
        prior: of z_0: name, mapping or module.
        frame: ``pca`` whitens the data by their moments first; ``rotation``, ``similarity``,
            ``none``.
        partitioner: charts over it all: name, mapping or module; None for none.
        condition: what networks are told of a chart: its ``code`` or a ``one-hot``.
        overlap: how many nearest charts a row trains.
        objective: ``elbo``, ``stl``, ``importance`` or ``dreg``; see ``objectives``.
        training_samples: K, draws a row in training; the authors' code takes 10.
        validation_samples: draws behind the choice of the best epoch.
        num_samples: S, draws a row in evaluations; the paper takes 1000 in tests.
        training: changes to 300 epochs of Adam at 1e-3, batches of 1000, patience 30.

    Raises:
        ValueError: an option out of range, or parts that do not fit.
        TypeError: a base flow that cannot be taken apart.

    Example:
        >>> import torch
        >>> flow = {"name": "maf", "layers": 2, "hidden": [8]}
        >>> model = LGF(2, base_flow=flow, p_hidden=(8,), q_hidden=(8,))
        >>> model.log_prob(torch.zeros(3, 2), num_samples=10).shape
        torch.Size([3])
    """

    def __init__(
        self,
        features: int,
        *,
        base_flow: str | Mapping[str, Any] | BaseFlow = "maf",
        family: Family = "affine",
        index_features: int = 1,
        p_hidden: Sequence[int] = (50, 50, 50, 50),
        q_hidden: Sequence[int] = (50, 50, 50, 50),
        st_hidden: Sequence[int] = (10, 10),
        activation: Activation = "tanh",
        log_scale_bound: Bound = LOG_SCALE_BOUND,
        infer_from: InferFrom = "flow",
        prior: str | Mapping[str, Any] | Prior = "standard-normal",
        frame: Frame = "none",
        partitioner: str | Mapping[str, Any] | Partitioner | None = None,
        condition: Condition = "code",
        overlap: int = 1,
        objective: Objective = "importance",
        training_samples: int = 10,
        validation_samples: int = 10,
        num_samples: int = 256,
        training: Mapping[str, Any] | TrainingOptions | None = None,
    ) -> None:
        check_positive("features", features)
        for name, value, known in (
            ("family", family, get_args(Family)),
            ("infer_from", infer_from, get_args(InferFrom)),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {known}, got {value!r}")
        check_positive("index_features", index_features)
        check_widths(p_hidden=p_hidden, q_hidden=q_hidden, st_hidden=st_hidden)
        bound = check_bound_or_none(log_scale_bound)
        charts = None
        if partitioner is None and check_positive("overlap", overlap) > 1:
            raise ValueError(f"overlap: expected 1 without a partitioner, got {overlap}")
        if partitioner is not None:
            charts = Charts(features, partitioner, condition=condition, overlap=overlap)
        told = 0 if charts is None else charts.context_features
        conditioned = family == "conditioned"
        flows = flow_layers(base_flow, features, told + conditioned * index_features)
        if conditioned:
            told_flows = [flow for flow in flows if flow is not None]
            if not told_flows:
                raise ValueError(
                    "family: expected 'affine' for base_flow 'none', got 'conditioned'"
                )
            flows = told_layers(told_flows)

        def bijection(flow: BaseFlow | None) -> IndexedBijection:
            if conditioned and flow is not None:
                return Conditioned(flow)
            net = scale_and_shift_net(
                features,
                index_features,
                hidden=st_hidden,
                context_features=told,
                activation=activation,
            )
            return Affine(features, flow, net, log_scale_bound=bound)

        def index(hidden: Sequence[int]) -> ConditionalGaussian:
            return ConditionalGaussian(
                features,
                index_features,
                hidden=hidden,
                context_features=told,
                activation=activation,
                log_scale_bound=bound,
            )

        layers = [
            IndexedLayer(bijection(flow), index(p_hidden), index(q_hidden), infer_from=infer_from)
            for flow in flows
        ]
        super().__init__(
            features,
            joint=Joint(layers, build_prior(prior, features)),
            charts=charts,
            frame=frame,
            objective=objective,
            training_samples=training_samples,
            validation_samples=validation_samples,
            num_samples=num_samples,
            training=training,
        )
