"""Checks of everything that is a torch module: state, copies, dtypes, devices, isolation."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowzoo.testing.instances import flow_at_work, trained
from flowzoo.testing.isolation import untouched
from flowzoo.testing.numerics import F32, F64, difference, perturb
from flowzoo.testing.outcome import CheckFailed, NotApplicable, require
from flowzoo.testing.probe import Inputs, inputs_for, probe, settled
from flowzoo.testing.subject import Case, Subject, trying


def instance(subject: Subject, case: Case, dtype: torch.dtype = F64) -> Any:
    """An instance in eval mode, away from its start."""
    if subject.kind == "base-flow":
        return flow_at_work(subject, case, dtype)
    if subject.kind == "prior":
        prior = subject.make(**case.options()).double()
        perturb(prior)
        return prior.to(dtype).eval()
    return trained(subject, case.features, dtype)


def module_cases(subject: Subject) -> Iterator[Case]:
    """The shapes to try: for what has to be trained, the smallest and the largest."""
    if subject.kind in ("base-flow", "prior"):
        yield from subject.cases()
        return
    sizes = subject.sizes()
    yield from (Case(d) for d in dict.fromkeys((sizes[0], sizes[-1])))


def registered_state(subject: Subject) -> None:
    """Every tensor is a parameter or a buffer: others do not move, are not saved, not packed."""
    for case in module_cases(subject):
        model = instance(subject, case)
        strays = sorted(set(_strays(model)))
        require(not strays, f"{case}: tensors that are neither parameter nor buffer: {strays}")


def dtypes(subject: Subject) -> None:
    """``.double()`` computes in float64 throughout, ``.float()`` in float32, and they agree."""
    for case in module_cases(subject):
        with trying(case):
            answers = {}
            for dtype in (F64, F32):
                model = instance(subject, case, dtype)
                answers[dtype] = probe(model, _cast(inputs_for(model, case), dtype))
                for name, value in answers[dtype].items():
                    wrong = value.is_floating_point() and value.dtype != dtype
                    require(not wrong, f"{name}: expected {dtype}, got {value.dtype}")
            steady = settled(model.double(), answers[F64], inputs_for(model, case))
            for name, value in steady.items():
                if value.is_floating_point():
                    apart = difference(answers[F32][name], value)
                    require(apart <= 1e-2, f"{name}: float32 differs from float64 by {apart:.3g}")
            _computes_in_float64(subject, case, steady)


def _computes_in_float64(subject: Subject, case: Case, answers: dict[str, Tensor]) -> None:
    """A change of the input that float32 cannot hold must show in float64's output."""
    model = instance(subject, case)
    inputs = inputs_for(model, case)
    large, small = (
        probe(model, {n: _scaled(v, 1.0 + step) for n, v in inputs.items()})
        for step in (1e-3, 1e-10)
    )
    for name, value in answers.items():
        moves = large[name] != value
        seen = int((moves & (small[name] != value)).sum())
        require(
            2 * seen >= int(moves.sum()),
            f"{name}: {int(moves.sum()) - seen} of {int(moves.sum())} numbers do not see a change "
            "of the input by 1e-10 of itself: part of it is computed in less than float64",
        )


def _scaled(value: Tensor | None, factor: float) -> Tensor | None:
    if value is None or not value.is_floating_point():
        return value
    return value * factor


def meta_device(subject: Subject) -> None:
    """Runs on the meta device: no tensor is left behind, no value decides a shape."""
    for case in module_cases(subject):
        with trying(case):
            model = instance(subject, case)
            inputs = {
                name: None if value is None else value.to("meta")
                for name, value in inputs_for(model, case).items()
            }
            expected = probe(model, inputs_for(model, case))
            for name, value in probe(model.to("meta"), inputs).items():
                require(value.is_meta, f"{name}: expected a meta tensor, got {value.device}")
                require(
                    value.shape == expected[name].shape and value.dtype == expected[name].dtype,
                    f"{name}: expected {expected[name].dtype} {tuple(expected[name].shape)}, "
                    f"got {value.dtype} {tuple(value.shape)}",
                )


def other_device(subject: Subject) -> None:
    """Computes on the asked device what it computes on the CPU."""
    if subject.device is None:
        raise NotApplicable("no other device was asked for")
    for case in module_cases(subject):
        with trying(case):
            model = instance(subject, case)
            inputs = inputs_for(model, case)
            expected = settled(model, probe(model, inputs), inputs)
            moved = {n: None if v is None else v.to(subject.device) for n, v in inputs.items()}
            _compare(
                {n: v.cpu() for n, v in probe(model.to(subject.device), moved).items()},
                expected,
                1e-6,
                f"on {subject.device}",
            )


def copies(subject: Subject) -> None:
    """A deep copy computes the same and shares no state with the original."""
    for case in module_cases(subject):
        with trying(case):
            model = instance(subject, case)
            inputs = inputs_for(model, case)
            expected = probe(model, inputs)
            twin = copy.deepcopy(model)
            _compare(probe(twin, inputs), expected, 0.0, "a deep copy")
            with torch.no_grad():
                for tensor in (*twin.parameters(), *twin.buffers()):
                    if tensor.is_floating_point():
                        tensor.add_(1.0)
            _compare(probe(model, inputs), expected, 0.0, "the original, its copy changed,")
            made = [subject.make(**case.options()) for _ in range(2)]
            mine = {tensor.data_ptr() for _, tensor in _named(made[0]) if tensor.numel()}
            shared = [name for name, tensor in _named(made[1]) if tensor.data_ptr() in mine]
            require(not shared, f"two instances share {shared}")


def saves(subject: Subject) -> None:
    """Its state, saved without pickle, computes the same in another process."""
    if subject.spec is None or not subject.module:
        raise NotApplicable("not installed: another process cannot build it")
    from safetensors.torch import load_file, save_file

    case = list(module_cases(subject))[-1]
    model = instance(subject, case)
    inputs = inputs_for(model, case)
    options = {**subject.options, **(case.options())}
    with tempfile.TemporaryDirectory(prefix="flowzoo-check-") as text:
        folder = Path(text)
        save_file(_plain(model.state_dict()), folder / "state.safetensors")
        given = {name: value for name, value in inputs.items() if value is not None}
        save_file(_plain(given), folder / "inputs.safetensors")
        job = {"kind": subject.kind, "name": subject.name, "options": options, "path": sys.path}
        (folder / "job.json").write_text(json.dumps(job), "utf-8")
        command = [sys.executable, "-m", "flowzoo.testing.reload", str(folder)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if ended.returncode != 0:
            said = ended.stderr.strip().splitlines() or ["no message"]
            raise CheckFailed(f"{case}: another process could not load it: {said[-1]}")
        answers = load_file(folder / "answers.safetensors")
    _compare(answers, probe(model, inputs), 1e-12, f"{case}: in another process")


def isolation(subject: Subject) -> None:
    """Leaves its arguments, the random streams and every global setting alone."""
    for case in module_cases(subject):
        with trying(case):
            model = instance(subject, case)
            inputs = inputs_for(model, case)
            with untouched("evaluation", *inputs.values()):
                first = probe(model, inputs)
            # what is computed once and kept is there by now
            state = {name: value.clone() for name, value in model.state_dict().items()}
            flags = _flags(model)
            _compare(probe(model, inputs), first, 0.0, "the same question asked twice")
            if hasattr(model, "sample"):
                context = inputs.get("context")
                model.sample(3, *(() if context is None else (context[:3],)))
            changed = [n for n, v in model.state_dict().items() if not _same(v, state[n])]
            require(not changed, f"evaluation changes the state: {changed}")
            require(_flags(model) == flags, "evaluation changes training or requires_grad flags")


def _flags(module: nn.Module) -> list[bool]:
    return [part.training for part in module.modules()] + [
        parameter.requires_grad for parameter in module.parameters()
    ]


def _strays(module: nn.Module) -> Iterator[str]:
    for path, part in module.named_modules():
        own = {"_parameters", "_buffers", "_modules"}
        for name, value in vars(part).items():
            if name in own or name.startswith("_backward") or name.startswith("_forward"):
                continue
            if _holds_tensor(value, depth=3):
                yield f"{path}.{name}".lstrip(".")


def _holds_tensor(value: object, depth: int) -> bool:
    if isinstance(value, Tensor):
        return True
    if depth == 0 or isinstance(value, nn.Module | str | bytes):
        return False
    if isinstance(value, dict):
        return any(_holds_tensor(item, depth - 1) for item in value.values())
    if isinstance(value, list | tuple | set):
        return any(_holds_tensor(item, depth - 1) for item in value)
    if isinstance(value, torch.distributions.Distribution):
        return any(_holds_tensor(item, depth - 1) for item in vars(value).values())
    return False


def _cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {
        name: value.to(dtype) if value is not None and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def _compare(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, what: str
) -> None:
    for name, value in expected.items():
        require(name in found, f"{what}: {name} is missing")
        apart = difference(found[name], value)
        same = apart <= tolerance
        if not same and bool(value.isnan().any()):  # NaN in the same places is for other checks
            same = bool(torch.equal(found[name].isnan(), value.isnan())) and (
                difference(found[name].nan_to_num(0.0), value.nan_to_num(0.0)) <= tolerance
            )
        require(same, f"{what}: {name} differs by {apart:.3g} (at most {tolerance:g} allowed)")


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True))


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def _named(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]
