"""Images from a decoder: how it is trained, kept and told apart, and the rank it has."""

import logging
from collections import OrderedDict

import pytest
import torch

from flowzoo.interfaces import Splits
from flowzoo.training.checkpoint import load_checkpoint, save_checkpoint
from flowzoo_bench.data.fetch import DataNotFoundError
from flowzoo_bench.tasks import Standardizer, SyntheticDigits, decoder_store
from flowzoo_bench.tasks.image_vae import fit_decoder

SMALL = {"num_train": 60, "num_valid": 20, "num_test": 20}
QUICK = {**SMALL, "epochs": 1}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache for the tests that may share a decoder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("FLOWZOO_CACHE", str(folder))
        patch.setattr(decoder_store._STORE, "_recent", OrderedDict())
        yield folder


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """No decoder in memory, none on disk."""
    monkeypatch.setenv("FLOWZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(decoder_store._STORE, "_recent", OrderedDict())
    return tmp_path / "decoders"


def plane(num=1000, features=6, seed=0):
    """Images on a plane of dimension 2 within the unit cube."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(features, 2, generator=generator, dtype=torch.float32)).Q
    z = torch.rand(num, 2, generator=generator, dtype=torch.float32) - 0.5
    return 0.5 + 0.6 * z @ axes.T


# -- the auto-encoder -----------------------------------------------------------------------------


def test_it_learns_and_leaves_superfluous_codes_at_the_prior():
    decoder, fit = fit_decoder(plane(), 4, sigma=0.05, epochs=20, learning_rate=3e-3, seed=0)
    used = sorted(fit.kl, reverse=True)
    assert used[1] > 0.5 > 10 * used[2]  # two codes for a plane
    # without codes the reconstruction costs variance / 2 sigma² = 2 * 0.36 / 12 / 0.005 = 12
    assert fit.loss < 8 < 12 < fit.first
    assert fit.loss == pytest.approx(fit.reconstruction + sum(fit.kl))
    z = torch.randn(500, 4, generator=torch.Generator().manual_seed(1))
    spectrum = torch.linalg.svdvals(decoder(z) - decoder(z).mean(dim=0))
    assert float(spectrum[2]) < 0.2 * float(spectrum[1])


def test_training_depends_on_its_arguments_alone():
    options = {"sigma": 0.1, "epochs": 2, "learning_rate": 1e-3}
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, fit = fit_decoder(plane(300), 2, seed=0, **options)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            second, again = fit_decoder(plane(300).float(), 2, seed=0, **options)
    finally:
        torch.set_default_dtype(torch.float32)
    other, _ = fit_decoder(plane(300), 2, seed=1, **options)
    z = torch.randn(5, 2)
    assert torch.equal(first(z), second(z)) and not torch.equal(first(z), other(z))
    assert fit == again
    assert not any(p.requires_grad for p in first.parameters())
    assert [tuple(p.shape) for p in first.parameters()] == [
        (200, 2), (200,), (400, 200), (400,), (6, 400), (6,),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="epochs: expected"):
        fit_decoder(plane(10), 2, sigma=0.1, epochs=0, learning_rate=1e-3, seed=0)
    with pytest.raises(ValueError, match="images: expected"):
        fit_decoder(plane(10)[:0], 2, sigma=0.1, epochs=1, learning_rate=1e-3, seed=0)


# -- the store ------------------------------------------------------------------------------------


def test_a_decoder_is_trained_once_and_found_by_others(empty, monkeypatch):
    first = SyntheticDigits(**QUICK)
    rows = first.splits(0)
    (path,) = empty.glob("*.safetensors")
    assert path.name.startswith("digits-5-")

    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(decoder_store, "fit_decoder", never)
    assert torch.equal(SyntheticDigits(**QUICK).splits(0).train, rows.train)  # from memory
    monkeypatch.setattr(decoder_store._STORE, "_recent", OrderedDict())
    again = SyntheticDigits(**QUICK)  # from disk
    assert torch.equal(again.splits(0).train, rows.train)
    assert again.fingerprint() == first.fingerprint() and again.fit() == first.fit()
    with pytest.raises(AssertionError, match="trained again"):
        SyntheticDigits(**QUICK, vae_seed=1).fingerprint()


@pytest.mark.parametrize("damage", ["half", "weights", "shape", "fit"])
def test_a_damaged_decoder_is_trained_again(empty, monkeypatch, caplog, damage):
    task = SyntheticDigits(**QUICK)
    expected = task.fingerprint()
    (path,) = empty.glob("*.safetensors")
    if damage == "half":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        tensors, meta = load_checkpoint(path)
        if damage == "weights":
            tensors["0.bias"] = tensors["0.bias"] + 1
        if damage == "shape":
            tensors["0.bias"] = tensors["0.bias"][:7]
            meta["sha256"] = decoder_store.weight_digest(tensors)
        if damage == "fit":
            del meta["fit"]
        save_checkpoint(path, tensors, meta)
    monkeypatch.setattr(decoder_store._STORE, "_recent", OrderedDict())
    with caplog.at_level(logging.WARNING):
        assert SyntheticDigits(**QUICK).fingerprint() == expected
    assert "trained again" in caplog.text
    _, meta = load_checkpoint(path)
    assert meta["sha256"].startswith(expected)


def test_a_place_that_cannot_be_written_to_is_no_failure(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("not a folder", "utf-8")
    monkeypatch.setenv("FLOWZOO_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(decoder_store._STORE, "_recent", OrderedDict())
    with caplog.at_level(logging.WARNING):
        assert SyntheticDigits(**QUICK).splits(0).train.shape == (60, 64)
    assert "cannot be kept" in caplog.text


def test_images_that_are_not_here_are_named_before_anything_is_trained(empty, monkeypatch):
    def nowhere(*_, **__):
        raise DataNotFoundError("mnist: not on this machine")

    monkeypatch.setattr("flowzoo_bench.tasks.mnist._verified", nowhere)
    task = SyntheticDigits(source="mnist", **SMALL)  # says what it is all the same
    assert (task.shape, task.features, task.dimension) == ((1, 28, 28), 784, 5)
    with pytest.raises(DataNotFoundError, match="mnist"):
        task.fingerprint()


# -- the task -------------------------------------------------------------------------------------


def test_rows_are_images_of_gaussian_codes(cache):
    task = SyntheticDigits(**{**SMALL, "num_train": 4000}, epochs=1)
    splits = task.splits(3)
    assert isinstance(splits, Splits) and [len(x) for x in splits] == [4000, 20, 20]
    x = torch.cat(splits)
    assert x.dtype == torch.float64 and 0 <= float(x.min()) <= float(x.max()) <= 1
    assert task.shape == (1, 8, 8) and task.labels(0) is None
    # the mean image is that of codes drawn another way
    z = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0)).double()
    spread = x.std(dim=0) / 4000**0.5
    assert ((task.place(z).mean(dim=0) - x.mean(dim=0)).abs() < 6 * 2**0.5 * spread).all()
    with pytest.raises(TypeError, match="density"):
        task.log_prob(x)
    with pytest.raises(TypeError, match="support"):
        task.distance(x)
    with pytest.raises(ValueError, match=r"z: expected shape \(N, 5\)"):
        task.place(x)


def test_local_deviations_are_those_of_finite_differences(cache):
    task = SyntheticDigits(**QUICK)
    found = task.local_deviations(num=3, seed=4)
    assert found.shape == (3, 5) and (found[:, :-1] >= found[:, 1:]).all()
    import numpy as np

    z = torch.as_tensor(np.random.default_rng(4).standard_normal((3, 5)))
    steps = 1e-6 * torch.eye(5).double()
    columns = torch.stack(
        [(task.place(z + step) - task.place(z - step)) / 2e-6 for step in steps], dim=2
    )
    torch.testing.assert_close(found, torch.linalg.svdvals(columns), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dimension", [5, 10])
def test_trained_images_have_the_rank_of_their_codes(cache, dimension):
    task = SyntheticDigits(dimension=dimension, epochs=10, learning_rate=3e-3, **SMALL)
    found = task.local_deviations()
    assert (found[:, -1] > 1e-2 * found[:, 0]).all()  # everywhere, far above rounding
    assert task.active_dimensions(scale=0.01) == task.dimension == dimension
    assert task.active_dimensions(scale=100.0) == 0
    assert min(task.fit().kl) > 0.3  # every code is used
    assert task.fit().loss < 0.6 * task.fit().first


def test_the_papers_sigma_prunes_codes_on_few_pixels(cache):
    task = SyntheticDigits(dimension=10, epochs=15, learning_rate=3e-3, sigma=0.3, **SMALL)
    assert task.settings.sigma == 0.3
    assert 3 <= task.active_dimensions(0.1) < 10
    assert sum(kl < 0.1 for kl in task.fit().kl) >= 3


def test_models_see_rows_as_they_are(cache):
    task = SyntheticDigits(dimension=5, epochs=10, learning_rate=3e-3, **SMALL)
    assert task.standardize is False
    scale = Standardizer.fit(task.splits(0).train).scale
    assert float(scale.max()) > 20 * float(scale.min())  # what scaling would blow up


def test_defaults_weigh_an_image_as_the_paper_does():
    assert SyntheticDigits(source="mnist").settings.sigma == 0.3
    digits = SyntheticDigits().settings
    assert digits.sigma == pytest.approx(0.3 * 8 / 28)
    assert SyntheticDigits(sigma=0.2, epochs=7).settings.epochs == 7
    names = {
        SyntheticDigits(**options).settings.name
        for options in ({}, {"dimension": 6}, {"vae_seed": 1}, {"epochs": 3}, {"sigma": 0.1})
    }
    assert len(names) == 5
    assert SyntheticDigits(num_train=7).settings == digits  # sizes share a decoder


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"source": "letters"}, "source"),
        ({"dimension": 0}, "dimension"),
        ({"dimension": 65}, "dimension"),
        ({"epochs": -1}, "epochs"),
        ({"epochs": 2.5}, "epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"sigma": -1.0}, "sigma"),
        ({"vae_seed": -1}, "seed"),
        ({"num_test": 0}, "num_test"),
    ],
)
def test_bad_options(options, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        SyntheticDigits(**options)
