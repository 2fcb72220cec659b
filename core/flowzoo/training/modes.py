"""Train and eval mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put ``module`` in eval mode for a while (batch-norm must use its running statistics)."""
    with _mode(module, False):
        yield


@contextmanager
def as_in_training(module: nn.Module) -> Iterator[None]:
    """Put ``module`` in train mode for a while: batch-norm scales by the batch, as in a step.

    Before the first step its running statistics say nothing of the data.
    """
    with _mode(module, True):
        yield


@contextmanager
def _mode(module: nn.Module, training: bool) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
