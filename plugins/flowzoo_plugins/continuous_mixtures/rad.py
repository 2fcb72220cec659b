"""RAD: a flow with folds, whose latent space is cut into pieces; its density is exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowzoo.interfaces import BaseFlow, Evaluation, Mixture, Prior, Stage
from flowzoo.layers.scale_bound import LOG_SCALE_BOUND, Bound, check_bound_or_none
from flowzoo.mixtures import Frame, build_frame, into_frame
from flowzoo.nets import Activation
from flowzoo.priors import build_prior
from flowzoo.training.modes import as_in_training
from flowzoo.training.options import TrainingOptions
from flowzoo.validation import check_positive, check_rows
from flowzoo_plugins.continuous_mixtures.building import check_widths, flow_layers
from flowzoo_plugins.continuous_mixtures.clusters import some_rows
from flowzoo_plugins.continuous_mixtures.fold import Fold
from flowzoo_plugins.continuous_mixtures.mixture import TRAINING


class RAD(Mixture):
    r"""A base flow taken apart, with a fold after each of its first layers.

    .. math:: \log p(x) = \log q(z_0) + \sum_l \log|\det Dg_l| + \log a_{l, k_l}
        + \log p(k_l \mid z_{l-1})

    Fold l is a zigzag of P pieces in one column (see ``Fold``), the columns in turn: the data are
    cut at learned knots of the layer's output into pieces k_l, each mapped linearly, and a gate
    says how often each is drawn. A row lies in one piece, so the sum over all indices of a discrete
    LGF has one term, and the density is exact at the cost of one pass. It jumps at the cuts.
    ``sample`` at temperature t scales the spread of z_0 by t and draws pieces by p^{1/t}.

    Source: Dinh, Sohl-Dickstein, Larochelle, Pascanu (2019), A RAD approach to deep mixture models,
    for the idea; the form of the folds, their start (the data cut where they are thinnest and laid
    over one another) and the frame are ours, see ``Fold``.

    Args:
        features: D.
        base_flow: what is taken apart: name, mapping or built flow; a named one is built without
            normalization.
        folds: how many of its layers, from the data side, are followed by a fold.
        pieces: P, odd.
        gate_hidden: hidden widths of the gates' networks.
        activation: of these.
        log_scale_bound: bound on the log-slopes, or ``none``.
        prior: of z_0: name, mapping or module.
        frame: ``pca`` whitens the data by their moments first; ``rotation``, ``similarity``,
            ``none``.
        training: changes to 300 epochs of Adam at 1e-3, batches of 1000, patience 30.

    Raises:
        ValueError: an option out of range, or parts that do not fit.
        TypeError: a base flow that cannot be taken apart.

    Example:
        >>> model = RAD(2, base_flow={"name": "maf", "layers": 2, "hidden": [8]}, gate_hidden=(8,))
        >>> model.log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    evaluations: Mapping[str, Evaluation] = {"exact": Evaluation()}
    capabilities: ClassVar[frozenset[str]] = frozenset({"embed", "assign"})

    def __init__(
        self,
        features: int,
        *,
        base_flow: str | Mapping[str, Any] | BaseFlow = "maf",
        folds: int = 1,
        pieces: int = 5,
        gate_hidden: Sequence[int] = (50, 50),
        activation: Activation = "tanh",
        log_scale_bound: Bound = LOG_SCALE_BOUND,
        prior: str | Mapping[str, Any] | Prior = "standard-normal",
        frame: Frame = "none",
        training: Mapping[str, Any] | TrainingOptions | None = None,
    ) -> None:
        super().__init__(features)
        bound = check_bound_or_none(log_scale_bound)
        check_widths(gate_hidden=gate_hidden)
        flows = [flow for flow in flow_layers(base_flow, features, 0) if flow is not None]
        if not flows:  # only the identity, which is no flow here
            raise ValueError("base_flow: expected a flow between the folds, got 'none'")
        count = check_positive("folds", folds)
        if count > len(flows):
            raise ValueError(f"folds: expected at most {len(flows)}, one a layer, got {count}")
        if pieces**count >= 2**62:
            raise ValueError(f"folds: expected fewer than 2^62 pieces in all, got {pieces}^{count}")
        self.frame = build_frame(frame, features)
        self.flows = nn.ModuleList(flows)
        self.folds = nn.ModuleList(
            Fold(
                features,
                column=index % features,
                pieces=pieces,
                hidden=gate_hidden,
                activation=activation,
                log_scale_bound=bound,
            )
            for index in range(count)
        )
        self.pieces = pieces
        self.prior = build_prior(prior, features)
        self.support_map = self.prior.support_map()
        self.training_options = TrainingOptions.of(training, TRAINING)

    # -- training --------------------------------------------------------------------------------

    def stages(self) -> tuple[Stage, ...]:
        """``start``, frame and knots by the data, then ``maximum-likelihood``."""
        return (
            Stage("start", groups=(), prepare=self._place),
            self.training_options.stage("maximum-likelihood", self._loss),
        )

    @torch.no_grad()
    def _place(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        if self.frame is not None:
            self.frame.fit(x_train)
        with as_in_training(self):
            y = self._framed(some_rows(x_train, generator))[0]
            for flow, fold in self._layers():
                y = flow.encode(y).value
                if fold is not None:
                    fold.place(y)
                    y = fold.encode(y).value

    def _loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        return -self._log_prob(x, "exact", None, None)

    # -- density ---------------------------------------------------------------------------------

    def _log_prob(
        self,
        x: Tensor,
        evaluation: str,
        num_samples: int | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        z, log_p, _ = self._encode(x)
        return log_p + self.prior.log_prob(z)

    def embed(self, x: Tensor) -> Tensor:
        """z_0, (N, D).

        Raises:
            ValueError: x has the wrong shape, dtype or device.
        """
        return self._encode(check_rows("x", x, self.features, self._reference()))[0]

    def assign(self, x: Tensor) -> Tensor:
        """The piece of each row, (N,) int64: a digit in base P for each fold, the data's first.

        Raises:
            ValueError: x has the wrong shape, dtype or device.
        """
        return self._encode(check_rows("x", x, self.features, self._reference()))[2]

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z_0 (N, D), all but the prior of log p (N,), and the piece (N,)."""
        z, log_p = self._framed(x)
        number = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for flow, fold in self._layers():
            z, volume = flow.encode(z)
            log_p = log_p + volume
            if fold is not None:
                z, change, piece = fold.encode(z)
                log_p = log_p + change
                number = number * self.pieces + piece
        if self.support_map is not None:
            z, volume = self.support_map.encode(z)
            log_p = log_p + volume
        return z, log_p, number

    @torch.no_grad()
    def _sample(self, num: int, temperature: float, generator: torch.Generator | None) -> Tensor:
        z = self.prior.sample(num, temperature=temperature, generator=generator)
        if self.support_map is not None:
            z = self.support_map.decode(z).value
        for flow, fold in reversed(self._layers()):
            if fold is not None and num > 0:
                share = (fold.log_pieces(z) / temperature).softmax(dim=1)
                piece = torch.multinomial(share, 1, generator=generator)[:, 0]
                z = fold.decode(z, piece)
            z = flow.decode(z).value
        return z if self.frame is None else self.frame.decode(z).value

    def _framed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return into_frame(self.frame, x)

    def _layers(self) -> list[tuple[BaseFlow, Fold | None]]:
        """Each flow with its fold, from x to z."""
        folds = [*self.folds, *[None] * (len(self.flows) - len(self.folds))]
        return list(zip(self.flows, folds, strict=True))  # type: ignore[arg-type]
