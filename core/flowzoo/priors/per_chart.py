"""A prior of its own for every chart."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from flowzoo.interfaces import BaseFlow, Prior
from flowzoo.validation import check_chart, check_rows


class PerChart(nn.Module):
    r"""K priors of one architecture, each with parameters of its own; every row names its chart.

    .. math:: \log q(z \mid k) = \log q_{\theta_k}(z)

    Parameters and buffers are stacked, with a leading K. A row is evaluated with the parameters of
    its chart alone, all rows in one vmap: the cost is that of N rows, whatever K, and no row
    reaches another chart's gradient. An outer vmap or functional_call may swap the stacks.

    Args:
        parts: the charts' priors, copied; unconditional, with parameters.

    Raises:
        ValueError: no parts, conditional ones, ones without parameters or of different shapes.

    Example:
        >>> from flowzoo.priors import NoisyInjectiveGaussian
        >>> prior = PerChart([NoisyInjectiveGaussian(3, latent_features=1) for _ in range(4)])
        >>> prior.log_prob(torch.zeros(2, 3), torch.tensor([0, 3])).shape
        torch.Size([2])
    """

    def __init__(self, parts: Sequence[Prior]) -> None:
        super().__init__()
        _check(parts)
        self.num_charts = len(parts)
        self.features, self.noise_features = parts[0].features, parts[0].noise_features
        self.stacked = deepcopy(parts[0])  # never called with the stacks in place
        for path, module in self.stacked.named_modules():
            owners = [part.get_submodule(path) for part in parts]
            for name in [n for n, p in module.named_parameters(recurse=False)]:
                own = getattr(module, name)
                stack = torch.stack([getattr(owner, name).detach() for owner in owners])
                setattr(module, name, nn.Parameter(stack, requires_grad=own.requires_grad))
            for name in [n for n, b in module.named_buffers(recurse=False)]:
                setattr(module, name, torch.stack([getattr(owner, name) for owner in owners]))

    def log_prob(self, z: Tensor, chart: Tensor) -> Tensor:
        """log q(z | chart) in nats, (N,), for z (N, d) and chart (N,) int64.

        Raises:
            ValueError: wrong shapes.
        """
        return self.by_row("log_prob", chart, check_rows("z", z, self.features))

    def from_normal(self, noise: Tensor, chart: Tensor) -> Tensor:
        """Standard normal numbers (N, noise_features) turned into draws (N, d) of ``chart`` (N,).

        Raises:
            ValueError: wrong shapes.
        """
        noise = check_rows("noise", noise, self.noise_features)
        return self.by_row("from_normal", chart, noise)

    def sample(
        self,
        chart: Tensor,
        *,
        temperature: float = 1.0,
        noise_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """A draw of the prior of each of ``chart`` (N,), (N, d); not under vmap.

        Raises:
            ValueError: what the parts refuse, or a ``chart`` of the wrong shape or dtype.
        """
        check_chart(chart, self.num_charts, len(chart))
        knobs: dict[str, Any] = {"temperature": temperature, "noise_scale": noise_scale}
        if chart.device.type == "meta":  # no values to group by
            return self._alone(0, "sample", len(chart), **knobs)
        draws = self._alone(0, "sample", 0, **knobs).new_empty(len(chart), self.features)
        for k in range(self.num_charts):
            rows = (chart == k).nonzero().squeeze(1)
            if len(rows):
                draws[rows] = self._alone(k, "sample", len(rows), **knobs, generator=generator)
        return draws

    def by_row(self, method: str, chart: Tensor, *rows: Tensor, **options: Any) -> Tensor:
        """``method`` of each row's own prior: (N, ...) from one or more tensors of N rows.

        The method gets one row at a time, (1, ...), under vmap, and ``options`` as they are.

        Raises:
            ValueError: a ``chart`` of the wrong shape or dtype.
        """
        check_chart(chart, self.num_charts, len(rows[0]))
        if len(chart) == 0:  # which vmap does not take
            return self._alone(0, method, *rows, **options)
        call = _Call(self.stacked, method)

        def one(state: dict[str, Tensor], *row: Tensor) -> Tensor:
            given = tuple(r.unsqueeze(0) for r in row)
            value: Tensor = functional_call(call, state, given, options)
            return value.squeeze(0)

        own = {name: stack[chart] for name, stack in self._state().items()}
        values: Tensor = vmap(one)(own, *rows)
        return values

    def by_chart(self, method: str) -> Tensor:
        """``method()`` of every chart's prior, (K, ...)."""
        call = _Call(self.stacked, method)

        def one(state: dict[str, Tensor]) -> Tensor:
            value: Tensor = functional_call(call, state, ())
            return value

        values: Tensor = vmap(one)(self._state())
        return values

    def part(self, index: int) -> Prior:
        """A copy of the prior of chart ``index``, a module like any other."""
        if not 0 <= index < self.num_charts:
            raise ValueError(f"index: expected 0..{self.num_charts - 1}, got {index}")
        part = deepcopy(self.stacked)
        for module in part.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                own = parameter.detach()[index].clone()
                setattr(module, name, nn.Parameter(own, requires_grad=parameter.requires_grad))
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, buffer[index].clone())
        return part

    @torch.no_grad()
    def put(self, index: int, part: Prior) -> None:
        """Copy the parameters and buffers of ``part`` into those of chart ``index``."""
        own = {**dict(part.named_parameters("prior")), **dict(part.named_buffers("prior"))}
        for name, stack in self._state().items():
            stack[index].copy_(own[name])

    def support_map(self) -> BaseFlow | None:
        """The bijection onto the support, which is the same for every chart; None for R^d."""
        return self.stacked.support_map()

    def _alone(self, index: int, method: str, *given: Any, **options: Any) -> Tensor:
        """A method of one chart's prior, on as many rows as there are."""
        own = {name: stack[index] for name, stack in self._state().items()}
        value: Tensor = functional_call(_Call(self.stacked, method), own, given, options)
        return value

    def _state(self) -> dict[str, Tensor]:
        """The stacks by the names ``_Call`` knows them by, whatever stands in for them now."""
        state = dict(self.stacked.named_parameters(prefix="prior"))
        return {**state, **dict(self.stacked.named_buffers(prefix="prior"))}


class _Call(nn.Module):
    """A prior's method as ``forward``, for functional_call."""

    def __init__(self, prior: Prior, method: str) -> None:
        super().__init__()
        self.prior, self.method = prior, method

    def forward(self, *given: Any, **options: Any) -> Tensor:
        value: Tensor = getattr(self.prior, self.method)(*given, **options)
        return value


def _check(parts: Sequence[Prior]) -> None:
    if not parts:
        raise ValueError("parts: expected at least one prior, got none")
    shapes = []
    for part in parts:
        if part.context_features:
            raise ValueError(
                f"parts: expected unconditional priors, got one of {part.context_features} "
                "context columns"
            )
        tensors = [*part.named_parameters(), *part.named_buffers()]
        shapes.append((type(part), [(name, tensor.shape) for name, tensor in tensors]))
    if next(parts[0].parameters(), None) is None:
        raise ValueError(
            "parts: expected priors with parameters, "
            f"got {type(parts[0]).__name__}, which is the same in every chart"
        )
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(f"parts: expected one architecture, part {index} differs from part 0")
