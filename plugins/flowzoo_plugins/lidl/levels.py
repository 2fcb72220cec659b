"""Copies of one model, each with parameters of its own, evaluated together."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from flowzoo.mixtures import FlowOverPrior
from flowzoo.training.packing import is_packable

_PROBE_ROWS = 8


class Levels(nn.Module):
    """S copies of a flow over a prior; ``log_probs`` runs them as one program where vmap can.

    Their parameters are stacked inside the call, so that the gradient of each reaches it and a
    vmap over whole models still goes around this one.

    Args:
        model: what is copied, as it stands.
        num: S.

    Raises:
        ValueError: a base flow that vmap can run, but that keeps running state (batch-norm), which
            the stacked copies could not write to.
    """

    def __init__(self, model: FlowOverPrior, num: int) -> None:
        super().__init__()
        self.together = is_packable(model)
        if self.together:
            _refuse_running_state(model)
        self.copies = nn.ModuleList(deepcopy(model) for _ in range(num))

    def models(self) -> Sequence[FlowOverPrior]:
        """The copies, one a level."""
        return list(self.copies)  # type: ignore[arg-type]

    def log_probs(self, x: Tensor) -> Tensor:
        """log p_s(x_s) in nats, (S, N), for x (S, N, D)."""
        models = self.models()
        if not self.together:
            return torch.stack([_score(model, rows) for model, rows in zip(models, x, strict=True)])
        every = [_own_state(model) for model in models]
        stacked = {name: torch.stack([state[name] for state in every]) for name in every[0]}
        call = _Score(models[0])

        def one(state: dict[str, Tensor], rows: Tensor) -> Tensor:
            value: Tensor = functional_call(call, state, (rows,))
            return value

        result: Tensor = vmap(one)(stacked, x)
        return result


class _Score(nn.Module):
    """The density as ``forward``, which functional_call needs."""

    def __init__(self, model: FlowOverPrior) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return _score(self.model, x)


def _score(model: FlowOverPrior, x: Tensor) -> Tensor:
    return model._log_prob(x, "exact", None, None)


def _own_state(model: FlowOverPrior) -> dict[str, Tensor]:
    """What copies differ in: parameters, and the frame, which each has by its own data."""
    state: dict[str, Tensor] = {f"model.{name}": p for name, p in model.named_parameters()}
    if model.frame is not None:
        state.update((f"model.frame.{name}", b) for name, b in model.frame.named_buffers())
    return state


@torch.no_grad()
def _refuse_running_state(model: FlowOverPrior) -> None:
    """Raise where a pass in train mode writes to buffers."""
    reference = next(model.parameters(), None)
    if reference is None or reference.device.type == "meta":
        return
    trial = deepcopy(model).train()
    before = {name: buffer.clone() for name, buffer in trial.named_buffers()}
    x = torch.linspace(-2.0, 3.0, _PROBE_ROWS * model.features, dtype=reference.dtype)
    _score(trial, x.to(reference.device).reshape(_PROBE_ROWS, model.features))
    for name, buffer in trial.named_buffers():
        if not torch.equal(buffer, before[name]):
            raise ValueError(
                f"base_flow: expected a flow without running state, as the levels train as one, "
                f"got {name!r}, which training updates; choose normalization='none'"
            )
