"""The plane in which the classes of labelled rows lie farthest apart."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def discriminant_plane(fit: Tensor, classes: Tensor, rows: Tensor) -> Tensor:
    """Rows (N, D) on the two leading axes of linear discriminant analysis, (N, 2) float64.

    The axes a maximise ``aᵀ B a / aᵀ W a`` on ``fit`` (M, D) with ``classes`` (M,), B the
    covariance of the class means, W that within classes, shrunk by Ledoit and Wolf (2004) because
    D may pass M. The axes are fitted on other rows than are shown: what the plane parts is not
    what it has memorised. Two classes have one axis, the other coordinate is then 0. Non-finite
    rows stay so, and non-finite rows of ``fit`` are left out.

    Raises:
        ValueError: fewer than two classes among the finite rows of ``fit``.

    Example:
        >>> fit = torch.tensor([[0.0, 5.0], [0.1, -5.0], [9.0, 5.0], [9.1, -5.0]])
        >>> plane = discriminant_plane(fit, torch.tensor([0, 0, 1, 1]), fit)
        >>> bool((plane[2:, 0] - plane[:2, 0]).abs().min() > 1)
        True
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    known = torch.isfinite(fit).all(dim=1)
    given = classes[known].numpy()
    if len(np.unique(given)) < 2:
        raise ValueError(
            f"classes: expected at least two in the finite rows, got {np.unique(given)}"
        )
    analysis = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto", n_components=None)
    analysis.fit(fit[known].double().numpy(), given)
    plane = torch.full((len(rows), 2), float("nan"), dtype=torch.float64)
    shown = torch.isfinite(rows).all(dim=1)
    if bool(shown.any()):
        found = torch.as_tensor(analysis.transform(rows[shown].double().numpy()))[:, :2]
        plane[shown] = torch.nn.functional.pad(found, (0, 2 - found.shape[1]))
    return plane
