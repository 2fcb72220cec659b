"""What an instance computes, as named tensors: to compare copies, processes, dtypes and devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowzoo.interfaces import BaseFlow, Mixture, Partitioner, Prior
from flowzoo.testing.instances import flow_inputs
from flowzoo.testing.numerics import F64, difference, moons, rows
from flowzoo.testing.subject import Case

NUM = 6
Inputs = dict[str, Tensor | None]


def inputs_for(instance: Any, case: Case, dtype: torch.dtype = F64) -> Inputs:
    """The tensors an instance of this case is asked about."""
    if isinstance(instance, BaseFlow):
        x, context, chart = flow_inputs(case, NUM, dtype)
        z = rows(NUM, instance.latent_features, dtype, seed=7)
        return {"x": x, "z": z, "context": context, "chart": chart}
    if isinstance(instance, Prior):
        context = rows(NUM, case.context, dtype, seed=507) if case.context else None
        return {"z": 0.4 * rows(NUM, case.features, dtype, seed=7).tanh(), "context": context}
    return {"x": moons(NUM, case.features, dtype, seed=7)}


def probe(instance: Any, inputs: Inputs) -> dict[str, Tensor]:
    """Everything the instance says about ``inputs``; what it draws comes from a fixed seed."""
    for kind, ask in _ASK:
        if isinstance(instance, kind):
            with torch.no_grad():
                return ask(instance, inputs)
    raise TypeError(f"instance: expected a module of a contract, got {type(instance).__name__}")


def _ask_flow(flow: Any, inputs: Inputs) -> dict[str, Tensor]:
    rest = inputs["context"], inputs["chart"]
    z, encoded = flow.encode(inputs["x"], *rest)
    x, decoded = flow.decode(inputs["z"], *rest)
    return {
        "encode": z,
        "encode's log_abs_det": encoded,
        "decode": x,
        "decode's log_abs_det": decoded,
    }


def _ask_prior(prior: Any, inputs: Inputs) -> dict[str, Tensor]:
    z: Any = inputs["z"]
    context = inputs["context"]
    found = {"log_prob": prior.log_prob(z, context)}
    if context is None:  # which is nothing that from_normal could heed
        width = prior.noise_features
        noise = z.repeat(1, -(-width // z.shape[1]))[:, :width]
        found["from_normal"] = prior.from_normal(noise)
    return found


def _ask_partitioner(partitioner: Any, inputs: Inputs) -> dict[str, Tensor]:
    return {
        "distances": partitioner.distances(inputs["x"]),
        "assign": partitioner.assign(inputs["x"]),
        "codes": partitioner.codes.detach(),
    }


def _ask_mixture(mixture: Any, inputs: Inputs) -> dict[str, Tensor]:
    return {f"log_prob[{name}]": scores(mixture, inputs["x"], name) for name in mixture.evaluations}


def settled(instance: Any, answers: dict[str, Tensor], inputs: Inputs) -> dict[str, Tensor]:
    """The answers that draw nothing: those that must agree across dtypes and devices."""
    if not isinstance(instance, Mixture):
        return answers
    x = inputs["x"]
    return {
        key: value
        for name in instance.evaluations
        for key, value in answers.items()
        if key == f"log_prob[{name}]" and x is not None and not is_random(instance, x, name)
    }


def scores(mixture: Mixture, x: Any, evaluation: str, seed: int = 0) -> Tensor:
    """log p(x) with the randomness an evaluation may need taken from ``seed``."""
    generator = None
    if x.device.type != "meta":
        generator = torch.Generator(x.device).manual_seed(seed)
    return mixture.log_prob(x, evaluation=evaluation, generator=generator)


def is_random(model: Mixture, x: Tensor, name: str) -> bool:
    """Whether the evaluation's numbers depend on the generator."""
    with torch.no_grad():
        return difference(scores(model, x, name, 1), scores(model, x, name, 2)) > 0.0


_ASK: tuple[tuple[type, Callable[[Any, Inputs], dict[str, Tensor]]], ...] = (
    (BaseFlow, _ask_flow),
    (Prior, _ask_prior),
    (Partitioner, _ask_partitioner),
    (Mixture, _ask_mixture),
)
