"""Packed equals alone for the shipped trainable methods, as the design defines it."""

from __future__ import annotations

import statistics

import pytest
import torch

import flowzoo
from flowzoo.training import TrainingData, train_pack

REALNVP = {"name": "realnvp", "layers": 3, "hidden": [16, 16]}
MAF = {"name": "maf", "layers": 3, "hidden": [16]}
SHORT = {"steps": 200, "batch_size": 32, "lr": 1e-3}
KMEANS = {"name": "kmeans", "num_charts": 4}
AUTOENCODER = {
    "name": "vq-autoencoder",
    "num_charts": 4,
    "hidden": [16, 16],
    "training": {"epochs": 4, "batch_size": 32},
}

METHODS = {
    "global-realnvp": ("global", {"base_flow": REALNVP}),
    "global-maf-ball": ("global", {"base_flow": MAF, "prior": "uniform-ball"}),
    "vq-hard-autoencoder": ("vq", {"base_flow": REALNVP, "partitioner": AUTOENCODER}),
    "vq-sampled": (
        "vq",
        {"base_flow": MAF, "partitioner": KMEANS, "objective": "sampled", "overlap": 2},
    ),
    "vq-framed-exact": (
        "vq",
        {
            "base_flow": {**MAF, "normalization": "none"},
            "partitioner": KMEANS,
            "objective": "exact",
            "overlap": 2,
            "weights": "learned",
            "frames": "pca",
            "condition": "one-hot",
            "leak_penalty": 0.1,
        },
    ),
}


def rows(seed: int, num: int) -> torch.Tensor:
    """Two moons-like arcs in 2-D: enough structure for charts to matter."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.pi * torch.rand(num, generator=generator, dtype=torch.float64)
    side = torch.randint(0, 2, (num,), generator=generator) * 2.0 - 1
    arc = torch.stack([angle.cos() + 0.5 * side, angle.sin() * side], dim=1)
    return arc + 0.1 * torch.randn(num, 2, generator=generator, dtype=torch.float64)


def build(method: str, seed: int, training: dict[str, object]) -> torch.nn.Module:
    mixture, options = METHODS[method]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return flowzoo.build("mixture", mixture, features=2, training=training, **options)


@pytest.mark.parametrize("method", METHODS)
def test_packed_equals_alone_after_200_steps_in_float64(method):
    seeds = [0, 1, 2]
    data = [TrainingData(rows(s, 160), rows(s + 50, 80)) for s in seeds]
    together = [build(method, s, SHORT).double() for s in seeds]
    train_pack(together, data, seeds)
    test = rows(99, 60)
    for s in seeds:
        alone = build(method, s, SHORT).double()
        train_pack([alone], [data[s]], [s])
        gap = (alone.log_prob(test) - together[s].log_prob(test)).abs().max()
        assert float(gap) <= 1e-3, f"member {s}: rows differ by {float(gap)}"


@pytest.mark.slow
def test_float32_scores_of_packed_and_alone_agree_over_20_seeds():
    training = {"epochs": 15, "batch_size": 32, "lr": 1e-3}
    seeds = list(range(20))
    data = [TrainingData(rows(s, 160).float(), rows(s + 50, 80).float()) for s in seeds]
    test = rows(99, 500).float()
    together = [build("global-realnvp", s, training) for s in seeds]
    train_pack(together, data, seeds)
    gaps = []
    for s in seeds:
        alone = build("global-realnvp", s, training)
        train_pack([alone], [data[s]], [s])
        gaps.append(float((alone.log_prob(test) - together[s].log_prob(test)).mean().detach()))
    spread = statistics.stdev(gaps) / len(gaps) ** 0.5
    assert abs(statistics.mean(gaps)) <= max(3 * spread, 1e-3)
    assert max(map(abs, gaps)) < 0.1


def test_training_improves_on_the_start():
    model = build("vq-framed-exact", 0, {"epochs": 8, "batch_size": 32, "lr": 3e-3})
    train, valid, test = (rows(s, 400).float() for s in (0, 1, 2))
    torch.manual_seed(0)
    baseline = flowzoo.build("mixture", "gaussian", features=2)
    flowzoo.fit(baseline, train, valid)
    result = flowzoo.fit(model, train, valid, seed=0)
    assert result.status == "ok"
    assert float(model.log_prob(test).mean()) > float(baseline.log_prob(test).mean()) + 0.3
