"""A base flow over a prior of any rank, trained by the spread divergence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from flowzoo.interfaces import BaseFlow, Stage
from flowzoo.interfaces.stage import ParameterGroup
from flowzoo.layers import Whitening
from flowzoo.mixtures import Frame
from flowzoo.training.modes import as_in_training
from flowzoo.training.options import TrainingOptions
from flowzoo.validation import check_number, check_positive
from flowzoo_plugins.spread_flows.annealing import Annealing
from flowzoo_plugins.spread_flows.collapse import (
    collapse_message,
    dimension_messages,
    disagreements,
)
from flowzoo_plugins.spread_flows.entropy import mixture_log_prob
from flowzoo_plugins.spread_flows.manifold import CENTRES, ManifoldFlow
from flowzoo_plugins.spread_flows.objective import (
    Entropy,
    Spread,
    SpreadRows,
    objective_of,
    spread_rows,
    watched,
)
from flowzoo_plugins.spread_flows.start import start_prior

Start = Literal["principal", "identity"]
_ROWS = 20_000  # of the training data that a start looks at
_FLOW: Mapping[str, Any] = {"name": "gin", "order": "rotation"}
_TRAINING: Mapping[str, Any] = {"epochs": 100, "batch_size": 256, "schedule": "cosine"}


class SpreadFlow(ManifoldFlow):
    r"""A bijection f over N(0, A A'), A of the rank that the data need: flows on manifolds.

    Data and model are both spread by noise, so that their divergence is finite on any manifold.
    With codes z = f(x) the paper adds it to the codes, ``spread="latent"``, and minimises

    .. math:: \mathrm{KL}(\tilde q \,\|\, \tilde p) = -H(z + \sigma\epsilon) - E \log N(z +
              \sigma\epsilon; 0, A A^\top + \sigma^2 I) - E \log\lvert\det J_f(x)\rvert

    and with ``entropy="drop"`` leaves out H. That rewards squeezing the manifold and A together,
    down to the noise, where the dimension is lost: the loss falls to its floor H(sigma epsilon),
    and training warns. ``entropy="kde"`` keeps H as estimated by the batch (its eq. 36-39), which
    stops the squeezing where rows come within a few sigma of one another, and is blind before.

    ``spread="data"``, ours and the default, adds it to the data. The entropy is then none of
    f's, dropping it changes nothing, and squeezing gains nothing: plain maximum likelihood of

    .. math:: \log p(x) = \log N(f(x); 0, A A^\top + \sigma^2 I) + \log\lvert\det J_f(x)\rvert

    at x + sigma epsilon, bounded for any f.

    ``intrinsic_dimension`` is that of the density around training rows. The eigenvalues of A A',
    off which the paper reads it, tell that of the codes: as many axes as hold them where they stay
    bent, as those of a sphere must, and fewer or more where f stretches them and A follows.
    ``spectrum_rank`` counts these; training warns where the two differ. D is also what a flow says
    that has not learned the data yet.

    Evaluations: ``exact``, the density in R^D of :math:`f^{-1}(\tilde z)`, which ``sample`` draws
    from; ``manifold``, the density against surface area at ``reconstruct(x)``, where the learned
    manifold is the image of the leading axes of A A'. Their number is that of ``spectrum_rank``
    when training ends, and D before. ``sample`` takes ``temperature`` for the spread along these
    axes and ``noise_scale`` for that around them; at 0 draws lie on the manifold.

    Source: Zhang et al. (2023), Spread Flows for Manifold Modelling. Ours: noise on the data, the
    dimension and its rule, the start, several parts, the warnings.

    Args:
        features: D.
        base_flow: name, ``{"name": ..., **options}`` or a built, unconditional bijection. Of one
            that keeps volume (``nice``, ``gin``, ``conv-gin``) the spectrum can tell the dimension;
            any other trades noise for signal freely and, without noise on the data, stretches what
            has no width without end.
        frame: ``similarity`` turns the data to their principal axes and divides them by the
            standard deviation along the longest, so that their unit changes nothing; ``rotation``
            only turns them, ``pca`` whitens them, ``none`` leaves them, as images need it.
        noise: sigma, in units of the data (of whitened data for ``pca``): far below their extent,
            above what noise they have. Or ``{"start", "end", "hold", "until"}``, see ``Annealing``.
        data_noise: the same, of more noise added to the data in training; 0 for none, as for
            ``pca``.
        spread: ``data``, ``latent``, or ``offset``: sigma itself added to every code, as the
            paper's code does. None is ``latent`` where ``entropy`` is given or codes are whitened,
            else ``data``.
        entropy: ``drop`` or ``kde``; None is ``drop`` for noise on the data, else ``kde``.
        rank: columns of A; D when None.
        components: parts of the prior, N(mu_k, A_k A_k'), one dimension each.
        start: ``principal`` takes the codes' moments for A (parts: by EM); ``identity`` is the
            paper's A = I, for one part.
        decay_on_prior: whether ``training``'s weight decay acts on A too.
        prior_lr: learning rate of the prior; that of the flow when None.
        threshold: variance over sigma^2 below which an axis is noise.
        training: changes to 100 epochs of Adam at 1e-3, batches of 256, cosine schedule, without
            early stopping.

    Raises:
        ValueError: an option out of range, or a flow that does not fit.

    Example:
        >>> from flowzoo.training import fit
        >>> model = SpreadFlow(3, base_flow={"name": "nice", "layers": 2, "hidden": [8]})
        >>> x = torch.randn(300, 1) * torch.tensor([1.0, 0.5, 0.0])
        >>> _ = fit(model, x, seed=0)
        >>> int(model.intrinsic_dimension())
        1
    """

    def __init__(
        self,
        features: int,
        *,
        base_flow: Mapping[str, Any] | str | BaseFlow = _FLOW,
        frame: Frame = "similarity",
        noise: float | Mapping[str, Any] | Annealing = 0.01,
        data_noise: float | Mapping[str, Any] | Annealing = 0.0,
        spread: Spread | None = None,
        entropy: Entropy | None = None,
        rank: int | None = None,
        components: int = 1,
        start: Start = "principal",
        decay_on_prior: bool = False,
        prior_lr: float | None = None,
        threshold: float = 1.0,
        training: Mapping[str, Any] | TrainingOptions | None = None,
    ) -> None:
        chosen = objective_of(spread, entropy, frame == "pca")
        if start not in get_args(Start):
            raise ValueError(f"start: expected one of {get_args(Start)}, got {start!r}")
        if check_positive("components", components) > 1 and start != "principal":
            raise ValueError("start: expected 'principal' with components, or all stay alike")
        data_noise = Annealing.of(data_noise, "data_noise")
        if frame == "pca" and (chosen[0] == "data" or data_noise.start > 0.0):
            raise ValueError(
                "frame: expected 'none', 'rotation' or 'similarity' for noise on the data, "
                "which whitening changes"
            )
        super().__init__(
            features,
            base_flow=base_flow,
            frame=frame,
            noise=Annealing.of(noise, "noise"),
            data_noise=data_noise,
            rank=rank,
            components=components,
            learn_mean=components == 1 and start == "principal",
            threshold=threshold,
        )
        self.spread, self.entropy = chosen
        self.training_options = TrainingOptions.of(training, _TRAINING)
        self.start, self.decay_on_prior = start, decay_on_prior
        self.prior_lr = self.training_options.lr
        if prior_lr is not None:
            self.prior_lr = check_number("prior_lr", prior_lr, strict=True)

    # -- training --------------------------------------------------------------------------------

    def _flow_stages(self) -> tuple[Stage, ...]:
        options = self.training_options
        decay = options.weight_decay
        noisy = self.data_noise.start > 0.0 and self.spread != "data"  # with noise of its own
        training = options.stage(
            "maximum-likelihood",
            self._loss,
            groups=(
                ParameterGroup(("base_flow",), options.lr, decay),
                ParameterGroup(("prior",), self.prior_lr, decay if self.decay_on_prior else 0.0),
            ),
            noise_features=self.features * (1 + noisy),
            validate=self._objective,
            monitor=self._monitor,
            watch=collapse_message,
        )
        return (
            Stage(name="start", groups=(), prepare=self._place),
            training,
            Stage(name="dimension", groups=(), prepare=self._count),
        )

    @torch.no_grad()
    def _place(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        """Take sigma to the units of the codes, choose the centres, and A by the codes' moments."""
        if isinstance(self.frame, Whitening) and self.frame.scaling == "longest":
            unit = torch.linalg.vector_norm(self.frame.colour[0].double())
            for part in self.atlas().parts:
                part.noise_std.copy_(self.noise.end / unit)
        order = torch.randperm(len(x_train), generator=generator, device=generator.device)
        order = order.to(x_train.device)
        self.centres.copy_(x_train[order[torch.arange(CENTRES, device=order.device) % len(order)]])
        if self.start == "identity":
            return
        x = x_train[order[:_ROWS]]
        noise = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
        with as_in_training(self):
            z = self._encode(x + self._data_std(0.0) * noise)[0]
        variance = float(self._prior().noise_std) ** 2
        if self.spread == "data":  # which z has, and at the first level
            variance *= 1.0 - (self.noise.at(0.0) / self.noise.end) ** 2
        start_prior(self._prior(), z, variance, generator)

    @torch.no_grad()
    def _count(
        self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator
    ) -> Sequence[str] | None:
        """Keep how many axes A A' has, and say where they or the dimension tell nothing."""
        self.kept.copy_(self.spectrum_rank().dimension.reshape(-1))
        rank, parts = self.atlas().parts[0].rank, len(self.kept)
        rows = [len(x_train)] * parts
        if len(x_train) <= _ROWS:
            rows = torch.bincount(self.assign(x_train), minlength=parts).tolist()
        limit, axes = (rank if rank < self.features else None), self.kept.tolist()
        said = dimension_messages(axes, rows, limit)
        try:
            around = self.intrinsic_dimension().reshape(-1).tolist()
        except ValueError as error:  # a model with a broken inverse still has its density
            return [*said, str(error)]
        seen = torch.bincount(self.assign(self.centres), minlength=parts).tolist()
        return said + disagreements(axes, around, seen, limit)

    def _loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        rows = self._spread(x, noise, progress)
        if self.entropy == "kde":
            std = self._std(self.noise.at(progress))
            return rows.surrogate + mixture_log_prob(rows.z, std)
        return rows.surrogate

    def _objective(self, x: Tensor, noise: Tensor) -> Tensor:
        """What is validated: the loss at the final noise, its entropy that of the centres.

        The entropy of the rows themselves would depend on how many are looked at together.
        """
        value = self._spread(x, noise, 1.0).surrogate
        if self.entropy == "kde":
            centres = self._encode(self.centres)[0]
            value = value + mixture_log_prob(centres, self._std(self.noise.end)).mean()
        return value

    def _monitor(self, x: Tensor, noise: Tensor) -> Mapping[str, Tensor]:
        std = self._std(self.noise.end)
        if self.spread == "data":  # whose units are its own
            std = torch.tensor(self._data_std(1.0), dtype=x.dtype, device=x.device)
        return watched(self._spread(x, noise, 1.0), x, noise, self.spread, std)

    def _spread(self, x: Tensor, noise: Tensor, progress: float) -> SpreadRows:
        std, data_std = self._std(self.noise.at(progress)), self._data_std(progress)
        return spread_rows(self._encode, self._prior(), x, noise, self.spread, std, data_std)

    def _data_std(self, progress: float) -> float:
        """Of all noise on the data at a share ``progress`` of the training."""
        spread = self.noise.at(progress) if self.spread == "data" else 0.0
        return math.hypot(spread, self.data_noise.at(progress))

    def _std(self, value: float) -> Tensor:
        """sigma in units of the codes, of the prior's dtype and device: its own, scaled."""
        return self._prior().noise_std * (value / self.noise.end)
