"""What training asks of a model, and what it does for one that draws or holds nothing."""

from __future__ import annotations

import pytest
import torch

from flowzoo.training import TrainingData, fit, train_pack
from known_models import Dropped, Fixed, Replaced, rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_without_state_is_trained_at_once(dtype: torch.dtype) -> None:
    model, x = Fixed(2), rows(0).to(dtype)
    result = fit(model, x, x)
    assert (result.status, result.stages, result.parameters) == ("ok", [], 0)
    assert model.log_prob(x).dtype == dtype


@pytest.mark.parametrize("members", [1, 2])
def test_a_buffer_that_is_replaced_is_refused(members: int) -> None:
    models = [Replaced().double() for _ in range(members)]
    data = [TrainingData(rows(0), rows(1))] * members
    with pytest.raises(ValueError, match=r"stage 'fit': buffer 'norm\.mean' was replaced"):
        train_pack(models, data, range(members))


def test_randomness_of_a_models_own_follows_from_the_seed() -> None:
    curves = []
    for state, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(0)
        model = Dropped().double()
        torch.manual_seed(state)
        before = torch.get_rng_state()
        (stage,) = fit(model, rows(0), rows(1), seed=seed).stages
        assert torch.get_rng_state().equal(before)
        curves.append([(point.train, point.valid) for point in stage.curve])
    assert curves[0] == curves[1] != curves[2]
