"""Checks of what mixtures may have beside a density: embeddings, charts, a noise scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from flowzoo.interfaces import Mixture
from flowzoo.testing.instances import trained
from flowzoo.testing.isolation import untouched
from flowzoo.testing.numerics import F64, ROUND_TRIP, SAME, close, finite, moons
from flowzoo.testing.outcome import NotApplicable, require
from flowzoo.testing.refusals import refuses
from flowzoo.testing.subject import Subject, trying

_METHODS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "assign": ("assign",),
        "codes": ("codes", "sample_codes"),
        "embed": ("embed",),
        "importance_estimate": ("importance_estimate",),
        "intrinsic_dimension": ("intrinsic_dimension",),
        "local_dimension": ("local_dimension",),
        "noise_scale": (),  # a keyword of sample
        "reconstruct": ("reconstruct",),
        "sample_and_log_prob": ("sample_and_log_prob",),
        "spectrum": ("spectrum",),
    }
)
"""The capabilities a mixture may declare, and the methods each promises."""


def check_declared(model: Mixture) -> None:
    """Raise CheckFailed where a capability is unknown, or its method is missing."""
    for name in model.capabilities:
        require(name in _METHODS, f"capabilities: expected some of {list(_METHODS)}, got {name!r}")
        for method in _METHODS[name]:
            present = callable(getattr(model, method, None))
            require(present, f"{method}: declared by {name!r}, and no method")


def capabilities_work(subject: Subject) -> None:
    """The optional methods it declares return what the contract says."""
    tried = False
    for features in subject.sizes():
        model: Mixture = trained(subject, features)
        x = moons(11, features, seed=10)
        for name in sorted(model.capabilities & {"embed", "reconstruct", "assign"}):
            tried = True
            with trying(f"D={features}, {name}"), torch.no_grad(), untouched(name, x):
                value: Tensor = getattr(model, name)(x)
                require(len(value) == len(x), f"expected {len(x)} rows, got {len(value)}")
                if torch.equal(getattr(model, name)(x), value):  # else it draws
                    for n in range(len(x)):
                        alone = getattr(model, name)(x[n : n + 1])
                        close(alone[0], value[n], SAME[F64], f"row {n} alone")
                if name == "assign":
                    require(
                        value.ndim == 1 and not value.is_floating_point(),
                        f"expected integers ({len(x)},), got {value.dtype} {tuple(value.shape)}",
                    )
                    require(bool((value >= 0).all()), "expected no negative charts")
                if name == "embed":
                    require(value.ndim == 2, f"expected (N, d), got {tuple(value.shape)}")
                if name == "reconstruct":
                    require(value.shape == x.shape, f"expected {tuple(x.shape)}")
                if value.is_floating_point():
                    finite(value, name)
        if "importance_estimate" in model.capabilities:
            tried = True
            with trying(f"D={features}, importance_estimate"), torch.no_grad():
                _importance_works(model, x)
        if "noise_scale" in model.capabilities:
            tried = True
            with trying(f"D={features}, sample with noise_scale"):
                _noise_scale_works(model, x)
    if not tried:
        raise NotApplicable(
            "declares none of embed, reconstruct, assign, importance_estimate and noise_scale"
        )


def _importance_works(model: Mixture, x: Tensor) -> None:
    """``importance_estimate`` is the evaluation ``importance``, with numbers that can be."""
    require("importance" in model.evaluations, "evaluations: expected 'importance' among them")
    with untouched("importance_estimate with a generator", x):
        found = model.importance_estimate(  # type: ignore[operator]
            x, num_samples=30, generator=torch.Generator().manual_seed(1)
        )
    scored = model.log_prob(
        x,
        evaluation="importance",
        num_samples=30,
        generator=torch.Generator().manual_seed(1),
    )
    for name in ("log_prob", "effective_sample_size", "bias"):
        shape = tuple(getattr(found, name).shape)
        require(shape == (len(x),), f"{name}: expected ({len(x)},), got {shape}")
        finite(getattr(found, name), name)
    close(found.log_prob, scored, SAME[F64], "log_prob against the evaluation 'importance'")
    size: Tensor = found.effective_sample_size
    require(
        bool(((size > 1.0 - 1e-6) & (size < 30.0 + 1e-6)).all()),
        f"effective_sample_size: expected 1 to 30, got {float(size.min())} to {float(size.max())}",
    )
    estimate: Callable[..., object] = model.importance_estimate  # type: ignore[assignment]
    refuses("num_samples", estimate, x, num_samples=0)
    refuses("x", estimate, torch.full_like(x, torch.nan))


def _noise_scale_works(model: Mixture, x: Tensor) -> None:
    """``sample``'s noise_scale: 1 is the model, 0 its manifold, s a factor on the noise's std.

    Where one seed draws the same noise at every s, draws leave their place on the manifold in
    proportion to a small s. Where ``reconstruct`` is a projection, draws at 0 are their own.
    """

    def draw(**knobs: float) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad(), untouched("sample with a noise_scale"):
            return model.sample(400, generator=generator, **knobs)

    def moved(scale: float) -> float:
        difference: Tensor = draw(noise_scale=scale) - place
        return float(difference.square().mean().sqrt())

    default, place = draw(), draw(noise_scale=0.0)
    close(draw(noise_scale=1.0), default, SAME[F64], "noise_scale=1 against none")
    require(not torch.equal(place, default), "noise_scale=0: expected other draws than 1")
    require(
        not torch.equal(draw(noise_scale=0.5), default),
        "noise_scale=0.5: expected other draws than 1",
    )
    require(bool(place.std(dim=0).max() > 0), "noise_scale=0: all draws are one point")
    for scale in (0.0, 0.5, 2.0):
        drawn = draw(noise_scale=scale)
        require(drawn.shape == default.shape, f"noise_scale={scale}: got {tuple(drawn.shape)}")
        finite(drawn, f"draws at noise_scale={scale}")
    tiny, small, twice, whole = (moved(scale) for scale in (1e-6, 1e-3, 2e-3, 1.0))
    require(small > 0, "noise_scale=0.001: expected other draws than 0")
    if tiny < 0.1 * whole:
        require(
            small < 0.1 * whole and 1.8 < twice / small < 2.2,
            "noise_scale: expected a factor on the standard deviation of the noise: draws leave "
            f"their place by {small:.3g} at 0.001, {twice:.3g} at 0.002, {whole:.3g} at 1",
        )
    if "reconstruct" in model.capabilities:
        project = model.reconstruct
        with torch.no_grad():
            once: Tensor = project(x)  # type: ignore[operator]
            again: Tensor = project(once)  # type: ignore[operator]
            if torch.allclose(again, once, rtol=1e-6, atol=1e-6):
                point: Tensor = project(place)  # type: ignore[operator]
                close(point, place, ROUND_TRIP[F64], "reconstruct of draws at noise_scale=0")
    for wrong in (-0.5, float("nan"), float("inf")):
        refuses("noise_scale", model.sample, 2, noise_scale=wrong)
