"""The optimiser of a pack, whose state is named after parameters: slots come and go."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from flowzoo.training.packing import Pack, State
from flowzoo.training.schedules import rate_factor

_MOMENTS = ("exp_avg", "exp_avg_sq")


class PackOptimizer:
    """Adam or AdamW over the trained parameters of a pack; one state a member, elementwise.

    The steps are torch's own functions. Its classes would import the compiler with the first
    optimiser of a process, which takes as long as torch itself.

    Args:
        pack: as it is now; a pack that lost members needs a new optimiser.
    """

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self._update = adamw if pack.stage.decoupled_decay else adam
        self._fused = pack.leaf(pack.trained[0]).device.type in {"cpu", "cuda"}
        self._state: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, step: int, total_steps: int) -> None:
        """Update the parameters by their gradients, and drop these."""
        factor = rate_factor(self.pack.stage, step, total_steps)
        for options, names in self.pack.parameter_groups:
            leaves, gradients, states = [], [], []
            for name in names:
                leaf = self.pack.leaf(name)
                if leaf.grad is not None:
                    leaves.append(leaf)
                    gradients.append(leaf.grad)
                    states.append(self._state_of(name))
            if not leaves:
                continue
            self._update(
                leaves,
                gradients,
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=self._fused,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=options.lr * factor,
                weight_decay=options.weight_decay,
                eps=1e-8,
                maximize=False,
            )
            for leaf in leaves:
                leaf.grad = None

    def tensors(self) -> State:
        """Adam's moments by parameter name, with a leading M, and its step counts."""
        held: State = {}
        for name, state in self._state.items():
            for key, value in state.items():
                stacked = self.pack.stacked or key == "step"
                held[f"{name}/{key}"] = value if stacked else value.unsqueeze(0)
        return held

    def restore(self, held: State) -> None:
        """Take over what ``tensors`` gave."""
        for name in self.pack.trained:
            if f"{name}/step" not in held:
                continue
            state = {"step": held[f"{name}/step"].clone().to(torch.float32)}
            for key in _MOMENTS:
                value = held[f"{name}/{key}"].clone().to(self.pack.leaf(name).dtype)
                state[key] = value if self.pack.stacked else value[0]
            self._state[name] = state

    def _state_of(self, name: str) -> dict[str, Tensor]:
        if name not in self._state:
            leaf = self.pack.leaf(name)
            step = torch.zeros((), dtype=torch.float32, device=leaf.device)
            moments = {key: torch.zeros_like(leaf, requires_grad=False) for key in _MOMENTS}
            self._state[name] = {"step": step, **moments}
        return self._state[name]
