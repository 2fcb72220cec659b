"""The K local flows g_k: one shared network, told which chart it is on (section 4.2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from flowzoo.charts import Condition, chart_context, check_condition, condition_features
from flowzoo.interfaces import BaseFlow, Injection, Prior, Step
from flowzoo.layers import Thickened, surface_log_prob
from flowzoo.options import options_of
from flowzoo.priors import PerChart, Product, StandardNormal
from flowzoo.registry import build_part, load
from flowzoo_plugins.vq_flows import heads
from flowzoo_plugins.vq_flows.frames import ChartFrames


class LocalFlows(nn.Module):
    r"""log p(x | k) for K charts that share one conditional flow.

    .. math:: \log p(x \mid k) = \log q_k(f_k(x)) + \log|\det J f_k(x)|

    f_k is the chart's frame, where there are frames, then the shared base flow given the chart,
    then the map onto the prior's support, where that is not all of R^d. The prior q_k is one for
    all charts, or one a chart. A base flow that has the option ``num_charts`` is indexed by the
    chart as well; that of ``cef`` gives K embeddings (supplement, section 3). An injection is
    thickened to a bijection of R^D, its prior joined by N(0, I) on the other D - d columns.
    Source: Sidheekh et al. (2022), eq. 16.

    Args:
        features: D.
        base_flow: a base flow's name, mapping or module, conditional on the chart.
        prior: a prior's name, mapping or module, of the base flow's latent space.
        prior_per_chart: whether each chart has a prior of its own.
        num_charts: K.
        code_features: width of a chart's code.
        condition: what the base flow is told: the chart's ``code`` or a ``one-hot`` of its index.
        frames: affine frames, or None.
    """

    def __init__(
        self,
        features: int,
        *,
        base_flow: str | Mapping[str, Any] | BaseFlow,
        prior: str | Mapping[str, Any] | Prior,
        prior_per_chart: bool,
        num_charts: int,
        code_features: int,
        condition: Condition,
        frames: ChartFrames | None,
    ) -> None:
        super().__init__()
        check_condition(condition)
        self.num_charts, self.condition = num_charts, condition
        width = condition_features(condition, num_charts, code_features)
        given = {"num_charts": num_charts} if _takes_charts(base_flow) else {}
        base: BaseFlow = build_part(
            "base-flow", base_flow, features=features, context_features=width, **given
        )
        if base.num_charts not in (None, num_charts):
            raise ValueError(
                f"base_flow: expected num_charts None or {num_charts}, got {base.num_charts}"
            )
        self.code_columns = base.latent_features  # d, for an injection less than the latent columns
        if prior_per_chart and isinstance(base, Injection):
            raise ValueError("prior_per_chart: expected False for an injection as base flow")
        if base.latent_features != features:
            if frames is not None:
                raise ValueError("frames: expected 'none' for a base flow that changes dimension")
            if not isinstance(base, Injection):
                raise ValueError(
                    f"base_flow: expected {features} latent columns or an Injection, "
                    f"got {type(base).__name__} with {base.latent_features}"
                )
        self.frames = frames
        charts = num_charts if prior_per_chart else None
        self.prior: Prior | PerChart = heads.build(prior, self.code_columns, charts)
        if isinstance(base, Injection) and isinstance(self.prior, Prior):
            base = Thickened(base)
            self.prior = Product([self.prior, StandardNormal(features - self.code_columns)])
        self.base = base
        self.latent_features = base.latent_features
        self.support = self.prior.support_map()

    def context(self, chart: Tensor, codes: Tensor) -> Tensor:
        """What the base flow is told about chart (N,), (N, C)."""
        return chart_context(chart, codes, self.condition)

    def encode(self, x: Tensor, chart: Tensor, codes: Tensor) -> Step:
        """f_k: x (N, D) and chart (N,) to z (N, d) and log|det dz/dx| (N,)."""
        volume = x.new_zeros(len(x))
        if self.frames is not None:
            x, change = self.frames.encode(x, chart)
            volume = volume + change
        x, change = self.base.encode(x, **self.given(self.base, chart, codes))
        volume = volume + change
        if self.support is not None:
            x, change = self.support.encode(x)
            volume = volume + change
        return Step(x, volume)

    def decode(self, z: Tensor, chart: Tensor, codes: Tensor) -> Step:
        """g_k: z (N, d) and chart (N,) to x (N, D) and log|det dz/dx| (N,)."""
        volume = z.new_zeros(len(z))
        if self.support is not None:
            z, change = self.support.decode(z)
            volume = volume + change
        z, change = self.base.decode(z, **self.given(self.base, chart, codes))
        volume = volume + change
        if self.frames is not None:
            z, change = self.frames.decode(z, chart)
            volume = volume + change
        return Step(z, volume)

    def log_prob(self, x: Tensor, chart: Tensor, codes: Tensor) -> Tensor:
        """log p(x | k), (N,), nats."""
        z, volume = self.encode(x, chart, codes)
        return heads.log_prob(self.prior, z, chart) + volume

    @property
    def thickened(self) -> Thickened | None:
        """The base flow, where it is an injection."""
        return self.base if isinstance(self.base, Thickened) else None

    def reconstruct(self, x: Tensor, chart: Tensor, codes: Tensor) -> Tensor:
        """The point of chart (N,)'s manifold that x (N, D) is taken to, (N, D).

        Raises:
            TypeError: the base flow is no injection.
        """
        injection, _ = self._injection()
        return injection.reconstruct(x, **self.given(injection, chart, codes))

    def surface_log_prob(self, x: Tensor, chart: Tensor, codes: Tensor) -> Tensor:
        """log-density of chart (N,)'s flow against its manifold's area at ``reconstruct``, (N,).

        Raises:
            TypeError: the base flow is no injection.
        """
        injection, prior = self._injection()
        return surface_log_prob(injection, prior, x, **self.given(injection, chart, codes))

    def _injection(self) -> tuple[Injection, Prior]:
        """The base flow as it was given, and the prior of its d columns."""
        if self.thickened is None or not isinstance(self.prior, Product):
            raise TypeError("base_flow: expected an injection, this flow keeps the dimension")
        return self.thickened.injection, self.prior.part(0)

    def trajectory(self, x: Tensor, chart: Tensor, codes: Tensor) -> list[Tensor]:
        """x after the frame, after each layer of the base flow and after the support map.

        Raises:
            TypeError: the base flow cannot be taken apart.
        """
        steps = []
        if self.frames is not None:
            x = self.frames.encode(x, chart).value
            steps.append(x)
        for layer in self.base.layers():
            x = layer.encode(x, **self.given(layer, chart, codes)).value
            steps.append(x)
        if self.support is not None:
            x = self.support.encode(x).value
            steps.append(x)
        return steps

    def given(self, flow: BaseFlow, chart: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """The keywords ``flow`` takes, of context and chart."""
        given = {}
        if flow.context_features:
            given["context"] = self.context(chart, codes)
        if flow.num_charts is not None:
            given["chart"] = chart
        return given


def _takes_charts(base_flow: str | Mapping[str, Any] | BaseFlow) -> bool:
    """Whether a base flow that is still to be built has the option ``num_charts``."""
    name = base_flow.get("name") if isinstance(base_flow, Mapping) else base_flow
    return isinstance(name, str) and "num_charts" in options_of(load("base-flow", name))
