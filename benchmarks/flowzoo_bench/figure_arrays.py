"""What the figures of a run are drawn from, as named arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from flowzoo.interfaces import Trained
from flowzoo_bench.discriminant import discriminant_plane
from flowzoo_bench.latent_arrays import in_chunks, latent_makers
from flowzoo_bench.plane_arrays import plane_makers
from flowzoo_bench.runspec import RunSpec

Arrays = dict[str, Tensor]

_SHEET, _CLOUD = 24, 1000
"""Rows kept at each setting: images, which are looked at one by one, and points."""
_FIT = 5000


def main_arrays(trained: Trained, spec: RunSpec) -> Arrays:
    """Held-out data, samples, the charts of both and the data after each layer.

    Args:
        trained: the run.
        spec: says how many rows, and whether layers are kept.
    """
    model = trained.model
    data = trained.splits.test[: spec.num_samples]
    samples = trained.sample(spec.num_samples, trained.seed)
    arrays = {"data": data, "samples": samples}
    x = trained.inside(data)
    with torch.no_grad():
        if "assign" in model.capabilities:
            arrays["data_charts"] = _assigned(trained, x)
            if bool(torch.isfinite(samples).all()):
                arrays["sample_charts"] = _assigned(trained, trained.inside(samples))
        transform = getattr(model, "transform_layers", None)
        if "layers" in spec.keep and transform is not None:
            for index, value in enumerate([x, *transform(x)]):
                arrays[f"layers/{index:02d}"] = value
    return arrays


def kept_parts(trained: Trained, spec: RunSpec) -> dict[str, Callable[[], Arrays]]:
    """What the experiment asks for beyond that and the model has; each may fail alone."""
    makers: dict[str, Callable[[Trained, RunSpec], Arrays]] = {
        "knobs": _knobs,
        **latent_makers(trained),
        **plane_makers(trained),
    }
    if trained.reconstruct is not None:
        makers["reconstructions"] = _reconstructions
    if trained.embed is not None and _several_classes(trained):
        makers["embeddings"] = _embeddings
    return {
        part: partial(make, trained, spec) for part, make in makers.items() if part in spec.keep
    }


def stored(value: Tensor) -> Tensor:
    """An array as it is kept: float32 or int32, on the CPU, with memory of its own."""
    kind = torch.float32 if value.is_floating_point() else torch.int32
    return value.to(kind).cpu().contiguous().clone()


def _assigned(trained: Trained, x: Tensor) -> Tensor:
    """Chart of each row, (N,) integers."""
    assign = getattr(trained.model, "assign")  # noqa: B009 - optional, not in the contract
    charts: Tensor = assign(x)
    if charts.shape != (len(x),) or charts.is_floating_point() or charts.is_complex():
        raise ValueError(
            f"assign: expected integers of shape ({len(x)},), "
            f"got {charts.dtype} of shape {tuple(charts.shape)}"
        )
    return charts


def _few(trained: Trained, spec: RunSpec) -> int:
    images = trained.task.shape is not None or trained.task.bin_width is not None
    return min(spec.num_samples, _SHEET if images else _CLOUD)


def _several_classes(trained: Trained) -> bool:
    """Whether the rows that embeddings are fitted on have classes to part."""
    if trained.labels is None:
        return False
    classes = trained.labels.train[:_FIT]
    return not bool((classes == classes[0]).all())


def _knobs(trained: Trained, spec: RunSpec) -> Arrays:
    """Samples of one seed, so that a row differs from setting to setting by the knob alone."""
    num, seed = _few(trained, spec), trained.seed
    arrays = {
        f"temperature/{value!r}": trained.sample(num, seed, temperature=value)
        for value in spec.temperatures
    }
    if "noise_scale" in trained.model.capabilities:
        for value in spec.noise_scales:
            arrays[f"noise_scale/{value!r}"] = trained.sample(num, seed, noise_scale=value)
        for value in spec.temperatures:
            draw = trained.sample(num, seed, temperature=value, noise_scale=0.0)
            arrays[f"manifold_temperature/{value!r}"] = draw
    return arrays


def _reconstructions(trained: Trained, spec: RunSpec) -> Arrays:
    """Of the first rows of ``data``."""
    if trained.reconstruct is None:
        return {}
    return {"reconstructions": trained.reconstruct(trained.splits.test[: _few(trained, spec)])}


def _embeddings(trained: Trained, spec: RunSpec) -> Arrays:
    """The rows of ``data``, and their embeddings, each in the plane that parts the classes best."""
    if trained.embed is None or trained.labels is None:
        return {}
    fit, rows = trained.splits.train[:_FIT], trained.splits.test[: spec.num_samples]
    classes = trained.labels.train[:_FIT]
    latent = partial(in_chunks, trained.embed)
    return {
        "embeddings/classes": trained.labels.test[: spec.num_samples],
        "embeddings/plane": discriminant_plane(latent(fit), classes, latent(rows)),
        "embeddings/data_plane": discriminant_plane(fit, classes, rows),
    }
