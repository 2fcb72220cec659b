"""Training one model, as a user calls it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from flowzoo.training.progress import progress_bar
from flowzoo.training.randomness import generator_for
from flowzoo.training.results import FitResult, TrainingData
from flowzoo.training.trainer import train_pack
from flowzoo.validation import check_finite, check_rows


def fit(
    model: nn.Module,
    x_train: Tensor,
    x_valid: Tensor | None = None,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 30.0,
    progress: bool = False,
) -> FitResult:
    """Train one model through its stages; it ends holding its best state by validation.

    Args:
        model: a mixture or a partitioner.
        x_train: training rows, (N, D), of any floating dtype.
        x_valid: validation rows, (M, D); when None a tenth of ``x_train`` is held out by ``seed``.
        seed: everything random in training follows from it.
        device: where to train; by default where the model is.
        checkpoint: file to save to and resume from.
        checkpoint_seconds: training time between saves.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: wrong shapes or dtype, no rows, or a non-finite row.
        TypeError: the data are not tensors or the model has no stages.

    Example:
        >>> import flowzoo, torch
        >>> model = flowzoo.build("mixture", "gaussian", features=2)
        >>> flowzoo.fit(model, torch.randn(100, 2)).status
        'ok'
    """
    features = getattr(model, "features", None)
    if features is None:
        raise TypeError(f"model: expected a flowzoo model, got {type(model).__name__}")
    given = {"x_train": x_train} if x_valid is None else {"x_train": x_train, "x_valid": x_valid}
    for name, rows in given.items():
        if len(check_rows(name, rows, features)) == 0:
            raise ValueError(f"{name}: expected at least one row, got 0")
        check_finite(name, rows)
    if x_valid is None:
        x_train, x_valid = _hold_out(x_train, seed)
    path = None if checkpoint is None else Path(checkpoint)
    with progress_bar(enabled=progress) as report:
        return train_pack(
            [model],
            [TrainingData(x_train, x_valid)],
            [seed],
            device=device,
            checkpoint=path,
            checkpoint_seconds=checkpoint_seconds,
            progress=report,
        )[0]


def _hold_out(x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Nine tenths for training, one for validation; a single row serves as both."""
    if len(x) == 1:
        return x, x
    order = torch.randperm(len(x), generator=generator_for(seed, "hold-out")).to(x.device)
    held = max(1, len(x) // 10)
    return x[order[held:]], x[order[:held]]
