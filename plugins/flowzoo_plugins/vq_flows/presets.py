"""Option sets as plain data, so that TOML and Python can say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAPER_PARTITIONER: Mapping[str, Any] = {"name": "vq-autoencoder", "num_charts": 32}
"""The paper's partition: an auto-encoder with a codebook of 32 codes."""

PAPER_TRAINING: Mapping[str, Any] = {
    "epochs": 100,
    "lr": 1e-4,
    "batch_size": 128,
    "patience": 10,
}
"""The paper's training of the flow (supplement, section 3)."""

FRAMED: Mapping[str, Any] = {
    "base_flow": {"name": "maf", "layers": 5, "hidden": [64, 64], "normalization": "none"},
    "partitioner": {"name": "kmeans", "num_charts": 24},
    "overlap": 4,
    "weights": "learned",
    "condition": "one-hot",
    "objective": "exact",
    "frames": "pca",
    "frame_inflation": 1.6,
    "training": {
        "epochs": 90,
        "lr": 2e-3,
        "batch_size": 256,
        "schedule": "cosine",
        "averaging": 0.995,
        "patience": 0,
    },
}
"""VQ-Flows with chart frames, our addition: ``VQFlow(features=3, **FRAMED)``.

Chosen on validation over nine 3-D sets by the experiment ``vq_framed`` (results/vq_framed)."""
