"""Local dimension by how a density falls as noise grows."""

from __future__ import annotations

from torch import Tensor

from flowzoo.validation import check_positive


def lidl(log_probs: Tensor, noise_levels: Tensor, features: int) -> Tensor:
    r"""d(x) = D + slope of log p_delta(x) against log delta, by least squares, (N,) float64.

    .. math:: \log p_\delta(x) = (d(x) - D) \log\delta + O(1), \quad p_\delta = p * N(0, \delta^2 I)

    It holds for delta below the manifold's bends and above whatever noise the data carry.

    Source: Tempczyk et al. (2022), LIDL: Local Intrinsic Dimension Estimation Using Approximate
    Likelihood.

    Args:
        log_probs: log p_delta(x) in nats, (S, N), one row a noise level.
        noise_levels: delta, (S,), in the units of the data; at least two different ones.
        features: D.

    Returns:
        Slopes as they come: not whole, and outside [0, D] where the densities are.

    Raises:
        ValueError: wrong shapes, or noise levels that are not positive or all alike.

    Example:
        >>> import torch
        >>> level = torch.tensor([0.1, 0.2], dtype=torch.float64)
        >>> plane = -1 * level.log()[:, None]  # 2-D in 3-D
        >>> round(float(lidl(plane, level, 3)), 6)
        2.0
    """
    check_positive("features", features)
    if log_probs.ndim != 2 or noise_levels.shape != log_probs.shape[:1]:
        raise ValueError(
            f"log_probs: expected (S, N) with noise_levels (S,), got {tuple(log_probs.shape)} "
            f"and {tuple(noise_levels.shape)}"
        )
    log_level = noise_levels.double().log()
    spread = log_level.amax() - log_level.amin() if log_level.numel() else log_level.new_zeros(())
    if not bool((spread > 0) & spread.isfinite()):
        raise ValueError(
            f"noise_levels: expected at least two different finite numbers > 0, "
            f"got {noise_levels.tolist()}"
        )
    centred = log_level - log_level.mean()
    slope: Tensor = centred @ log_probs.double() / centred.square().sum()
    return features + slope
