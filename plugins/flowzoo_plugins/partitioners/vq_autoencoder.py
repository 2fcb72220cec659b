"""Partition by the nearest code of a vector-quantised auto-encoder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowzoo.interfaces import Stage
from flowzoo.training.options import TrainingOptions
from flowzoo.validation import check_finite, check_positive, check_rows
from flowzoo_plugins.partitioners.coder import Coder
from flowzoo_plugins.partitioners.codes import (
    CodePartitioner,
    fit_codes,
    one_hot,
    pairwise_distances,
    seed_from,
)

_LOG = logging.getLogger(__name__)
_MOMENTUM = 0.1  # of the batch-norm's running statistics, as in torch
_CALIBRATION_ROWS = 8192  # rows that set the first statistics and codes
_USAGE_ROWS = 2048  # rows that decide whether a code is dead
_TRAINING: Mapping[str, Any] = {"epochs": 50, "lr": 1e-4, "batch_size": 128}


class VQAutoencoder(CodePartitioner):
    r"""Charts are where the encoding E(x) is nearest to one code of a learned codebook.

    .. math::
        d_k(x) &= \lVert E(x) - v_k \rVert_2, \qquad q(x) = v_{\arg\min_k d_k(x)} \\
        L(x) &= \tfrac1D \lVert D(q(x)) - x \rVert^2
              + \tfrac1d \lVert \mathrm{sg}[E(x)] - q(x) \rVert^2
              + \tfrac{\beta}{d} \lVert E(x) - \mathrm{sg}[q(x)] \rVert^2

    The reconstruction's gradient passes straight through the quantisation to the encoder. Each net
    has hidden layers of linear, batch-norm and LeakyReLU. Outside the training loss the running
    statistics are used, whatever the module's mode, so rows are independent. Training starts from
    batch-norm statistics, codes and a decoder offset (the mean row) set by the data. The state kept
    is the one with the lowest validation reconstruction error, the objective of Sidheekh et al.

    Source: van den Oord et al. (2017), eq. 3; Sidheekh et al. (2022), section 4.2.1 and supplement
    section 3 (sizes and training; the paper does not give the loss).

    Args:
        features: D.
        num_charts: K, codes.
        latent: d, columns of a code.
        hidden: widths of the encoder's hidden layers; the decoder's are the same, reversed.
        negative_slope: of the LeakyReLU.
        commitment: beta.
        init: first codes: ``kmeans`` of the untrained encoder's encodings, or ``random``, uniform
            in [-1/K, 1/K].
        restart_dead: after each epoch, move codes that no row uses onto the encodings of random
            rows.
        training: changes to 50 epochs of Adam at 1e-4, batches of 128.

    Raises:
        ValueError: a count below 1, a negative commitment or slope, an unknown init. Its stage
            raises for fewer rows than charts under ``init="kmeans"``.

    Example:
        >>> charts = VQAutoencoder(3, num_charts=8, hidden=(16, 16), training={"epochs": 2})
        >>> charts.distances(torch.zeros(5, 3)).shape
        torch.Size([5, 8])
        >>> charts.stages()[0].epochs
        2
    """

    def __init__(
        self,
        features: int,
        *,
        num_charts: int = 32,
        latent: int = 2,
        hidden: Sequence[int] = (128, 128, 128, 128),
        negative_slope: float = 0.2,
        commitment: float = 0.25,
        init: Literal["kmeans", "random"] = "kmeans",
        restart_dead: bool = True,
        training: Mapping[str, Any] | TrainingOptions | None = None,
    ) -> None:
        check_positive("latent", latent)
        super().__init__(features, num_charts=num_charts, code_features=latent)
        for name, value in (("commitment", commitment), ("negative_slope", negative_slope)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}: expected a finite number >= 0, got {value}")
        if init not in ("kmeans", "random"):
            raise ValueError(f"init: expected 'kmeans' or 'random', got {init!r}")
        self.commitment = commitment
        self.init = init
        self.restart_dead = restart_dead
        self.training_options = TrainingOptions.of(training, _TRAINING)
        self.encoder = Coder(features, latent, hidden, negative_slope)
        self.decoder = Coder(latent, features, tuple(hidden)[::-1], negative_slope)
        self.codes = nn.Parameter(torch.empty(num_charts, latent))
        nn.init.uniform_(self.codes, -1 / num_charts, 1 / num_charts)

    def encode(self, x: Tensor) -> Tensor:
        """E(x), (N, d), before quantisation.

        Raises:
            ValueError: x has the wrong shape or dtype.
        """
        encoded: Tensor = self.encoder(check_rows("x", x, self.features))
        return encoded

    def reconstruct(self, x: Tensor) -> Tensor:
        """D(v_k), (N, D), of the nearest code v_k of each row.

        Raises:
            ValueError: x has the wrong shape or dtype.
        """
        decoded: Tensor = self.decoder(self._quantize(self.encode(x)))
        return decoded

    def _distances(self, x: Tensor) -> Tensor:
        return pairwise_distances(self.encoder(x), self.codes)

    def _quantize(self, encoded: Tensor) -> Tensor:
        """The code nearest to each encoding (N, d); differentiable in the codes only."""
        nearest = pairwise_distances(encoded.detach(), self.codes.detach()).argmin(dim=1)
        # a product: its gradient is a sum, where indexing would scatter row by row
        return one_hot(nearest, self.num_charts, encoded.dtype) @ self.codes

    def stages(self) -> tuple[Stage, ...]:
        """One stage, ``partition``."""
        return (
            self.training_options.stage(
                "partition",
                self._loss,
                prepare=self._prepare,
                after_epoch=self._after_epoch,
                validate=self._reconstruction_error,
            ),
        )

    def _loss(self, x: Tensor, noise: Tensor, progress: float) -> Tensor:
        momentum = _MOMENTUM if self.training else None
        encoded = self.encoder(x, momentum)
        code = self._quantize(encoded)
        through = encoded + (code - encoded).detach()  # value of the code, gradient to the encoding
        decoded = self.decoder(through, momentum)
        return (
            _mean_square(decoded - x)
            + _mean_square(encoded.detach() - code)
            + self.commitment * _mean_square(encoded - code.detach())
        )

    def _reconstruction_error(self, x: Tensor, noise: Tensor) -> Tensor:
        return _mean_square(self.reconstruct(x) - x)

    @torch.no_grad()
    def _prepare(self, x_train: Tensor, x_valid: Tensor, generator: torch.Generator) -> None:
        """Set batch-norm statistics, codes and the decoder's offset by the data."""
        check_finite("x_train", check_rows("x_train", x_train, self.features, self.codes))
        x = _some_rows(x_train, _CALIBRATION_ROWS, generator)
        encoded = self.encoder(x, 1.0)
        if self.init == "kmeans":
            encoded = self.encoder(x)  # by the running statistics, as distances are
            self.codes.copy_(
                fit_codes(
                    encoded,
                    self.num_charts,
                    restarts=3,
                    max_iterations=100,
                    seed=seed_from(generator),
                )
            )
        else:
            device = generator.device
            uniform = torch.rand(self.codes.shape, generator=generator, device=device)
            self.codes.copy_((2 * uniform - 1) / self.num_charts)
        self.decoder(self._quantize(encoded), 1.0)
        # at 1e-4 a step, an offset of the data would take most of the training to learn
        self.decoder.start_at(x_train.mean(dim=0))

    @torch.no_grad()
    def _after_epoch(self, x_train: Tensor, generator: torch.Generator) -> None:
        """Log code usage and move dead codes onto encodings of random rows."""
        x = _some_rows(x_train, _USAGE_ROWS, generator)
        encoded = self.encode(x)
        nearest = pairwise_distances(encoded, self.codes).argmin(dim=1)
        usage = one_hot(nearest, self.num_charts, x.dtype).mean(dim=0)
        dead = (usage == 0).nonzero().squeeze(1)
        _LOG.info(
            "%d of %d codes used, perplexity %.1f",
            self.num_charts - len(dead),
            self.num_charts,
            float(torch.special.entr(usage).sum().exp()),
        )
        if self.restart_dead and len(dead):
            # the rows were drawn in random order; fewer rows than dead codes repeat
            rows = torch.arange(len(dead), device=x.device) % len(x)
            self.codes[dead] = encoded[rows]


def _mean_square(difference: Tensor) -> Tensor:
    return difference.square().mean(dim=1)


def _some_rows(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """At most ``most`` rows of x in random order."""
    order = torch.randperm(len(x), generator=generator, device=generator.device)
    return x[order[:most].to(x.device)]
