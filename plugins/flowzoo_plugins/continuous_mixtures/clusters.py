"""Where the values of a finite index start: at clusters of the data."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.layers.scale_bound import Bound, bound_log_scale, raw_log_scale

_LEAST_SHARE = 0.05  # of the data's standard deviation: a cluster's, at least
_ROWS = 2**14


def some_rows(x: Tensor, generator: torch.Generator) -> Tensor:
    """At most 2^14 rows of x (N, D), at random: files may be sorted."""
    order = torch.randperm(len(x), generator=generator, device=generator.device)
    return x[order[:_ROWS].to(x.device)]


def cluster_moments(y: Tensor, num_values: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Means (K, D), standard deviations (K, D) and log-shares (K,) of k-means clusters of y (N, D).

    With fewer distinct rows than K the surplus values repeat the moments of all rows, at a share of
    half a row.
    """
    from sklearn.cluster import KMeans

    rows = y.detach().to("cpu", torch.float64)
    whole = rows.std(dim=0, correction=0)
    least = (_LEAST_SHARE * whole).clamp(min=1e-6)
    count = min(num_values, len(torch.unique(rows, dim=0)))
    labels = KMeans(count, n_init=4, random_state=seed).fit(rows.numpy()).labels_
    label = torch.as_tensor(labels, dtype=torch.int64)
    means, stds = (
        rows.mean(dim=0).repeat(num_values, 1),
        whole.clamp(min=1e-6).repeat(num_values, 1),
    )
    shares = torch.full((num_values,), 0.5, dtype=torch.float64)
    for k in range(count):
        members = rows[label == k]
        means[k] = members.mean(dim=0)
        stds[k] = torch.maximum(members.std(dim=0, correction=0), least)
        shares[k] = len(members)
    return means.to(y), stds.to(y), (shares / shares.sum()).log().to(y)


def standardising_rows(means: Tensor, stds: Tensor, bound: Bound) -> Tensor:
    """Raw s_k and t_k, (K, 2 D), under which e^s y + t has each cluster's rows standardised."""
    raw = raw_log_scale(-stds.log(), bound)
    return torch.cat([raw, -means * bound_log_scale(raw, bound).exp()], dim=1)
