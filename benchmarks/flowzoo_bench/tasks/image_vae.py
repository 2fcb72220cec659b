"""A small variational auto-encoder of images, whose decoder is a map from R^d to images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowzoo.validation import check_positive

RECIPE = 1
"""Changes with anything here that changes the weights."""
_WIDE, _NARROW, _BATCH = 400, 200, 100


class Fit(NamedTuple):
    """How well a decoder was trained, over all training images, at one draw of the code each.

    Attributes:
        reconstruction: mean of |x - g(z)|² / 2 sigma², in nats.
        kl: of each code to the prior, mean, in nats; one near 0 is a code that is not used.
        first: minus the lower bound in the first epoch, without the constant of the likelihood.
    """

    reconstruction: float
    kl: tuple[float, ...]
    first: float

    @property
    def loss(self) -> float:
        """Minus the lower bound, without the constant, which ``reconstruction`` leaves out too."""
        return self.reconstruction + sum(self.kl)


def build_decoder(dimension: int, features: int) -> nn.Sequential:
    """g: layers d-200-400-D with ReLU between them and a sigmoid at the end, float32."""
    return nn.Sequential(
        nn.Linear(dimension, _NARROW, dtype=torch.float32),
        nn.ReLU(),
        nn.Linear(_NARROW, _WIDE, dtype=torch.float32),
        nn.ReLU(),
        nn.Linear(_WIDE, features, dtype=torch.float32),
        nn.Sigmoid(),
    )


def fit_decoder(
    images: Tensor, dimension: int, *, sigma: float, epochs: int, learning_rate: float, seed: int
) -> tuple[nn.Sequential, Fit]:
    r"""Maximise the lower bound of Kingma, Welling (2013), eq. 3, on the CPU with a fixed seed.

    .. math:: E_{q(z|x)}[-\|x - g(z)\|^2 / 2\sigma^2] - KL(q(z|x) \| N(0, I))

    by Adam on batches of 100, with q a Gaussian of diagonal covariance from layers D-400-200-2d.

    Args:
        images: (N, D) in [0, 1].
        dimension: d.
        sigma: standard deviation of the decoder's Gaussian, fixed.
        epochs: passes over the images.
        learning_rate: of Adam, constant.
        seed: of the initial weights, the order of the images and the noise.

    Raises:
        ValueError: a count that is not positive, or no images.
    """
    check_positive("dimension", dimension)
    check_positive("epochs", epochs)
    if images.ndim != 2 or len(images) == 0:
        raise ValueError(f"images: expected (N, D) with N >= 1, got {tuple(images.shape)}")
    images = images.to(torch.float32)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(seed)  # the initial weights
        decoder = build_decoder(dimension, images.shape[1])
        encoder = nn.Sequential(
            nn.Linear(images.shape[1], _WIDE, dtype=torch.float32),
            nn.ReLU(),
            nn.Linear(_WIDE, _NARROW, dtype=torch.float32),
            nn.ReLU(),
            nn.Linear(_NARROW, 2 * dimension, dtype=torch.float32),
        )
        generator = torch.Generator().manual_seed(seed)
        parameters = [*encoder.parameters(), *decoder.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=learning_rate)
        first = 0.0
        for epoch in range(epochs):
            order = torch.randperm(len(images), generator=generator)
            for rows in torch.split(order, _BATCH):
                reconstruction, kl = _terms(encoder, decoder, images[rows], sigma, generator)
                loss = (reconstruction + kl.sum(dim=1)).mean()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if epoch == 0:
                    first += float(loss.detach()) * len(rows) / len(images)
    with torch.no_grad():
        parts = [
            _terms(encoder, decoder, x, sigma, generator) for x in torch.split(images, 10 * _BATCH)
        ]
    kl = torch.cat([part[1] for part in parts]).mean(dim=0)
    fit = Fit(float(torch.cat([part[0] for part in parts]).mean()), tuple(kl.tolist()), first)
    return decoder.eval().requires_grad_(False), fit


def _terms(
    encoder: nn.Module, decoder: nn.Module, x: Tensor, sigma: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """|x - g(z)|² / 2 sigma² at one draw of z, (N,), and KL(q || N(0, I)) of each code, (N, d)."""
    mean, log_variance = encoder(x).chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
    z = mean + (log_variance / 2).exp() * noise
    reconstruction = (x - decoder(z)).square().sum(dim=1) / (2 * sigma**2)
    kl = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return reconstruction, kl
