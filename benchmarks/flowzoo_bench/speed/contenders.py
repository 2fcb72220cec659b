"""What is timed: each runs a number of training steps and returns seconds per step per model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

import flowzoo
from flowzoo.training import TrainingData, train_pack
from flowzoo_bench.speed.architecture import Architecture
from flowzoo_bench.speed.libraries import LIBRARIES, nflows_stock


class Contender(NamedTuple):
    """One row: ``run(steps)`` trains ``members`` models and returns seconds a step a model."""

    members: int
    run: Callable[[int], float]


def contenders(shape: Architecture, device: torch.device) -> Mapping[str, Contender]:
    """Every contender of one architecture by its row's name, built and ready."""
    rows: dict[str, Contender] = {
        name: Contender(1, _Loop(build(shape), shape, device).run)
        for name, build in LIBRARIES.items()
    }
    if shape.kind == "realnvp":
        stock = _Loop(nflows_stock(shape), shape, device)
        rows["nflows (stock SimpleRealNVP)"] = Contender(1, stock.run)
    for members in (1, 5, 50):
        name = "flowzoo alone" if members == 1 else f"flowzoo packed by {members}"
        rows[name] = Contender(members, partial(_ours, shape, device, members))
    rows["bare matrix products (50)"] = Contender(50, _Products(shape, device, 50).run)
    return rows


class _Loop:
    """The plain training loop a library's user writes, with fused Adam."""

    def __init__(self, model: nn.Module, shape: Architecture, device: torch.device) -> None:
        self.model = model.to(device).train()
        self.batch, self.device = shape.batch, device
        self.x = torch.randn(20 * shape.batch, shape.features, device=device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, fused=True)

    def run(self, steps: int) -> float:
        """Seconds per step."""
        _synchronize(self.device)
        began = time.perf_counter()
        order = torch.randperm(len(self.x)).to(self.device)
        for step in range(steps):
            start = step * self.batch % len(self.x)
            rows = self.x[order[start : start + self.batch]]
            self.optimizer.zero_grad(set_to_none=True)
            loss = -self.model.log_prob(rows).mean()  # type: ignore[operator]
            loss.backward()
            self.optimizer.step()
        _synchronize(self.device)
        return (time.perf_counter() - began) / steps


def _ours(shape: Architecture, device: torch.device, members: int, steps: int) -> float:
    """Our trainer as users call it, data order and bookkeeping included; seconds a step a model."""
    flow = {"name": shape.kind, "layers": shape.layers, "hidden": list(shape.hidden)}
    training = {"steps": steps, "lr": 1e-4, "batch_size": shape.batch}
    models, data = [], []
    for _ in range(members):
        models.append(
            flowzoo.build(
                "mixture", "global", features=shape.features, base_flow=flow, training=training
            )
        )
        rows = torch.randn(steps * shape.batch, shape.features)
        data.append(TrainingData(rows, rows[:1]))
    results = train_pack(models, data, range(members), device=device)
    return results[0].seconds / steps / members


class _Products:
    """The flow's matrix products alone, forward and backward, for a stack of models."""

    def __init__(self, shape: Architecture, device: torch.device, members: int) -> None:
        self.members, self.device = members, device
        self.pairs = []
        for wide, out in shape.products():
            x = torch.randn(members, shape.batch, wide, device=device)
            weight = torch.randn(members, wide, out, device=device)
            gradient = torch.randn(members, shape.batch, out, device=device)
            self.pairs.append((x, weight, gradient))

    def run(self, steps: int) -> float:
        """Seconds per step per model."""
        _synchronize(self.device)
        began = time.perf_counter()
        for _ in range(steps):
            for x, weight, gradient in self.pairs:
                torch.bmm(x, weight)
                torch.bmm(gradient, weight.mT)
                torch.bmm(x.mT, gradient)
        _synchronize(self.device)
        return (time.perf_counter() - began) / steps / self.members


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
