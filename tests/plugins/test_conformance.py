"""Every built-in plugin, and configurations beside the usual one, through the public suite."""

from __future__ import annotations

from flowzoo import registry
from flowzoo.testing import everything, parametrize_with_checks

SMALL = {"layers": 2, "hidden": [16]}
REALNVP = {"name": "realnvp", **SMALL}
CEF = {"name": "cef", "base_flow": REALNVP, "reconstruction": {"epochs": 2}}
KMEANS = {"name": "kmeans", "num_charts": 3, "restarts": 1}
CODES = {"name": "vq-autoencoder", "num_charts": 3, "hidden": [16]}

LGF = {
    "base_flow": {"name": "maf", "layers": 2, "hidden": [8]},
    "p_hidden": [8],
    "q_hidden": [8],
    "num_samples": 32,
}
DISCRETE = {**LGF, "num_values": 3}

WIDE = (2, 3)  # columns an embedding has room in


def other(kind, name, sizes=(1, 2, 3), **options):
    return kind, name, {"options": options, "sizes": sizes}


OTHERS = [
    other("prior", "generalised-gaussian", WIDE, rank=1, noise_std=0.3, learn_mean=True),
    other("base-flow", "realnvp", **SMALL, normalization="none"),
    other("base-flow", "maf", **SMALL, normalization="none", activation="tanh"),
    other("base-flow", "nsf-coupling", **SMALL, normalization="none", num_bins=4),
    other("base-flow", "cef", WIDE, base_flow={"name": "maf", **SMALL}, latent_features=1),
    other("mixture", "global", base_flow=REALNVP, prior="uniform-ball"),
    other("mixture", "global", WIDE, base_flow={**CEF, "init": "pca", "mode": "thickened"}),
    other("mixture", "vq", WIDE, base_flow=CEF, partitioner=KMEANS, leak_samples=256),
    other(
        "mixture",
        "vq",
        WIDE,
        base_flow=CEF,
        partitioner=KMEANS,
        overlap=2,
        objective="sampled",
        leak_samples=256,
    ),
    other(
        "mixture",
        "vq",
        base_flow={"name": "nsf-autoregressive", **SMALL, "normalization": "none"},
        partitioner=CODES,
        overlap=2,
        margin=0.2,
        weights="consistent",
        condition="one-hot",
        objective="exact",
        frames="pca",
        leak_penalty=0.1,
        leak_samples=256,
    ),
    other(
        "mixture",
        "vq",
        (2,),
        base_flow={"name": "nice", **SMALL},
        partitioner=KMEANS,
        prior={"name": "noisy-injective-gaussian", "latent_features": 1, "isotropic": True},
        prior_per_chart=True,
        ard=1.0,
        overlap=2,
        objective="exact",
        leak_penalty=0.1,
        leak_samples=256,
    ),
    other("task", "spherical", noise=0.05),
    other("task", "disjoint-circles", fixed=True, noise=0.1),
    other("mixture", "lgf", (2,), **LGF, partitioner=KMEANS, condition="one-hot", frame="pca"),
    other("mixture", "lgf", (2,), **LGF, partitioner=KMEANS, overlap=2, objective="dreg"),
    other("mixture", "lgf", (2,), **LGF, family="conditioned", objective="stl"),
    other("mixture", "discrete-lgf", (2,), **DISCRETE, objective="exact", frame="pca"),
    other("mixture", "discrete-lgf", (2,), **DISCRETE, max_paths=8, objective="dreg"),
    other("mixture", "rad", WIDE, base_flow={"name": "maf", **SMALL}, folds=2, frame="pca"),
]


def test_nothing_is_left_out():
    ready = {(entry.kind, entry.name) for entry in registry.entries() if entry.state == "ready"}
    assert ready <= set(everything())
    assert {kind for kind, _ in everything()} >= {"prior", "base-flow", "mixture", "task"}


@parametrize_with_checks(everything())
def test_built_in_plugins(check):
    check()


@parametrize_with_checks(OTHERS)
def test_other_configurations(check):
    check()
