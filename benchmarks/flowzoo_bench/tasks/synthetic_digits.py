"""Images of a known number of dimensions: what a small decoder makes of Gaussian codes."""

from __future__ import annotations

from copy import deepcopy
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from flowzoo.interfaces.task import Splits, Task
from flowzoo.validation import check_finite, check_number, check_positive, check_rows
from flowzoo_bench.tasks.checks import check_seed
from flowzoo_bench.tasks.decoder_store import Decoder, Settings, stored_decoder
from flowzoo_bench.tasks.image_vae import Fit
from flowzoo_bench.tasks.images import check_sizes

_SIGMA, _PIXELS = 0.3, 784
_CHUNK = 1000
_SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28)}
_EPOCHS = {"digits": 200, "mnist": 30, "fashion-mnist": 30}
_TRAINING_IMAGES = 60_000  # the sets in MNIST's format have their test images behind these


class SyntheticDigits(Task):
    r"""x = g(z), z ~ N(0, I_d): images on a manifold of dimension d, without noise, in [0, 1].

    g is the decoder of a variational auto-encoder that was trained on real images, as Zhang, Sun,
    Zhang, McDonagh (2023), App. C.5.1, do it on MNIST: layers D-400-200-2d and d-200-400-D,
    ReLU, a sigmoid on the pixels, Adam on batches of 100. It is trained on first use and kept in
    the cache folder; weights may differ between machines, and ``fingerprint`` says which these are.

    d is the most that the images can vary by: a decoder may leave codes unused, and then the true
    dimension, at any noise that can be seen, is ``active_dimensions``. Fewer pixels determine a
    code less, so that the paper's sigma prunes codes on 8 x 8 pixels; by default every image weighs
    as one of 784 pixels does at 0.3.

    Models see x as it is, since pixels share one scale: divided by its own tiny spread, a border
    pixel would weigh as much as one in the middle, and round noise would no longer be round. There
    is no density on R^D, that on the manifold has no closed form, and neither has the distance.

    Args:
        source: images the decoder learns from: scikit-learn's ``digits`` (8 x 8), or the training
            images of ``mnist`` or ``fashion-mnist`` (28 x 28), where those are on this machine.
        dimension: d.
        epochs: of the decoder's training; 0 for 200 on digits, 30 on the others. The paper: 100.
        learning_rate: of Adam; the paper: 1e-4.
        sigma: of the decoder's Gaussian; 0 for 0.3 sqrt(D / 784). The paper: 0.3.
        vae_seed: of the decoder's training.
        num_train: training rows.
        num_valid: validation rows.
        num_test: test rows.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        *,
        source: str = "digits",
        dimension: int = 5,
        epochs: int = 0,
        learning_rate: float = 1e-3,
        sigma: float = 0.0,
        vae_seed: int = 0,
        num_train: int = 10_000,
        num_valid: int = 2_500,
        num_test: int = 2_500,
    ) -> None:
        if source not in _SHAPES:
            raise ValueError(f"source: expected one of {list(_SHAPES)}, got {source!r}")
        self.shape = _SHAPES[source]
        super().__init__(prod(self.shape))
        self.dimension: int = check_positive("dimension", dimension)
        if dimension > self.features:
            raise ValueError(f"dimension: expected at most {self.features}, got {dimension}")
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
            raise ValueError(f"epochs: expected an integer >= 0, got {epochs!r}")
        self.sizes = check_sizes(num_train, num_valid, num_test)
        self.settings = Settings(
            source=source,
            features=self.features,
            dimension=dimension,
            sigma=check_number("sigma", sigma) or _SIGMA * (self.features / _PIXELS) ** 0.5,
            epochs=epochs or _EPOCHS[source],
            learning_rate=check_number("learning_rate", learning_rate, strict=True),
            seed=check_seed(vae_seed),
        )

    def fingerprint(self) -> str:
        """Hash of the decoder's weights; trains it if nobody has yet.

        Raises:
            DataNotFoundError: it must be trained, and the images are not on this machine.
        """
        return self._decoder().sha256[:16]

    def splits(self, seed: int) -> Splits:
        """Decoded draws of z: (N, D) float64 in [0, 1]."""
        rng = np.random.default_rng(check_seed(seed))
        z = torch.as_tensor(rng.standard_normal((sum(self.sizes), self.dimension)))
        return Splits(*torch.split(self.place(z), list(self.sizes)))

    def place(self, z: Tensor) -> Tensor:
        """g(z), the images of codes z (N, d), (N, D) float64.

        Raises:
            ValueError: z has the wrong shape or is not finite.
        """
        z = check_finite("z", check_rows("z", z, self.dimension)).to(torch.float64)
        network = self._network()
        with torch.no_grad():
            return torch.cat([network(part) for part in torch.split(z, _CHUNK)])

    def fit(self) -> Fit:
        """How well the decoder was trained."""
        return self._decoder().fit

    def local_deviations(self, num: int = 200, seed: int = 0) -> Tensor:
        """Singular values of dg/dz at random z, descending: (num, d) float64.

        They are the standard deviations of the images that a small piece of the prior around z
        becomes, in units of its own, along the axes of the tangent plane there.
        """
        rng = np.random.default_rng(check_seed(seed))
        z = rng.standard_normal((check_positive("num", num), self.dimension))
        with torch.no_grad():
            jacobian = _jacobian(self._network(), torch.as_tensor(z))
        values: Tensor = torch.linalg.svdvals(jacobian)
        return values

    def active_dimensions(self, scale: float = 0.05) -> int:
        """How many directions of the manifold stand out of noise of standard deviation ``scale``.

        Those whose singular value of dg/dz is above it at half of all z; 0.05 is the noise the
        paper adds to images.
        """
        least = check_number("scale", scale)
        return int((self.local_deviations().median(dim=0).values > least).sum())

    def _decoder(self) -> Decoder:
        return stored_decoder(self.settings, lambda: _images(self.settings.source))

    def _network(self) -> nn.Sequential:
        return deepcopy(self._decoder().network).double()


def _jacobian(network: nn.Sequential, x: Tensor) -> Tensor:
    """Of maps, rectifiers and sigmoids in turn, at x (N, d): (N, D, d)."""
    jacobian = torch.eye(x.shape[1], dtype=x.dtype).expand(len(x), -1, -1)
    for layer in network:
        after = layer(x)
        if isinstance(layer, nn.Linear):
            jacobian = layer.weight @ jacobian
        elif isinstance(layer, nn.ReLU):
            jacobian = (x > 0)[:, :, None] * jacobian
        else:
            jacobian = (after * (1 - after))[:, :, None] * jacobian
        x = after
    return jacobian


def _images(source: str) -> Tensor:
    """What a decoder learns from, (N, D) float32 in [0, 1]."""
    if source == "digits":
        from flowzoo_bench.tasks.digits import Digits

        levels, _ = Digits().images()
        return torch.tensor(levels, dtype=torch.float32) / 16
    from flowzoo_bench.tasks.mnist import MNIST, FashionMNIST

    levels, _ = {"mnist": MNIST, "fashion-mnist": FashionMNIST}[source]().images()
    return torch.tensor(levels[:_TRAINING_IMAGES], dtype=torch.float32) / 255
