"""The same code on a GPU: packed training, scores and samples agree with the CPU."""

from __future__ import annotations

import pytest
import torch

import flowzoo
from flowzoo.training import TrainingData, train_pack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

FLOW = {"name": "realnvp", "layers": 2, "hidden": [16]}
METHODS = {
    "global": ("global", {"base_flow": FLOW, "training": {"epochs": 3, "lr": 1e-3}}),
    "vq": (
        "vq",
        {
            "base_flow": FLOW,
            "partitioner": {"name": "kmeans", "num_charts": 4},
            "objective": "exact",
            "overlap": 2,
            "weights": "learned",
            "frames": "pca",
            "training": {"epochs": 3, "lr": 1e-3},
        },
    ),
}


def train(method: str, device: str) -> list[torch.nn.Module]:
    name, options = METHODS[method]
    models, data = [], []
    for seed in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            models.append(flowzoo.build("mixture", name, features=3, **options).double())
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(200, 3, generator=generator, dtype=torch.float64)
        data.append(TrainingData(rows[:150], rows[150:]))
    train_pack(models, data, range(3), device=device)
    return models


@pytest.mark.parametrize("method", METHODS)
def test_packed_training_on_the_gpu_equals_the_cpu(method):
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    for here, there in zip(train(method, "cpu"), train(method, "cuda"), strict=True):
        torch.testing.assert_close(
            there.log_prob(x.cuda()).cpu(), here.log_prob(x), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("method", METHODS)
def test_samples_stay_on_the_gpu_and_follow_the_seed(method):
    model = train(method, "cuda")[0]
    draws = [model.sample(20, generator=torch.Generator("cuda").manual_seed(0)) for _ in range(2)]
    assert draws[0].device.type == "cuda" and torch.equal(*draws)
