"""Where a low-rank Gaussian starts: at the directions that carry most of the data's variance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flowzoo.validation import check_positive, check_rows

_FLOOR = 1e-6  # of the mean variance: what rows of less rank than columns leave over


class PrincipalStart(NamedTuple):
    """A Gaussian N(bias, loading loading' + diag(variance)) of codes.

    Attributes:
        bias: (D,).
        loading: (D, d).
        variance: (D,), positive.
    """

    bias: Tensor
    loading: Tensor
    variance: Tensor


@torch.no_grad()
def principal_start(z: Tensor, x: Tensor, latent_features: int) -> PrincipalStart:
    r"""The moments of codes z = f(x), split into d directions of signal and noise.

    With C = L L' the covariance of z, its whitened code w = L^-1 (z - mean), and M the linear map
    that predicts x from w best, the right singular vectors v_j of M are the directions of w that
    carry the most of the data's variance s_j^2. The first d of them are the signal, but for as much
    noise as the directions left out have on average:

    .. math:: a_j = \sqrt{1 - \eta_j}\, L v_j, \quad
              \eta_j = \min\Bigl(1, \tfrac{1}{s_j^2}\,\mathrm{mean}_{i > d}\, s_i^2\Bigr), \quad
              \Sigma = \mathrm{diag}(C - A A^\top)

    For z = x this is probabilistic principal component analysis (Tipping and Bishop (1999), eq. 7)
    with a noise of its own for each column. For codes that are white along the data's principal
    axes A A' + Sigma is the identity, so the Gaussian has all of their moments.

    Args:
        z: codes, (N, D).
        x: the data they are of, (N, E).
        latent_features: d, at most D.

    Returns:
        The Gaussian, in the dtype and on the device of z.

    Raises:
        ValueError: d out of range, or fewer than two rows.
    """
    features = z.shape[1]
    if not check_positive("latent_features", latent_features) <= features:
        raise ValueError(f"latent_features: expected at most {features}, got {latent_features}")
    if len(check_rows("z", z, features)) < 2:
        raise ValueError(f"z: expected at least two rows, got {len(z)}")
    codes, data = z.detach().cpu().double(), x.detach().cpu().double()
    mean = codes.mean(dim=0)
    codes, data = codes - mean, data - data.mean(dim=0)
    covariance = codes.T @ codes / len(codes)
    values, axes = torch.linalg.eigh(covariance)
    floor = _FLOOR * values.mean().clamp(min=torch.finfo(torch.float64).tiny)
    std = values.clamp(min=floor).sqrt()
    predict = (data.T @ codes / len(codes)) @ (axes / std)  # M, (E, D)
    carried, directions = torch.linalg.eigh(predict.T @ predict)
    carried, directions = carried.flip(0).clamp(min=0.0), directions.flip(1)
    first = carried[:latent_features]
    rest = carried[latent_features:].mean() if latent_features < features else first.new_zeros(())
    share = torch.where(first > rest, 1.0 - rest / first.clamp(min=1e-300), torch.zeros_like(first))
    loading = (axes * std) @ directions[:, :latent_features] * share.sqrt()
    variance = (covariance.diagonal() - loading.square().sum(dim=1)).clamp(min=floor)
    return PrincipalStart(mean.to(z), loading.to(z), variance.to(z))
