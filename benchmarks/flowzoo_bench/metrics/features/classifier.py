"""A small image classifier, and how it is trained: the same way, whichever run asks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

RECIPE = 1
"""Changes with anything here that changes the weights."""
FEATURES = 64
_SEED, _BATCH, _LEARNING_RATE, _WEIGHT_DECAY = 0, 128, 3e-3, 1e-2
_STEPS, _EPOCHS = 1200, 30  # whichever ends first
_SMALLEST_SIDE = 4


class ImageClassifier(nn.Module):
    """Two convolutions of 16 and 32 channels, 64 features, one linear map to the classes.

    Args:
        shape: (C, H, W) of an image, H and W at least 4.
        classes: how many, at least 2.

    Raises:
        ValueError: images too small, or fewer than two classes.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        if channels < 1 or min(height, width) < _SMALLEST_SIDE:
            raise ValueError(f"shape: expected (C, H, W) of at least (1, 4, 4), got {shape}")
        if classes < 2:
            raise ValueError(f"classes: expected at least 2, got {classes}")
        self.shape, self.classes = (channels, height, width), classes
        dtype = torch.float32
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1, bias=False, dtype=dtype),
            nn.MaxPool2d(2),  # before the rest: a quarter of the work
            nn.BatchNorm2d(16, dtype=dtype),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False, dtype=dtype),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(32, dtype=dtype),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (height // 4) * (width // 4), FEATURES, dtype=dtype),
            nn.BatchNorm1d(FEATURES, dtype=dtype),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes, dtype=dtype)
        # a third faster on CPUs
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, images: Tensor) -> Tensor:
        """What the last layer sees, (N, 64), of images (N, C H W) float32 in [0, 1]."""
        shaped = images.reshape(-1, *self.shape)
        features: Tensor = self.body(shaped.contiguous(memory_format=torch.channels_last))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (N, classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits


def fit_classifier(
    levels: Tensor, labels: Tensor, shape: tuple[int, int, int], num_levels: int
) -> ImageClassifier:
    """Train on the CPU with a fixed seed, by AdamW, one cycle of the learning rate, shifted images.

    At most 1,200 batches of 128 and 30 passes; every batch is shifted by up to one pixel a way, the
    border repeated. About 20 seconds of one core at 28 x 28 pixels.

    Args:
        levels: whole numbers in [0, num_levels), (N, C H W) of any dtype, N >= 2.
        labels: (N,) int64 >= 0; there are as many classes as the largest says.
        shape: (C, H, W).
        num_levels: at least 2.

    Raises:
        ValueError: fewer than two images or classes, or too small a shape.
    """
    if len(levels) < 2:
        raise ValueError(f"levels: expected at least 2 images, got {len(levels)}")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(_SEED)  # the initial weights
        network = ImageClassifier(shape, int(labels.max()) + 1)
        _train(network, levels, labels, num_levels)
    return network.eval().requires_grad_(False)


def brightness(levels: Tensor, num_levels: int) -> Tensor:
    """Levels as the classifier takes them: float32 in [0, 1]."""
    return levels.to(torch.float32) / (num_levels - 1)


def _train(network: ImageClassifier, levels: Tensor, labels: Tensor, num_levels: int) -> None:
    generator = torch.Generator().manual_seed(_SEED)
    batch = min(_BATCH, len(levels))
    steps = min(_STEPS, _EPOCHS * (len(levels) // batch))
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _LEARNING_RATE, total_steps=steps, pct_start=0.15
    )
    network.train()
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < batch:  # rows left over by a pass wait for another order
            order = torch.randperm(len(levels), generator=generator)
        chosen, order = order[:batch], order[batch:]
        images = brightness(levels[chosen], num_levels)
        shifted = _shifted(images, network.shape, generator)
        loss = functional.cross_entropy(network(shifted), labels[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def _shifted(images: Tensor, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """The batch moved by -1, 0 or 1 pixel along each axis, the same for all."""
    down, right = torch.randint(0, 3, (2,), generator=generator).tolist()
    _, height, width = shape
    padded = functional.pad(images.reshape(-1, *shape), (1, 1, 1, 1), mode="replicate")
    return padded[:, :, down : down + height, right : right + width].flatten(1)
