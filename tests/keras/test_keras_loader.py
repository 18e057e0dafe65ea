"""Keras reads the same files to exactly the same arrays."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets import Dataset, load_dataset
from tests.programs import run_python

# Keras reads its home folder when it is first imported, so it gets a process of its own.
LOAD = """
import sys
import numpy as np
from keras.datasets import fashion_mnist
train, test = fashion_mnist.load_data()
np.savez(sys.argv[1], train_images=train[0], train_labels=train[1],
         test_images=test[0], test_labels=test[1])
"""


@pytest.fixture(scope="module")
def ours(real_data: Path) -> Dataset:
    return load_dataset(real_data)


@pytest.fixture(scope="module")
def keras_home(packed_data: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder of Keras whose cache holds the four packed files; nothing is downloaded."""
    home = tmp_path_factory.mktemp("keras-home")
    cache = home / "datasets" / "fashion-mnist"
    cache.mkdir(parents=True)
    for name, content in packed_data.items():
        (cache / f"{name}.gz").write_bytes(content)
    return home


@pytest.fixture(scope="module")
def theirs(keras_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    answer = tmp_path_factory.mktemp("answer") / "keras.npz"
    environ = {"KERAS_HOME": str(keras_home), "KERAS_BACKEND": "tensorflow"}
    run_python("-c", LOAD, answer, env=environ, check=True)
    with np.load(answer, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("part", ["train_images", "train_labels", "test_images", "test_labels"])
def test_keras_reads_the_same(part: str, ours: Dataset, theirs: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(theirs[part], getattr(ours, part), strict=True)


def test_a_swapped_label_would_be_seen(ours: Dataset, theirs: dict[str, np.ndarray]) -> None:
    planted = theirs["test_labels"].copy()
    planted[-1] ^= 1
    with pytest.raises(AssertionError, match="Mismatched elements: 1 /"):
        np.testing.assert_array_equal(planted, ours.test_labels)
