"""Where the data set is looked for, and which may lie there."""

from pathlib import Path

import pytest

from pipeline import datasets
from pipeline.datasets import find_dataset, load_dataset
from pipeline.drawn import draw_dataset
from pipeline.errors import UsageError
from pipeline.idx import IDX_FILES

TRAIN_IMAGES = IDX_FILES[0].name
NOWHERE = {"XDG_CACHE_HOME": "/nonexistent"}


def test_named_folders_come_first(tmp_path, drawn_data):
    environ = {**NOWHERE, "FASHION_MNIST_DIR": str(tmp_path)}
    assert find_dataset(drawn_data, environ) == drawn_data
    assert find_dataset(None, environ) == tmp_path


def test_a_named_folder_that_is_missing_is_refused(tmp_path):
    missing = tmp_path / "gone"
    with pytest.raises(UsageError, match=r"gone \(--data-dir\) does not exist"):
        find_dataset(missing, NOWHERE)
    with pytest.raises(UsageError, match=r"gone \(FASHION_MNIST_DIR\) does not exist"):
        find_dataset(None, {**NOWHERE, "FASHION_MNIST_DIR": str(missing)})
    missing.write_text("a file")
    with pytest.raises(UsageError, match=r"gone \(--data-dir\) is not a folder"):
        find_dataset(missing, NOWHERE)


def test_the_cache_comes_before_debian(tmp_path, drawn_data, monkeypatch):
    environ = {"XDG_CACHE_HOME": str(tmp_path), "FASHION_MNIST_DIR": ""}
    cache = datasets.cache_dir(environ)
    monkeypatch.setattr(datasets, "DEBIAN_DIR", drawn_data)
    cache.mkdir(parents=True)
    (cache / TRAIN_IMAGES).write_bytes(b"a part of the set does not count")
    assert find_dataset(None, environ) == drawn_data
    draw_dataset(cache, 20, 10)
    assert find_dataset(None, environ) == cache


def test_no_data_set_anywhere_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DEBIAN_DIR", tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"run `python scripts/fetch_data\.py`, or name a folder"):
        find_dataset(None, NOWHERE)


def test_only_fashion_mnist_may_lie_in_the_cache_and_in_debians_folder(
    tmp_path, drawn_data, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    draw_dataset(datasets.cache_dir(), 20, 10)
    remedy = r"is not Fashion-MNIST's .*; run `python scripts/fetch_data\.py` to replace it"
    with pytest.raises(UsageError, match=f"{TRAIN_IMAGES} {remedy}"):
        load_dataset(datasets.cache_dir())
    monkeypatch.setattr(datasets, "DEBIAN_DIR", drawn_data)
    with pytest.raises(UsageError, match="reinstall Debian's package"):
        load_dataset(drawn_data)


def test_a_set_that_keras_or_torchvision_has_loaded_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "DEBIAN_DIR", tmp_path / "nothing")
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    keras = tmp_path / ".keras" / "datasets" / "fashion-mnist"
    draw_dataset(keras, 20, 10)
    assert find_dataset(None, environ) == keras
    draw_dataset(tmp_path / "data" / "FashionMNIST" / "raw", 20, 10)
    assert find_dataset(None, environ) == Path("data/FashionMNIST/raw")
