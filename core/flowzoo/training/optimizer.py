"""The optimiser of a pack, whose state is named after parameters: slots come and go."""

from __future__ import annotations

import torch

from flowzoo.training.packing import Pack, State
from flowzoo.training.schedules import rate_factor


class PackOptimizer:
    """Adam or AdamW over the trained parameters of a pack; one state a member, elementwise.

    Args:
        pack: as it is now; a pack that lost members needs a new optimiser.
    """

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        groups = [
            {"params": [pack.leaf(n) for n in names], "lr": g.lr, "weight_decay": g.weight_decay}
            for g, names in pack.parameter_groups
        ]
        kind = torch.optim.AdamW if pack.stage.decoupled_decay else torch.optim.Adam
        fused = pack.leaf(pack.trained[0]).device.type in {"cpu", "cuda"}
        self._optimizer = kind(groups, fused=fused)

    def step(self, step: int, total_steps: int) -> None:
        """Update the parameters by their gradients, and drop these."""
        factor = rate_factor(self.pack.stage, step, total_steps)
        for group, (options, _) in zip(
            self._optimizer.param_groups, self.pack.parameter_groups, strict=True
        ):
            group["lr"] = options.lr * factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> State:
        """Adam's moments by parameter name, with a leading M, and its step counts."""
        held: State = {}
        for name in self.pack.trained:
            for key, value in self._optimizer.state.get(self.pack.leaf(name), {}).items():
                stacked = self.pack.stacked or key == "step"
                held[f"{name}/{key}"] = value if stacked else value.unsqueeze(0)
        return held

    def restore(self, held: State) -> None:
        """Take over what ``tensors`` gave."""
        for name in self.pack.trained:
            entries = {
                k.rpartition("/")[2]: v for k, v in held.items() if k.rpartition("/")[0] == name
            }
            if not entries:
                continue
            leaf = self.pack.leaf(name)
            self._optimizer.state[leaf] = {
                key: value.clone().to(torch.float32 if key == "step" else leaf.dtype)
                if key == "step" or self.pack.stacked
                else value[0].clone()
                for key, value in entries.items()
            }
