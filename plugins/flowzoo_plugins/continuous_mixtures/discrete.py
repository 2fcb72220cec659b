"""LGF with a finite index: exact by summation, or trained by a Concrete relaxation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from flowzoo.importance import BLOCK
from flowzoo.interfaces import BaseFlow, Evaluation, Prior, Stage
from flowzoo.layers.scale_bound import LOG_SCALE_BOUND, Bound, check_bound_or_none
from flowzoo.mixtures import Frame
from flowzoo.nets import Activation
from flowzoo.priors import build_prior
from flowzoo.training.modes import as_in_training
from flowzoo.training.options import TrainingOptions
from flowzoo.validation import check_number, check_positive, check_rows
from flowzoo_plugins.continuous_mixtures.bijections import Affine
from flowzoo_plugins.continuous_mixtures.building import check_widths, flow_layers
from flowzoo_plugins.continuous_mixtures.categorical import (
    Categorical,
    ConditionalCategorical,
    Table,
)
from flowzoo_plugins.continuous_mixtures.clusters import (
    cluster_moments,
    some_rows,
    standardising_rows,
)
from flowzoo_plugins.continuous_mixtures.index import IndexDistribution
from flowzoo_plugins.continuous_mixtures.joint import IndexedLayer, InferFrom, Joint
from flowzoo_plugins.continuous_mixtures.mixture import IndexedMixture
from flowzoo_plugins.continuous_mixtures.objectives import Objective

Start = Literal["clusters", "random"]
DiscreteObjective = Literal["auto", "exact", "elbo", "stl", "importance", "dreg"]


class DiscreteLGF(IndexedMixture):
    r"""LGF whose indices are finite: u_l in 1..K, each with a scale and a shift of its own.

    .. math:: p(x) = \sum_{u_1..u_L} p_{Z_0}(z_0) \prod_l p(u_l \mid z_{l-1})
        \,\lvert\det DG_l(z_l; u_l)\rvert, \qquad G_l(z; k) = e^{s_{lk}} \odot g_l(z) + t_{lk}

    The sum has K^L terms. Up to ``max_paths`` of them, ``exact`` is the sum; that is the only
    evaluation of a model trained by it, which needs no inference model. Else q(u_l|z_l) is
    categorical too, ``importance`` and ``elbo`` draw from it, and training takes Concrete
    variables for all u_l, of p and of q, whose bound is differentiable; what is scored is always
    the discrete model.

    Source: Cornish et al. (2020), appendix B, who leave the relaxation to the future; Maddison et
    al. (2017) for its objective.

    Args:
        features: D.
        base_flow: as ``lgf``'s; its L layers are the model's.
        num_values: K.
        p_hidden: hidden widths of the networks of p(u|z).
        q_hidden: of q(u|z).
        activation: of these.
        log_scale_bound: bound on |s|, or ``none``.
        infer_from: q takes g_l(z_l) (``flow``) or z_l (``data``).
        prior: of z_0: name, mapping or module.
        frame: as ``lgf``'s.
        start: ``clusters`` has the values of the index nearest the data standardise k-means
            clusters of the training rows first, ``random`` leaves all shifts random.
        objective: ``exact``, whose steps take memory for batch size times K^L rows; one of
            ``elbo``, ``stl``, ``importance``, ``dreg``, relaxed; ``auto`` is ``exact`` for one
            layer of at most ``max_paths`` values, else ``importance``.
        tau: temperature of the relaxation.
        max_paths: the most terms that are summed.
        training_samples: draws a row in training by a relaxed objective.
        validation_samples: draws behind the choice of the best epoch.
        num_samples: S, draws a row in ``importance`` and ``elbo``.
        training: changes to 300 epochs of Adam at 1e-3, batches of 1000, patience 30.

    Raises:
        ValueError: an option out of range, parts that do not fit, or an exact objective of more
            than ``max_paths`` terms.
        TypeError: a base flow that cannot be taken apart.

    Example:
        >>> flow = {"name": "maf", "layers": 1, "hidden": [8]}
        >>> model = DiscreteLGF(2, base_flow=flow, num_values=4, p_hidden=(8,))
        >>> model.log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        features: int,
        *,
        base_flow: str | Mapping[str, Any] | BaseFlow = "maf",
        num_values: int = 4,
        p_hidden: Sequence[int] = (50, 50, 50, 50),
        q_hidden: Sequence[int] = (50, 50, 50, 50),
        activation: Activation = "tanh",
        log_scale_bound: Bound = LOG_SCALE_BOUND,
        infer_from: InferFrom = "flow",
        prior: str | Mapping[str, Any] | Prior = "standard-normal",
        frame: Frame = "none",
        start: Start = "clusters",
        objective: DiscreteObjective = "auto",
        tau: float = 0.5,
        max_paths: int = 1024,
        training_samples: int = 10,
        validation_samples: int = 10,
        num_samples: int = 256,
        training: Mapping[str, Any] | TrainingOptions | None = None,
    ) -> None:
        check_positive("features", features)
        check_positive("num_values", num_values)
        check_positive("max_paths", max_paths)
        check_widths(p_hidden=p_hidden, q_hidden=q_hidden)
        for name, value, known in (
            ("objective", objective, get_args(DiscreteObjective)),
            ("infer_from", infer_from, get_args(InferFrom)),
            ("start", start, get_args(Start)),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {known}, got {value!r}")
        bound = check_bound_or_none(log_scale_bound)
        flows = flow_layers(base_flow, features, 0)
        if objective == "auto":
            summable = len(flows) == 1 and num_values <= max_paths
            objective = "exact" if summable else "importance"
        exact = objective == "exact"

        def index(hidden: Sequence[int]) -> ConditionalCategorical:
            return ConditionalCategorical(
                features, num_values, hidden=hidden, activation=activation
            )

        layers = [
            IndexedLayer(
                Affine(features, flow, Table(features, num_values), log_scale_bound=bound),
                index(p_hidden),
                None if exact else index(q_hidden),
                infer_from=infer_from,
            )
            for flow in flows
        ]
        relaxed: Objective = "importance" if objective == "exact" else objective
        super().__init__(
            features,
            joint=Joint(layers, build_prior(prior, features)),
            charts=None,
            frame=frame,
            objective=relaxed,
            training_samples=training_samples,
            validation_samples=validation_samples,
            num_samples=num_samples,
            training=training,
        )
        self.exact_training, self.start = exact, start
        self.tau = check_number("tau", tau, strict=True)
        paths = self.joint.num_paths()
        summed = paths <= max_paths
        if exact and not summed:
            raise ValueError(
                f"objective: expected at most max_paths = {max_paths} terms for 'exact', "
                f"got {num_values}^{len(flows)} = {paths}"
            )
        self.rows_per_call = max(1, BLOCK // paths)
        if exact:
            self.evaluations = {"exact": Evaluation()}
            self.capabilities = frozenset({"embed"})  # type: ignore[misc]
        elif summed:
            self.evaluations = {"exact": Evaluation(), **self.evaluations}
        if len(flows) == 1 and summed:
            self.capabilities = self.capabilities | {"assign"}  # type: ignore[misc]

    def stages(self) -> tuple[Stage, ...]:
        """Frame and ``start`` where there are any, then one stage by the objective."""
        *before, main = super().stages()
        if self.start == "clusters":
            before.append(Stage("start", groups=(), prepare=self._place))
        return (*before, main)

    @torch.no_grad()
    def _place(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        """The index nearest the data, by clusters of what its flow makes of the training rows."""
        layer = self.joint.indexed_layers()[0]
        bijection, index = layer.bijection, layer.prior
        if not isinstance(bijection, Affine) or not isinstance(index, ConditionalCategorical):
            raise TypeError(f"layers: expected those of a DiscreteLGF, got {layer}")
        with as_in_training(self):
            y = bijection.prepare(self._framed(some_rows(x_train, generator))[0], None).value
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
        means, stds, log_share = cluster_moments(y, index.index_features, seed)
        rows = standardising_rows(means, stds, bijection.log_scale_bound)
        bijection.shift.get_parameter("rows").copy_(rows)
        index.net.linears[-1].get_parameter("bias").copy_(log_share)

    def _main_stage(self) -> Stage:
        if self.exact_training:
            return self.training_options.stage(
                "exact", self._exact_loss, groups=("joint",), validate=self._validate_exact
            )
        return super()._main_stage()

    def _validate_exact(self, x: Tensor, noise: Tensor) -> Tensor:
        """Many more rows than a step has: in blocks."""
        parts = torch.split(x, self.rows_per_call)
        return torch.cat([self._exact_loss(rows, noise, 1.0) for rows in parts])

    def _exact_loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        y, volume = self._framed(x)
        return -(self.joint.enumerate(y)[0].logsumexp(dim=1) + volume)

    def _loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        return -self._bound(x, noise, self.objective, self.training_samples, self._relax)

    def _relax(self, index: IndexDistribution) -> IndexDistribution:
        return index.relaxed(self.tau) if isinstance(index, Categorical) else index

    def _log_prob(
        self,
        x: Tensor,
        evaluation: str,
        num_samples: int | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        if evaluation != "exact":
            return super()._log_prob(x, evaluation, num_samples, generator)
        y, volume = self._framed(x)
        parts = [self._terms(rows).logsumexp(dim=1) for rows in torch.split(y, self.rows_per_call)]
        return torch.cat(parts) + volume

    def _terms(self, y: Tensor) -> Tensor:
        return self.joint.enumerate(y)[0]

    def embed(self, x: Tensor) -> Tensor:
        """z_0 of the most probable indices, (N, D): of all paths where they are summed, else of q.

        Raises:
            ValueError: x has the wrong shape, dtype or device.
        """
        check_rows("x", x, self.features, self._reference())
        if "exact" not in self.evaluations:
            return super().embed(x)
        parts = []
        for rows in torch.split(self._framed(x)[0], self.rows_per_call):
            log_p, z = self.joint.enumerate(rows)
            best = log_p.argmax(dim=1)
            parts.append(z.gather(1, best[:, None, None].expand(-1, 1, z.shape[2]))[:, 0])
        return torch.cat(parts)

    def assign(self, x: Tensor) -> Tensor:
        """The most probable value of the index of one layer, argmax_k p(k|x), (N,) int64.

        Raises:
            TypeError: there are several layers.
            ValueError: x has the wrong shape, dtype or device.
        """
        if "assign" not in self.capabilities:
            raise TypeError(
                f"assign: expected one layer of at most max_paths values, got "
                f"{self.joint.num_paths()} paths of {len(self.joint.layers)} layers"
            )
        check_rows("x", x, self.features, self._reference())
        y = self._framed(x)[0]
        return torch.cat([self._terms(r).argmax(dim=1) for r in torch.split(y, self.rows_per_call)])
