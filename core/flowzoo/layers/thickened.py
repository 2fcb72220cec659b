"""An injection as a bijection of R^D: the manifold with a normal thickness."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowzoo.interfaces import BaseFlow, Injection, Prior, Step
from flowzoo.validation import check_rows

VARIANCE_FLOOR = 1e-6  # of the data's mean variance: sigma is at least 1e-3 of the data's std
_ROWS = 2**14  # rows worked on at once while the thickness is fitted


class Thickened(BaseFlow):
    r"""x to (z, w / sigma): with N(0, I) on the last D - d columns an exact density in R^D.

    .. math:: \log p(x) = \log q(z) + \log N(w; 0, \sigma^2 I) + \log|\det d(z, w)/dx|

    with (z, w) from the injection's ``encode_thick``. It integrates to one for any sigma, and sigma
    is the standard deviation of the distance to the manifold, in data units to first order. The
    formula log p_M(c+(x)) + log N(x - c(c+(x)); 0, sigma^2 I) of the literature agrees with it to
    first order in sigma, and exactly for planes; elsewhere it does not integrate to one.

    Until ``fit`` sigma is 1. Training does not take it below the floor that ``fit`` sets, so that
    data that lie on a manifold have a finite best score. For an injection indexed by chart there is
    a sigma a chart.

    Args:
        injection: the flow onto the manifold.

    Raises:
        TypeError: ``injection`` is none.

    Example:
        >>> import torch
        >>> from flowzoo.layers import ConformalEmbedding
        >>> flow = Thickened(ConformalEmbedding(3, latent_features=2))
        >>> x = torch.tensor([[1.0, 2.0, 3.0]])
        >>> torch.allclose(flow.encode(x).value, x)  # a flat start, sigma 1
        True
    """

    log_floor: Tensor  # (), log of the smallest sigma
    variance: Tensor  # (), mean variance of the data's columns

    def __init__(self, injection: Injection) -> None:
        if not isinstance(injection, Injection):
            raise TypeError(f"injection: expected an Injection, got {type(injection).__name__}")
        super().__init__(
            injection.features,
            context_features=injection.context_features,
            num_charts=injection.num_charts,
            fast=injection.fast,
        )
        self.injection = injection
        self.codimension = injection.features - injection.latent_features
        charts = () if injection.num_charts is None else (injection.num_charts,)
        self.log_thickness = nn.Parameter(torch.zeros(charts))
        self.register_buffer("log_floor", torch.tensor(-torch.inf))
        self.register_buffer("variance", torch.ones(()))

    def layers(self) -> Sequence[BaseFlow]:
        """The whole flow: the layers of an injection act on fewer columns."""
        return (self,)

    def _encode(self, x: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        (zw, volume), log_sigma = self.injection._encode_thick(x, context, chart), self._log(chart)
        z, w = torch.split(zw, [self.features - self.codimension, self.codimension], dim=1)
        w = w * (-log_sigma)[..., None].exp()
        return Step(torch.cat([z, w], dim=1), volume - self.codimension * log_sigma)

    def _decode(self, z: Tensor, context: Tensor | None, chart: Tensor | None) -> Step:
        log_sigma = self._log(chart)
        z, w = torch.split(z, [self.features - self.codimension, self.codimension], dim=1)
        zw = torch.cat([z, w * log_sigma[..., None].exp()], dim=1)
        x, volume = self.injection._decode_thick(zw, context, chart)
        return Step(x, volume - self.codimension * log_sigma)

    def _log(self, chart: Tensor | None) -> Tensor:
        """log sigma of each row's chart, (N,), or of all rows, ()."""
        log_sigma = torch.maximum(self.log_thickness, self.log_floor)
        return log_sigma if chart is None else log_sigma[chart]

    @torch.no_grad()
    def measure(self, x: Tensor) -> None:
        """Take the data's mean variance, and with it the floor of sigma, from rows x (N, D)."""
        variance = x.double().var(dim=0, correction=0).mean()
        self.variance.copy_(torch.where(variance > 0.0, variance, torch.ones_like(variance)))
        self.log_floor.copy_(0.5 * (VARIANCE_FLOOR * self.variance.double()).log())

    @torch.no_grad()
    def fit(self, x: Tensor, context: Tensor | None = None, chart: Tensor | None = None) -> None:
        r"""Set sigma by maximum likelihood on training rows, in place.

        .. math:: \sigma_k^2 = \frac{1}{D - d}\,\mathrm{mean}_{n \in k} |w_n|^2

        A chart with fewer than 2 D rows takes the sigma of all rows. sigma^2 is at least 1e-6 of
        the data's mean variance, for data that lie on the manifold.

        Args:
            x: training rows, (N, D).
            context: conditioning, where the injection takes any.
            chart: the nearest chart of each row, for an injection indexed by chart.

        Raises:
            ValueError: a wrong shape, or no rows.
        """
        if len(check_rows("x", x, self.features)) == 0:
            raise ValueError("x: expected at least one row, got none")
        parts = []
        for start in range(0, len(x), _ROWS):
            rows = slice(start, start + _ROWS)
            given = [None if value is None else value[rows] for value in (context, chart)]
            zw = self.injection.encode_thick(x[rows], *given).value
            parts.append(zw[:, -self.codimension :].double().square().mean(dim=1))
        squares = torch.cat(parts)
        self.measure(x)
        floor = VARIANCE_FLOOR * float(self.variance)
        overall = squares.mean().clamp(min=floor)
        if chart is None:
            self.log_thickness.copy_(0.5 * overall.log())
            return
        zeros = squares.new_zeros(len(self.log_thickness))
        counts = zeros.index_add(0, chart, torch.ones_like(squares))
        sums = zeros.index_add(0, chart, squares)
        own = (sums / counts.clamp(min=1.0)).clamp(min=floor)
        chosen = torch.where(counts >= 2 * self.features, own, overall)
        self.log_thickness.copy_(0.5 * chosen.log())


def surface_log_prob(
    injection: Injection,
    prior: Prior,
    x: Tensor,
    context: Tensor | None = None,
    chart: Tensor | None = None,
) -> Tensor:
    r"""log-density against surface area at the point of the manifold x is taken to, (N,), nats.

    .. math:: \log q(z) - \tfrac12 \log\det J^T J, \qquad z = c^\dagger(x)

    It ignores how far x is from the manifold: read it beside the reconstruction error only.

    Args:
        injection: the flow onto the manifold.
        prior: density of z, (N, d).
        x: (N, D).
        context: conditioning, where the injection takes any.
        chart: chart of each row, where it takes one.
    """
    z, volume = injection.encode(x, context, chart)
    support = prior.support_map()
    if support is not None:
        z, change = support.encode(z)
        volume = volume + change
    return prior.log_prob(z) + volume
