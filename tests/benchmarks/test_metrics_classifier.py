"""The feature network: trained alike for all, kept on disk, shared by processes."""

import fcntl
import logging
import threading
from collections import OrderedDict

import pytest
import torch
from safetensors import safe_open

from flowzoo.training.checkpoint import load_checkpoint, save_checkpoint
from flowzoo_bench.cache import cache_folder
from flowzoo_bench.metrics.features import store
from flowzoo_bench.metrics.features.classifier import ImageClassifier, fit_classifier
from flowzoo_bench.metrics.features.images import to_levels
from flowzoo_bench.metrics.features.store import stored_classifier, weight_hash

SHAPE = (2, 5, 4)


def images(rows=90, seed=0):
    """Three classes told apart by the brightness of a column."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    x = torch.randint(0, 4, (rows, *SHAPE), generator=generator)
    x[torch.arange(rows), :, :, labels] = 7
    return x.flatten(1).to(torch.uint8), labels


def same(a, b):
    ours, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, in memory and on disk."""
    monkeypatch.setenv("FLOWZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store._STORE, "_recent", OrderedDict())
    return tmp_path / "cache" / "classifiers"


def test_training_depends_on_the_images_alone_and_leaves_the_generator_alone():
    x, labels = images()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fit_classifier(x, labels, SHAPE, 8)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            second = fit_classifier(x, labels, SHAPE, 8)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(first, second) and weight_hash(first) == weight_hash(second)
    assert not first.training and not any(p.requires_grad for p in first.parameters())
    other = fit_classifier(images(seed=1)[0], labels, SHAPE, 8)
    assert weight_hash(other) != weight_hash(first)
    fresh, truth = images(seed=2)
    assert float((first(fresh / 7.0).argmax(dim=1) == truth).float().mean()) > 0.9
    assert first.features(fresh / 7.0).shape == (90, 64)
    # rows in eval mode do not see each other
    assert torch.allclose(first(fresh / 7.0)[:4], first(fresh[:4] / 7.0), atol=1e-5)


def test_bad_images_are_named():
    x, labels = images()
    with pytest.raises(ValueError, match="levels: expected at least 2 images"):
        fit_classifier(x[:1], labels[:1], SHAPE, 8)
    with pytest.raises(ValueError, match="classes: expected at least 2, got 1"):
        fit_classifier(x, 0 * labels, SHAPE, 8)
    with pytest.raises(ValueError, match="shape: expected"):
        ImageClassifier((1, 3, 8), 2)


def test_levels_lose_the_noise_and_the_overshoot():
    x = torch.tensor([[0.0, 0.999, 7.0, 7.999], [-3.0, 8.2, torch.nan, torch.inf]]).double()
    got = to_levels(x, 8)
    assert got[0].tolist() == [0, 0, 7, 7] and got[1, :2].tolist() == [0, 7]
    assert bool(got[1, 2:].isnan().all())


def test_it_is_trained_once_and_read_back_as_it_was(folder, monkeypatch):
    x, labels = images()
    network = stored_classifier(x, labels, SHAPE, 8)
    (path,) = folder.glob("*.safetensors")
    with safe_open(path, "pt") as file:
        assert '"classes": 3' in file.metadata()["flowzoo"]

    def refuse(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(store, "fit_classifier", refuse)
    assert stored_classifier(x, labels, SHAPE, 8) is network
    store._STORE._recent.clear()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    again = stored_classifier(x, labels, SHAPE, 8)
    assert torch.equal(before, torch.get_rng_state())
    assert again is not network and same(again, network) and not again.training
    assert torch.equal(again(x / 7.0), network(x / 7.0))
    # anything else is another classifier
    others = [
        (x.flip(0), labels, SHAPE, 8),
        (x, labels.flip(0), SHAPE, 8),
        (x, labels, (2, 4, 5), 8),
        (x, labels, SHAPE, 16),
        (x[:-1], labels[:-1], SHAPE, 8),
    ]
    for arguments in others:
        with pytest.raises(AssertionError, match="trained again"):
            stored_classifier(*arguments)
    monkeypatch.setattr(store, "RECIPE", -1)
    with pytest.raises(AssertionError, match="trained again"):
        stored_classifier(x, labels, SHAPE, 8)


def test_a_damaged_file_is_replaced(folder, caplog):
    x, labels = images()
    network = stored_classifier(x, labels, SHAPE, 8)
    (path,) = folder.glob("*.safetensors")
    good = path.read_bytes()
    path.write_bytes(good[:100])
    store._STORE._recent.clear()
    with caplog.at_level(logging.WARNING):
        assert same(stored_classifier(x, labels, SHAPE, 8), network)
    assert "cannot be read and is trained again" in caplog.text
    assert path.read_bytes() == good


def test_weights_that_changed_on_disk_are_not_used(folder, caplog, monkeypatch):
    x, labels = images(30)
    network = stored_classifier(x, labels, SHAPE, 8)
    (path,) = folder.glob("*.safetensors")
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[-3] ^= 0x40  # a number among the weights: the file is whole and of the right form
    other, meta = load_checkpoint(path)
    other["head.bias"] += 1.0
    meta.pop("sha256")
    save_checkpoint(path, other, meta)
    monkeypatch.setattr(store, "fit_classifier", lambda *given: network)  # the same again
    for content in (path.read_bytes(), bytes(flipped)):
        path.write_bytes(content)
        store._STORE._recent.clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert same(stored_classifier(x, labels, SHAPE, 8), network)
        assert "the weights are not those that were kept" in caplog.text
        assert path.read_bytes() == good


def test_where_nothing_can_be_kept_it_still_works(folder, caplog):
    folder.parent.write_text("a file where the folder should be", encoding="utf-8")
    x, labels = images()
    with caplog.at_level(logging.WARNING):
        network = stored_classifier(x, labels, SHAPE, 8)
    assert weight_hash(network) == weight_hash(fit_classifier(x, labels, SHAPE, 8))
    assert "cannot lock" in caplog.text and "cannot be kept" in caplog.text


def test_others_wait_for_the_one_that_trains(folder):
    x, labels = images()
    network = stored_classifier(x, labels, SHAPE, 8)
    (path,) = folder.glob("*.safetensors")
    content = path.read_bytes()
    path.unlink()
    store._STORE._recent.clear()
    found = []
    with path.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(
            target=lambda: found.append(stored_classifier(x, labels, SHAPE, 8)), daemon=True
        )
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive() and not found and not path.exists()
        path.write_bytes(content)  # what the other one has trained
        inode = path.stat().st_ino
    waiting.join(60)
    assert same(found[0], network) and path.stat().st_ino == inode


def test_the_cache_folder_is_the_variable_or_the_platforms(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWZOO_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("FLOWZOO_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder().name == "flowzoo"
