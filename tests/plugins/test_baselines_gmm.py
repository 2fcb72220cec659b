"""GaussianMixture: agreement with scikit-learn, choice of the number of components."""

import math

import pytest
import torch

from flowzoo_plugins.baselines import GaussianMixture


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clouds(rows=300, seed=0):
    """Three well separated clouds with weights 1/2, 1/4, 1/4."""
    x = torch.randn(rows, 2, generator=generator(seed), dtype=torch.float64)
    label = torch.arange(rows) % 4
    x = x * torch.tensor([0.3, 0.6], dtype=x.dtype)
    x[label == 2] += 5
    x[label == 3] -= 5
    return x, label.clamp(min=1) - 1


def circle(rows, seed):
    angle = 2 * math.pi * torch.rand(rows, generator=generator(seed), dtype=torch.float64)
    x = torch.stack([angle.cos(), angle.sin()], dim=1)
    return x + 0.05 * torch.randn(rows, 2, generator=generator(seed + 100), dtype=torch.float64)


def fitted(x, valid, seed=0, **options):
    model = GaussianMixture(x.shape[1], **options).to(x.dtype)
    model.stages()[0].prepare(x, valid, generator(seed))
    return model


def test_equals_scikit_learn_on_the_same_fit():
    from sklearn.mixture import GaussianMixture as Reference

    x, test = clouds()[0], clouds(seed=5)[0]
    # unit mean variance and zero mean: the scaling inside the fit changes nothing
    scale = x.var(dim=0, correction=0).mean().sqrt()
    x, test = (x - x.mean(dim=0)) / scale, (test - x.mean(dim=0)) / scale
    model = fitted(x, test, num_components=4, seed=2)
    seed = int(torch.randint(2**31 - 1, (1, 1), generator=generator(2)))
    reference = Reference(4, reg_covar=1e-6, max_iter=200, random_state=seed).fit(x.numpy())
    expected = torch.from_numpy(reference.score_samples(test.numpy()))
    torch.testing.assert_close(model.log_prob(test), expected, rtol=1e-8, atol=1e-8)
    assert torch.equal(model.assign(test), torch.from_numpy(reference.predict(test.numpy())))


def test_regularisation_and_fit_scale_with_the_data():
    x, valid = clouds()[0], clouds(seed=1)[0]
    small = fitted(x, valid, num_components=3, regularisation=1e-2)
    large = fitted(1000 * x + 7, 1000 * valid + 7, num_components=3, regularisation=1e-2)
    expected = small.log_prob(valid) - 2 * math.log(1000)
    torch.testing.assert_close(large.log_prob(1000 * valid + 7), expected, rtol=1e-6, atol=1e-6)


def test_chooses_the_number_of_components_on_validation():
    x, label = clouds()
    model = fitted(x, clouds(seed=1)[0], num_components=[1, 2, 3, 40])
    assert model.components == 3
    assert model.log_weights.shape == (40,)
    assert model.means.shape == (40, 2)
    weights = model.log_weights[:3].exp().sort(descending=True).values
    torch.testing.assert_close(
        weights, torch.tensor([0.5, 0.25, 0.25], dtype=x.dtype), rtol=0, atol=0.01
    )
    assigned = model.assign(x)
    assert all(assigned[label == k].unique().numel() == 1 for k in range(3))


def test_every_candidate_loses_to_the_chosen_one():
    x, valid = circle(400, 0), circle(400, 1)
    candidates = [2, 5, 9, 60]
    chosen = fitted(x, valid, num_components=candidates, restarts=2)
    best = float(chosen.log_prob(valid).mean())
    for k in candidates:
        assert float(fitted(x, valid, num_components=[k]).log_prob(valid).mean()) < best + 0.02
    assert chosen.components in candidates[1:3]


def test_is_near_the_truth_on_a_circle():
    x, valid, test = circle(2000, 0), circle(1000, 1), circle(2000, 2)
    model = fitted(x, valid)
    angle = torch.linspace(0, 2 * math.pi, 1001, dtype=x.dtype)[:-1]
    curve = torch.stack([angle.cos(), angle.sin()], dim=1)
    square = torch.cdist(test, curve).square()
    truth = torch.logsumexp(-square / (2 * 0.05**2), dim=1) - math.log(1000)
    truth = truth - math.log(2 * math.pi * 0.05**2)
    gap = float((truth - model.log_prob(test)).mean())
    assert 0 < gap < 0.06


def test_the_search_ends_after_two_candidates_that_bring_nothing(monkeypatch):
    from sklearn import mixture

    tried = []

    class Counting(mixture.GaussianMixture):
        def fit(self, x):
            tried.append(self.n_components)
            return super().fit(x)

    monkeypatch.setattr(mixture, "GaussianMixture", Counting)
    x = torch.randn(100, 2, generator=generator(), dtype=torch.float64)
    model = fitted(x, torch.randn(100, 2, generator=generator(1), dtype=x.dtype))
    assert model.components == 1
    assert tried == [1, 2, 4]


def test_samples_have_the_right_share_of_each_cloud_at_any_temperature():
    x, label = clouds()
    model = fitted(x, clouds(seed=1)[0], num_components=[3])
    for temperature in (1.0, 1.5):
        draws = model.sample(20_000, temperature=temperature, generator=generator(7))
        index = model.assign(draws)
        for k in range(3):
            component = int(model.assign(x[label == k][:1]))
            mine = draws[index == component]
            assert len(mine) / 20_000 == pytest.approx((0.5, 0.25, 0.25)[k], abs=0.015)
            covariance = model.scale_trils[component] @ model.scale_trils[component].mT
            torch.testing.assert_close(
                torch.cov(mine.mT), temperature**2 * covariance, rtol=0.1, atol=0.02
            )


def test_fewer_rows_than_components():
    x = clouds(rows=6)[0]
    with pytest.raises(ValueError, match=r"num_components=8 rows, got 6"):
        fitted(x, x, num_components=[8, 16])
    assert fitted(x, x, num_components=[2, 16]).components == 2  # 16 cannot be tried
    assert fitted(x[:1], x).components == 1


def test_a_fixed_number_needs_no_validation_rows():
    x = clouds()[0]
    assert fitted(x, x[:0], num_components=3).components == 3
    with pytest.raises(ValueError, match="x_valid: expected rows"):
        fitted(x, x[:0], num_components=[1, 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_components": []}, "num_components: expected at least one"),
        ({"num_components": [2, 0]}, "num_components: expected a positive integer, got 0"),
        ({"num_components": 0}, "num_components"),
        ({"restarts": 0}, "restarts"),
        ({"regularisation": 0.0}, "regularisation"),
        ({"regularisation": float("inf")}, "regularisation"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(2, **options)
